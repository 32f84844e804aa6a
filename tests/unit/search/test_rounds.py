import pytest

from secateur.errors import SecateurError
from secateur.search.rounds import ranked, search_rounds
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement
from secateur.space.cost import Budget
from secateur.space.search_space import define_space


def measurement(architecture, kl):
    status = (
        {"status": "measured", "kl": kl, "loss": kl} if kl is not None else {"status": "failed", "reason": "kl=nan"}
    )
    return Measurement(architecture=architecture, protocol="p", seconds=0.0, **status)


def search(space, budget, kl_of, num_measurements=30, num_rounds=1, end_round=lambda _record: None):
    errors = [{width: (1 - width / options[-1]) for width in options} for options in space.options]
    return search_rounds(
        space,
        budget,
        errors,
        lambda batch: [measurement(candidate.architecture, kl_of(candidate.architecture)) for candidate in batch],
        num_measurements,
        num_rounds,
        0.6,
        seed=0,
        end_round=end_round,
    )


def smooth(architecture):
    return 2.0 - sum(architecture.widths) / 200


@pytest.fixture(scope="module")
def space(prepared):
    return define_space(prepared.dense.shape, 9, 5)


@pytest.fixture(scope="module")
def budget(space):
    return Budget.from_keep(space.shape, 0.6, 0.03)


def test_the_best_is_the_lowest_of_all_measurements(space, budget):
    found = search(space, budget, smooth)
    assert found.best.kl == min(m.kl for m in found.measurements) == found.rounds[-1].best_kl


def test_every_round_is_recorded_as_it_ends(space, budget):
    told = []
    found = search(space, budget, smooth, num_rounds=3, end_round=told.append)
    assert tuple(told) == found.rounds
    assert [record.round for record in found.rounds] == [1, 2, 3]


def test_equal_measurements_are_ranked_by_key_and_failed_ones_not_at_all():
    architectures = [Architecture.from_widths((width, 8)) for width in range(4)]
    measured = [measurement(architecture, 1.0) for architecture in architectures[:3]] + [
        measurement(architectures[3], None)
    ]
    assert ranked(measured) == ranked(measured[::-1])
    assert len(ranked(measured)) == 3


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


def test_a_failed_architecture_is_not_proposed_again(space, budget):
    calls = []

    def measured(architecture):
        calls.append(architecture.key)
        return None if len(calls) % 4 == 0 else smooth(architecture)

    found = search(space, budget, measured, num_measurements=80, num_rounds=3)
    assert len(set(calls)) == len(calls) == len(found.measurements)
