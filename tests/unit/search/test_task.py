import pytest

from planted import PlantedProblem, Problem
from secateur.errors import SecateurError
from secateur.search.task import Found, ranked
from secateur.space.architecture import Architecture


def measurements(*losses):
    """One measurement per loss, None for one that failed, each of another architecture."""
    problem = Problem(lambda architecture: losses[architecture.widths[0]])
    return [problem.measurement(Architecture.from_widths((number, 8))) for number in range(len(losses))]


def test_the_lowest_comes_first_and_what_failed_not_at_all():
    low, failed, high, middle = measured = measurements(0.1, None, 3.0, 2.0)
    assert ranked(measured) == [low, middle, high]
    assert failed not in ranked(measured)


def test_equal_losses_are_ranked_alike_in_whatever_order_they_were_measured():
    measured = measurements(1.0, 1.0, 1.0)
    assert ranked(measured) == ranked(measured[::-1])


def test_a_candidate_says_where_it_came_from_and_how_much_is_gone():
    problem = PlantedProblem(0)
    levels = problem.space.levels(problem.planted)
    candidate = problem.task().candidate(levels, "sampled", 3)
    kept = problem.space.decoder_parameters(levels) / problem.space.shape.decoder_parameters
    assert candidate.architecture == problem.planted
    assert (candidate.origin, candidate.round) == ("sampled", 3)
    assert candidate.parameter_reduction == pytest.approx(1 - kept)


def test_probes_count_as_measurements_but_are_never_finalists():
    first, second, probe = measurements(0.2, 0.1, 0.01)
    found = Found([first, second], ranked([first, second]), probes=[probe])
    assert found.num_measurements == 3
    assert found.best == second


def test_a_search_of_which_everything_failed_says_why():
    """One line for the user, and no IndexError."""
    found = Found(measurements(None, None), [])
    with pytest.raises(SecateurError, match="kl=nan"):
        _ = found.best
