"""The search for several objectives, on problems whose front is known."""

from functools import cache

import numpy as np
import pytest

from planted import BUDGET, SHAPE, SPACE, Problem
from secateur.errors import SecateurError
from secateur.search.front import choose_batch, search_front
from secateur.search.nsga import optimise, slices
from secateur.search.objectives import Objectives
from secateur.search.pareto import pareto_front
from secateur.space.cost import COSTS, Budget
from secateur.space.sampling import sample_architectures

DENSE = {"early": 1.0, "late": 2.0}
GROUPS = Objectives(("quality", "disparity"), DENSE, "least_disparity", 0.02)
# Of the attention modules of 4 layers: one group needs the first two layers, the other the last two.
NEEDS = np.array([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.6, 0.6]])


def log_ratios(architecture):
    return NEEDS @ (1 - np.array(architecture.kept_ratios(SHAPE))[::2]) + 0.05


def losses(architecture):
    early, late = log_ratios(architecture)
    return {"loss early": 1.0 + float(early), "loss late": 2.0 + float(late)}


def problem(budget=BUDGET):
    return Problem(lambda architecture: float(log_ratios(architecture).mean()), budget=budget, targets_of=losses)


@pytest.fixture(autouse=True, scope="module")
def short_searches():
    """What NSGA-II gains after a few generations is for the test that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secateur.search.nsga.GENERATIONS", 8)
        yield


@cache
def searched():
    planted = problem()
    task = planted.task(objectives=GROUPS, num_measurements=60, num_rounds=2, predictor="gaussian_process")
    return planted, search_front(task)


def values_of(measurements, wanted=GROUPS):
    return np.array([list(wanted.measured(each, SHAPE).values()) for each in measurements])


def test_nsga2_finds_both_ends_of_a_known_front_and_what_is_between(monkeypatch):
    """Two objectives that pull at different modules: mean FFN width kept early and late, the same sum everywhere."""

    def predicted(levels):
        kept = levels / np.array([len(options) - 1 for options in SPACE.options])
        return np.column_stack([1 - kept[:, [1, 3]].mean(1), 1 - kept[:, [5, 7]].mean(1)])

    monkeypatch.setattr("secateur.search.nsga.GENERATIONS", 20)
    seen = optimise(SPACE, BUDGET, predicted, [], seed=0, sliced=False)
    assert all(BUDGET.admits(SPACE.decoder_parameters(levels)) for levels in seen)
    front = np.array(list(seen.values()))
    front = front[pareto_front(front)]
    # Attention may go altogether, so both ends can be had at once: nothing is lost in either.
    np.testing.assert_allclose(front.min(0), [0, 0], atol=0.13)
    by_chance = [predicted(np.array([SPACE.levels(a)]))[0] for a in sample_architectures(SPACE, BUDGET, len(seen), 1)]
    assert front.sum(1).min() < 0.6 * np.sum(by_chance, axis=1).min()


def test_a_slice_is_narrow_and_slices_cover_the_range_from_its_ceiling_down():
    wide = Budget.of_decoder_parameters(BUDGET.ceiling, BUDGET.ceiling // 2)
    cut = slices(SPACE, wide)
    assert cut[0].ceiling == wide.ceiling
    assert cut[-1].floor == wide.floor
    assert all(wide.floor <= each.floor < each.ceiling <= wide.ceiling for each in cut)
    assert all(
        each.ceiling - each.floor <= max(SPACE.smallest_step(COSTS["decoder_parameters"]), 0.01 * wide.ceiling)
        for each in cut
    )


def test_every_measurement_is_spent_once_inside_the_band():
    planted, found = searched()
    assert len(planted.measured) == len(set(planted.measured)) == found.num_measurements == 60
    assert all(planted.admits(measurement.architecture) for measurement in found.measurements)


def test_the_measured_front_is_far_ahead_of_as_many_random_draws():
    _, found = searched()
    values = values_of(found.measurements)
    drawn = problem().measure([problem().task().candidate(SPACE.levels(a), "sampled")
                               for a in sample_architectures(SPACE, BUDGET, 60, seed=9)])  # fmt: skip
    chance = values_of(drawn)
    assert values[:, 0].min() < 0.7 * chance[:, 0].min()
    beaten = [(values <= point).all(1).any() for point in chance]
    assert np.mean(beaten) > 0.9


def test_the_finalist_is_the_least_disparity_at_its_price():
    _, found = searched()
    assert len(found.finalists) == 1
    values = values_of(found.measurements)
    quality, disparity = values_of(found.finalists)[0]
    allowed = values[values[:, 0] <= values[:, 0].min() + np.log(1.02)]
    assert disparity == allowed[:, 1].min()
    assert quality <= values[:, 0].min() + np.log(1.02)


@pytest.mark.parametrize("count", [1, 2, 8, 20])
def test_a_batch_looks_around_the_price(count):
    """Predicted disparity falls as quality gets worse, so that each price has one architecture that is best there."""
    planted = problem()
    task = planted.task(objectives=GROUPS)
    drawn = [SPACE.levels(a) for a in sample_architectures(SPACE, BUDGET, 120, seed=3)]
    losses = np.linspace(0.30, 0.50, len(drawn))
    predicted = {levels: (float(x), float(1 - x)) for levels, x in zip(drawn, losses, strict=True)}
    measured = planted.measure([task.candidate(drawn[0], "sampled")])
    batch = choose_batch(task, predicted, measured, count)
    assert len(batch) == len(set(batch)) == count
    if count >= 8:
        best = min(GROUPS.measured(measured[0], SHAPE)["quality"], losses[0])
        chosen = np.array([predicted[levels][0] for levels in batch]) - best
        near = (chosen >= 0.4 * np.log1p(0.02)) & (chosen <= 1.25 * np.log1p(0.02))
        assert near.sum() >= count // 4
        assert chosen.max() > 0.1, "and the rest is spread over the whole front"


def test_rounds_tell_of_every_predictor_and_the_weakest_speaks_for_them():
    _, found = searched()
    for record in found.rounds:
        assert set(record.targets) == set(DENSE)
        assert record.quality.kendall_tau == min(each.kendall_tau for each in record.targets.values())


def test_with_a_cost_the_front_reaches_from_the_budget_down_to_the_floor():
    wide = Budget.of_decoder_parameters(BUDGET.ceiling, BUDGET.ceiling // 2)
    wanted = Objectives(("quality", "decoder_parameters"), choose="knee")
    planted = problem(wide)
    found = search_front(
        planted.task(objectives=wanted, num_measurements=60, num_rounds=1, predictor="gaussian_process")
    )
    assert all(planted.admits(measurement.architecture) for measurement in found.measurements)
    values = values_of(found.measurements, wanted)
    front = values[pareto_front(values)]
    span = wide.ceiling - wide.floor
    assert front[:, 1].min() < wide.floor + 0.1 * span
    assert front[:, 1].max() > wide.floor + 0.3 * span
    assert len(front) >= 5
    assert found.finalists[0].architecture.key in planted.measured


def test_after_a_reconstruction_the_front_is_among_what_was_measured_after_it():
    planted, after = problem(), problem()
    task = planted.task(
        objectives=GROUPS,
        num_measurements=60,
        measure_reconstructed=after.measure,
        reconstructed_share=0.5,
        num_rounds=1,
    )
    found = search_front(task)
    assert found.reconstructed
    assert len(planted.measured) == len(found.probes) == 30
    assert len(after.measured) == len(found.measurements) == 30
    assert found.finalists[0] in found.measurements
    assert {candidate.origin for candidate in after.batches[0]} == {"ranking"}


def test_the_same_seed_proposes_the_same_and_another_does_not():
    one, two, other = problem(), problem(), problem()
    for planted, seed in ((one, 5), (two, 5), (other, 6)):
        settings = {"num_measurements": 30, "num_rounds": 1, "predictor": "gaussian_process"}
        search_front(planted.task(objectives=GROUPS, seed=seed, **settings))
    assert one.batches == two.batches
    assert set(one.measured) != set(other.measured)


def test_too_many_failures_are_an_error_that_says_why():
    with pytest.raises(SecateurError, match=r"only 0 of 25 measurements succeeded.*not finite"):
        search_front(Problem(lambda _: None).task(objectives=GROUPS, num_measurements=30))
