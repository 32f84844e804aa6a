from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from planted import Problem
from secateur.errors import SecateurError
from secateur.search import one_round
from secateur.search.rounds import num_to_reconstruct, search_rounds
from secateur.search.task import ranked
from secateur.space.cost import Budget
from secateur.space.search_space import define_space
from secateur.space.smaller_space import Choice, Removed


def search(space, budget, kl_of, num_measurements=30, num_rounds=1, end_round=lambda _record: None):
    return search_rounds(
        Problem(kl_of, space, budget).task(
            num_measurements=num_measurements, num_rounds=num_rounds, initial_share=0.6, end_round=end_round
        )
    )


def smooth(architecture):
    return 2.0 - sum(architecture.widths) / 200


@pytest.fixture(scope="module")
def space(prepared):
    return define_space(prepared.dense.shape, 9, 5)


@pytest.fixture(scope="module")
def budget(space):
    return Budget.from_keep(space.shape, 0.6, 0.05)


def test_the_best_is_the_lowest_of_all_measurements(space, budget):
    found = search(space, budget, smooth)
    assert found.best.kl == min(m.kl for m in found.measurements) == found.rounds[-1].best_kl


def test_every_round_is_recorded_as_it_ends(space, budget):
    told = []
    found = search(space, budget, smooth, num_rounds=3, end_round=told.append)
    assert tuple(told) == found.rounds
    assert [record.round for record in found.rounds] == [1, 2, 3]


def test_a_few_failures_are_borne(space, budget):
    found = search(space, budget, lambda a: None if int(a.key, 16) % 8 == 0 else smooth(a), num_measurements=80)
    assert found.best.kl is not None
    assert any(m.status == "failed" for m in found.measurements)
    assert len(found.measurements) == 80


def test_one_failure_is_borne_even_where_few_are_measured_before_the_first_fit(space, budget):
    """Of 40 measurements, 25 come before the first fit; one that failed leaves 24."""
    seen = []

    def first_fails(architecture):
        seen.append(architecture)
        return None if len(seen) == 1 else smooth(architecture)

    assert search(space, budget, first_fails, num_measurements=40).best.kl is not None


def test_nothing_but_failures_says_why(space, budget):
    with pytest.raises(SecateurError, match=r"only 0 of 25 measurements succeeded.*kl=nan"):
        search(space, budget, lambda _architecture: None)


def test_a_band_that_holds_too_little_to_learn_from_says_so(prepared):
    space = define_space(prepared.dense.shape, 5, 5)
    with pytest.raises(SecateurError, match=r"only 1 of 1 measurements.*the budget band holds no more"):
        search(space, Budget.from_keep(space.shape, 1.0, 0.02), smooth)


def test_spent_measurements_are_judged_once_and_not_every_round_again(space, budget):
    found = search(space, budget, smooth, num_measurements=25, num_rounds=8)
    assert [record.quality.num_pairs for record in found.rounds] == [25]
    found = search(space, budget, smooth, num_measurements=28, num_rounds=8)
    assert [record.quality.num_pairs for record in found.rounds] == [25, 26, 27]


def test_a_failed_architecture_is_not_proposed_again(space, budget):
    calls = []

    def measured(architecture):
        calls.append(architecture.key)
        return None if len(calls) % 4 == 0 else smooth(architecture)

    found = search(space, budget, measured, num_measurements=80, num_rounds=3)
    assert len(set(calls)) == len(calls) == len(found.measurements)


@pytest.fixture(scope="module")
def search_both(space, budget):
    """Search with both kinds of measurement; gives the problem, what was found, and what was reconstructed when."""
    weights = np.random.default_rng(0).uniform(0.5, 3, size=space.num_modules)
    given_back = np.random.default_rng(1).uniform(0, 0.9, size=space.num_modules)

    def loss(architecture, weights):
        return 0.01 + float((weights * (1 - np.array(architecture.kept_ratios(space.shape)))).sum())

    @cache
    def search_both(num_measurements=100, share=0.5):
        sliced = Problem(lambda architecture: loss(architecture, weights), space, budget)
        reconstructed = Problem(lambda architecture: loss(architecture, weights * given_back), space, budget)
        task = sliced.task(
            num_measurements=num_measurements,
            num_rounds=2,
            measure_reconstructed=reconstructed.measure,
            reconstructed_share=share,
        )
        return sliced, search_rounds(task), reconstructed

    return search_both


