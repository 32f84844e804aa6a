"""The search that is free in size, on a loss whose smallest architecture within a limit is known."""

from functools import cache

import numpy as np
import pytest

from planted import BUDGET, SHAPE, SPACE, Problem
from secateur.search.sizes import SizeAxis, open_budget
from secateur.search.smallest import BOUND, search_smallest
from secateur.search.verification import Verification
from secateur.space.cost import COSTS

LIMIT = 0.3
NUM_MEASUREMENTS = 80
# What a module loses when it goes whole; all are of one size.
PRICES = np.geomspace(0.04, 1.5, SPACE.num_modules)[[3, 6, 0, 5, 2, 7, 1, 4]]
# One level of one module, as a share of the whole.
STEP = 1 / (8 * SPACE.num_modules)
AXIS = SizeAxis.of(SPACE, open_budget(SPACE, "decoder_parameters", {}))


def loss(architecture):
    return float(PRICES @ (1 - np.array(architecture.kept_ratios(SHAPE))))


class Sized(Problem):
    """Measures the bound of a drop beside the KL, both the same; `fails` says for which it does not."""

    def __init__(self, loss_of=loss, fails=lambda _architecture: False):
        super().__init__(lambda architecture: None if fails(architecture) else loss_of(architecture), budget=BUDGET)
        self.targets_of = lambda architecture: {BOUND: loss_of(architecture)}

    def search(self, **changes):
        settings = {"predictor": "gaussian_process", "num_measurements": NUM_MEASUREMENTS}
        return search_smallest(self.task(**(settings | changes)), AXIS, LIMIT)


def smallest_within(limit):
    """Give the share that is left when the cheapest modules go first, which is the best there is."""
    left, spent = 1.0, 0.0
    for price in sorted(PRICES):
        levels = min(8, int((limit - spent) / (price / 8) + 1e-9))
        left, spent = left - levels * STEP, spent + levels * price / 8
    return left


@cache
def searched():
    problem = Sized()
    return problem, problem.search()


def test_the_smallest_that_holds_is_found_up_to_a_step():
    _, found = searched()
    best = found.finalists[0]
    assert loss(best.architecture) <= LIMIT
    share = AXIS.share(SPACE.levels(best.architecture))
    assert smallest_within(LIMIT) - 1e-3 <= share <= smallest_within(LIMIT) + 1.5 * STEP


def test_what_the_probe_alone_would_have_given_is_larger():
    problem, found = searched()
    probed = {c.architecture.key for c in problem.candidates if c.origin == "additive"}
    shares = [each.share for each in found.prospects if each.architecture.key in probed and each.searched <= LIMIT]
    assert min(shares) > AXIS.share(SPACE.levels(found.finalists[0].architecture)) + 2 * STEP


def test_no_more_is_measured_than_was_allowed_and_nothing_twice():
    problem, found = searched()
    assert len(problem.measured) == len(set(problem.measured)) == found.num_measurements == NUM_MEASUREMENTS


def test_everything_measured_is_a_prospect_with_what_was_said_of_it_before():
    problem, found = searched()
    prospects = {each.architecture.key: each for each in found.prospects}
    assert set(prospects) == set(problem.measured)
    by_predictor = {
        c.architecture.key for c in problem.candidates if c.origin in ("pessimistic", "predicted", "beyond")
    }
    assert len(by_predictor) > NUM_MEASUREMENTS / 3
    assert all((prospects[key].predicted is not None) == (key in by_predictor) for key in prospects)
    for key in by_predictor:
        said = prospects[key].predicted
        assert said.low <= said.drop <= said.high
    pessimistic = [prospects[c.architecture.key] for c in problem.candidates if c.origin == "pessimistic"]
    assert np.mean([each.searched <= LIMIT for each in pessimistic]) > 0.7


def test_it_is_a_function_of_the_measurements_and_the_seed():
    one, other = Sized(), Sized()
    for problem in (one, other):
        problem.search(num_measurements=32, num_rounds=1)
    assert one.measured == other.measured


def test_failed_measurements_are_learned_from_by_nobody_and_are_no_prospects():
    problem = Sized(fails=lambda architecture: int(architecture.key, 16) % 4 == 0)
    found = problem.search(num_measurements=32, num_rounds=1)
    failed = [m for m in found.measurements if m.status == "failed"]
    assert failed
    assert not {m.architecture.key for m in failed} & {each.architecture.key for each in found.prospects}


def test_without_a_predictor_to_trust_neighbours_of_the_best_are_measured():
    noise = Sized(lambda architecture: float(np.random.default_rng(int(architecture.key, 16)).lognormal()))
    found = noise.search(num_measurements=32, num_rounds=1)
    assert any(record.fell_back for record in found.rounds)
    assert any(c.origin == "offspring" for c in noise.candidates)


@pytest.mark.slow
def test_what_a_made_model_loses_more_than_was_measured_is_kept_away_from_the_limit():
    """One probe is made; it loses half as much again, so that two thirds of the limit are looked for."""
    asked = []

    def verify(prospect, measurement):
        asked.append(measurement)
        bound = 1.5 * prospect.searched
        return Verification(prospect=prospect, drop=bound, bound=bound, held=bound <= LIMIT)

    problem = Sized()
    found = search_smallest(problem.task(num_measurements=60, predictor="gaussian_process"), AXIS, LIMIT, verify)
    assert len(asked) == 1
    assert found.reconstructed
    best = found.finalists[0]
    assert loss(best.architecture) <= LIMIT / 1.5
    wanted = smallest_within(LIMIT / 1.5)
    assert wanted - 1e-3 <= AXIS.share(SPACE.levels(best.architecture)) <= wanted + 2.5 * STEP


class TestSizes:
    def test_the_dense_model_has_all_of_it_and_a_band_ends_at_its_share(self):
        dense = tuple(len(options) - 1 for options in SPACE.options)
        assert AXIS.share(dense) == 1
        limit = AXIS.band(0.6).limits[0]
        assert limit.ceiling == pytest.approx(0.6 * SHAPE.decoder_parameters, abs=1)
        assert limit.floor < limit.ceiling
        assert AXIS.shares(np.array([dense, (0,) * 8])).tolist() == [1, 0]

    def test_another_cost_may_be_what_is_made_small_and_others_are_ceilings(self):
        space_budget = open_budget(SPACE, "kv_cache_bytes_per_token", {"total_parameters": 200_000})
        axis = SizeAxis.of(SPACE, space_budget)
        assert axis.cost is COSTS["kv_cache_bytes_per_token"]
        narrow_mlps = tuple(8 if module % 2 == 0 else 2 for module in range(8))
        assert axis.share(narrow_mlps) == 1
        assert axis.allows(narrow_mlps)
        assert not axis.allows((8,) * 8)
        assert [limit.cost.name for limit in axis.band(0.5).limits] == ["kv_cache_bytes_per_token", "total_parameters"]