class TestMeasuringAfterReconstruction:
    """Slices tell good from bad; how much of its loss an architecture gets back, only reconstructing it tells."""

    @pytest.mark.parametrize(
        ("num_measurements", "share", "expected"),
        [(100, 0.5, 50), (90, 0.3, 27), (90, 0.0, 0), (60, 0.1, 25), (60, 0.9, 35), (50, 0.6, 25), (49, 0.6, 0)],
    )
    def test_has_its_share_of_the_measurements(self, num_measurements, share, expected):
        both = {"measure_reconstructed": lambda _batch: [], "reconstructed_share": share}
        assert num_to_reconstruct(Problem(smooth).task(num_measurements=num_measurements, **both)) == expected

    def test_spends_its_share(self, search_both):
        sliced, found, reconstructed = search_both()
        assert len(sliced.measured) == len(reconstructed.measured) == 50
        assert found.num_measurements == 100

    def test_without_such_a_reconstruction_all_measurements_are_made_by_slices(self, space, budget):
        """The share is a setting of every run; a run without reconstruction must not lose it."""
        task = Problem(smooth, space, budget).task(num_measurements=100, num_rounds=1, reconstructed_share=0.4)
        assert len(search_rounds(task).measurements) == 100

    @pytest.mark.parametrize("num_measurements", [25, 49])
    def test_never_makes_more_measurements_than_were_allowed(self, search_both, num_measurements):
        """Where there are too few for two predictors."""
        assert search_both(num_measurements)[1].num_measurements <= num_measurements

    def test_only_what_was_reconstructed_can_be_chosen(self, search_both):
        _, found, reconstructed = search_both()
        assert {m.architecture.key for m in found.finalists} == set(reconstructed.measured)
        assert found.best.kl == min(reconstructed.kl_of(m.architecture) for m in found.measurements)

    def test_begins_with_architectures_from_all_over_the_ranking_and_its_best(self, search_both):
        _, found, reconstructed = search_both()
        ranking = [measurement.architecture for measurement in ranked(found.probes)]
        first = reconstructed.batches[0]
        places = [ranking.index(candidate.architecture) for candidate in first]
        assert {candidate.origin for candidate in first} == {"ranking"}
        assert len(set(places)) == len(places) == 25
        assert places[0] == 0
        assert max(places) > len(ranking) / 2
        assert np.median(places) < len(ranking) / 2, "more from the top"

    def test_nothing_is_measured_twice_in_the_same_way(self, search_both):
        sliced, _, reconstructed = search_both()
        for problem in (sliced, reconstructed):
            assert len(set(problem.measured)) == len(problem.measured)

    def test_rounds_of_both_kinds_are_numbered_on_and_told_apart(self, search_both):
        _, found, reconstructed = search_both()
        rounds = [(record.round, record.reconstructed) for record in found.rounds]
        assert rounds == [(1, False), (2, False), (3, True), (4, True)]
        assert found.rounds[2].quality.num_pairs == len(reconstructed.batches[0])

    def test_finds_what_is_better_than_what_slices_would_choose(self, search_both):
        _, found, reconstructed = search_both()
        assert found.best.kl < reconstructed.kl_of(ranked(found.probes)[0].architecture)

    def test_without_a_reconstruction_all_measurements_are_by_slices(self, space, budget):
        found = search(space, budget, smooth)
        assert found.probes == []
        assert not any(record.reconstructed for record in found.rounds)


class TestWhatARoundSays:
    def test_a_predictor_that_cannot_be_trusted_is_replaced_by_neighbours_of_the_best(self, space, budget):
        problem = Problem(noise, space, budget)
        found = search_rounds(problem.task(num_measurements=60, num_rounds=3, initial_share=0.6))
        assert [record.fell_back for record in found.rounds] == [True] * 3
        assert {c.origin for c in problem.candidates if c.round > 0} == {"offspring"}
        assert len(problem.measured) == len(set(problem.measured)) == 60

    def test_a_predictor_that_knows_something_is_used(self, space, budget):
        problem = Problem(smooth, space, budget)
        found = search_rounds(problem.task(num_measurements=60, num_rounds=3, initial_share=0.6))
        assert not any(record.fell_back for record in found.rounds)
        assert "offspring" not in {candidate.origin for candidate in problem.candidates}
        assert all(0 <= record.covered <= 1 for record in found.rounds)

    def test_it_ends_when_the_predictor_promises_next_to_nothing(self, space, budget):
        task = Problem(smooth, space, budget).task(num_measurements=60, num_rounds=3, initial_share=0.6)
        patient, hasty = (search_rounds(replace(task, least_improvement=least)) for least in (0.0, 0.9))
        assert patient.num_measurements == 60
        assert hasty.num_measurements == 36
        assert hasty.rounds[-1].promised < 0.9

    def test_sensitivities_are_measured_first_where_they_have_a_share(self, space, budget):
        problem = Problem(smooth, space, budget)
        found = search_rounds(problem.task(num_measurements=80, num_rounds=2, sensitivity_share=0.4))
        assert found.rounds[-1].quality.features == ("kept", "error", "error_sums", "sensitivity", "sensitivity_sums")
        assert found.rounds[-1].quality.kendall_tau_sensitivity_only > 0.5
        assert {candidate.origin for candidate in problem.batches[0]} >= {"uniform", "sensitivity"}
        assert found.num_measurements == len(problem.measured) == 80
        assert all(problem.admits(measurement.architecture) for measurement in found.measurements)

    def test_what_left_the_space_is_on_record_and_not_proposed_again(self, space, budget, monkeypatch):
        """Which choices harm is the shrinking's business; here one leaves after the first fit, whatever it does."""
        width = space.options[1][-2]
        choice = Choice.of(space, 1, len(space.options[1]) - 2)
        harm = Removed(**choice.model_dump(), order=1, mean_effect=0.3, low=0.1, num_samples=9, round=1)
        monkeypatch.setattr(
            one_round, "shrink", lambda *args: args[5] if args[5].removed else args[5].without(args[0], harm)
        )
        problem = Problem(smooth, space, budget)
        found = search_rounds(problem.task(num_measurements=90, num_rounds=3, initial_share=0.6, shrinks=True))
        assert [record.removed for record in found.rounds] == [(harm,), (), ()]
        widths = {
            origin: {c.architecture.widths[1] for c in problem.candidates if (c.round > 0) is origin}
            for origin in (False, True)
        }
        assert width in widths[False], "it was there before"
        assert width not in widths[True]


def noise(architecture):
    return float(np.random.default_rng(int(architecture.key, 16)).lognormal())
