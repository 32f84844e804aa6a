"""Shrink the search space: choices that harm at the budget leave, and it is written down which and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

from secateur.predictor.shapley import Score, module_interactions, module_shapley
from secateur.schema import derive_seed
from secateur.space.cost import Budget
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import SearchSpace
from secateur.space.smaller_space import Choice, Removed, SmallerSpace

# The guards.
MOST_REMOVED = 20  # per round, as GBDT-NAS-3S has it
FEWEST_OPTIONS = 2
FEWEST_MEASURED = 5  # with the level or one beside it
FEWEST_SAMPLES = 8  # drawn, with the level itself
LEAST_FEASIBLE = 0.2
BEST_SHARE = 0.1  # of the measured: what they use stays
ERROR_RATE = 0.05  # of a whole round: that anything leaves which does not harm
# How closely it looks.
NUM_DRAWN = 768
NUM_PERMUTATIONS = 4
NUM_INTERACTING = 24  # architectures that tell which modules interact
NUM_PAIRS = 6  # of modules, whose levels are then looked at one by one
NUM_CONTEXTS = 32
# On log KL: for less than half a percent of the loss no option leaves, however sure it is.
SMALLEST_EFFECT = 0.005


def shrink(
    space: SearchSpace,
    budget: Budget,
    score: Score,
    measured_levels: Int[np.ndarray, "measured modules"],
    measured_kl: Float[np.ndarray, " measured"],
    known: SmallerSpace,
    round_number: int,
    seed: int,
) -> SmallerSpace:
    """Take up to `MOST_REMOVED` of the worst choices out of the space.

    Loss falls with width, so a module's own effect would condemn every narrow choice. Effects are therefore of the
    Lagrangian: predicted loss + price x parameters, the price being what a parameter is worth in loss on average over
    modules and architectures of the band (`priced`). A narrow choice then harms where its module is worth more than
    what its parameters buy elsewhere, a wide one where it is worth less. First the choices that harm alone; then pairs,
    of the modules that interact most, that harm beyond both and, price paid, together harm at all.

    A choice leaves only if the lower confidence bound of its mean effect is above 0, all choices of the round being
    allowed one error in twenty together (Bonferroni). Its standard error is that of the mean over architectures drawn,
    and of what the predictor got wrong where it was measured. Besides:

    - it is not the widest of its module, and two options stay;
    - none of the best tenth of the measured architectures uses it;
    - at least `FEWEST_MEASURED` measured architectures have it or the level beside it, so that the predictor does not
      speak of what it has never seen, and at least `FEWEST_SAMPLES` of those drawn have it;
    - at least `LEAST_FEASIBLE` of the band's architectures, drawn from the whole space, are left.

    Args:
        score: Predicted log KL, lower is better.
        measured_kl: Of measurements that succeeded, in the rows' order, positive.
        known: What is left after earlier rounds.

    Source:
        GBDT-NAS-3S (arXiv 2007.04785): mean SHAP value of every choice over architectures that have it, the up to 20
        worst leave; pairs by interaction values. The price, the confidence bounds and the guards are ours: without a
        price the worst choices are the cheapest.
    """
    drawn = _drawn(space, budget, derive_seed(seed, "shrink", round_number))
    background = drawn[known.admitted(drawn)]
    if len(background) < FEWEST_SAMPLES or len(measured_kl) < FEWEST_MEASURED:
        return known
    study = _Study(
        space=space,
        score=score,
        drawn=drawn,
        background=background,
        measured=measured_levels,
        best=measured_levels[np.argsort(measured_kl, kind="stable")[: math.ceil(len(measured_kl) * BEST_SHARE)]],
        residual=residual_deviation(score(measured_levels), np.log(measured_kl)),
        round_number=round_number,
        seed=seed,
    )
    price, harmful = _harmful_choices(study, known)
    smaller = _take_out(study, known, harmful, MOST_REMOVED)
    left = MOST_REMOVED - (len(smaller.removed) - len(known.removed))
    return _take_out(study, smaller, _harmful_pairs(study, smaller, price), left)


def priced(
    loss: Float[np.ndarray, "samples modules"], cost: Float[np.ndarray, "samples modules"]
) -> tuple[float, Float[np.ndarray, "samples modules"]]:
    """Give the price of a unit of cost, and what the effects on the loss are once it is paid.

    The price is the least absolute deviation fit of loss = -price x cost, never negative: a few choices that harm, or a
    few modules that matter more than all others, do not move it as they would move least squares.
    """
    flat, weights = (-loss).ravel(), cost.ravel()
    paying = np.abs(weights) > 0
    if not paying.any():
        return 0.0, loss
    ratios, weights = flat[paying] / weights[paying], np.abs(weights[paying])
    order = np.argsort(ratios, kind="stable")
    middle = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    price = max(float(ratios[order][middle]), 0.0)
    return price, loss + price * cost


def residual_deviation(predicted: Float[np.ndarray, " measured"], log_kl: Float[np.ndarray, " measured"]) -> float:
    """Standard deviation of what a predictor leaves unexplained of the measurements, whatever its offset."""
    return float((log_kl - predicted).std())


@dataclass(frozen=True)
class _Study:
    """What a round looks at: `drawn` over the whole band, of them the `background` that earlier rounds left."""

    space: SearchSpace
    score: Score
    drawn: Int[np.ndarray, "drawn modules"]
    background: Int[np.ndarray, "backgrounds modules"]
    measured: Int[np.ndarray, "measured modules"]
    best: Int[np.ndarray, "best modules"]
    residual: float
    round_number: int
    seed: int

    def seed_of(self, *parts: str | int) -> int:
        return derive_seed(self.seed, "shrink", self.round_number, *parts)

    def cost(self, rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
        """Decoder parameters as shares of the dense model's."""
        tables = [np.array(costs) / self.space.shape.decoder_parameters for costs in self.space.parameters]
        return np.sum([table[column] for table, column in zip(tables, rows.T, strict=True)], axis=0)

    def support(self, *choices: tuple[int, int]) -> int:
        """Count the measured architectures that have every choice, or the level beside it."""
        near = [np.abs(self.measured[:, module] - level) <= 1 for module, level in choices]
        return int(np.logical_and.reduce(near).sum())

    def in_best(self, *choices: tuple[int, int]) -> bool:
        return bool(np.logical_and.reduce([self.best[:, module] == level for module, level in choices]).any())

    def widest(self, module: int, level: int) -> bool:
        return level == len(self.space.options[module]) - 1

    def low(self, effects: Float[np.ndarray, " samples"], support: int, num_tests: int) -> float:
        """Give the lower confidence bound of a mean effect, one of `num_tests` (Student's t)."""
        variance = effects.var(ddof=1) / len(effects) + self.residual**2 / support
        quantile = stdtrit(len(effects) - 1, 1 - ERROR_RATE / num_tests)
        return float(effects.mean() - quantile * np.sqrt(variance))


def _drawn(space: SearchSpace, budget: Budget, seed: int) -> Int[np.ndarray, "drawn modules"]:
    drawn = [space.levels(architecture) for architecture in sample_architectures(space, budget, NUM_DRAWN, seed)]
    return np.array(drawn, dtype=int).reshape(-1, space.num_modules)


def _harmful_choices(study: _Study, known: SmallerSpace) -> tuple[float, list[Removed]]:
    """Give the price of a parameter, and the choices that harm, worst first."""
    samples = np.unique(np.concatenate([study.background, study.best]), axis=0)
    seed = study.seed_of("first")
    # The same seed: loss and cost of a sample are shared out over the same orders and backgrounds.
    loss, cost = (
        module_shapley(each, samples, study.background, NUM_PERMUTATIONS, seed) for each in (study.score, study.cost)
    )
    price, effects = priced(loss, cost)
    tested = [
        (module, level)
        for module, levels in enumerate(known.allowed)
        for level in sorted(levels)
        if not study.widest(module, level)
        and not study.in_best((module, level))
        and study.support((module, level)) >= FEWEST_MEASURED
        and (samples[:, module] == level).sum() >= FEWEST_SAMPLES
    ]
    harmful = []
    for module, level in tested:
        of_choice = effects[samples[:, module] == level, module]
        low = study.low(of_choice, study.support((module, level)), len(tested))
        if low > 0 and of_choice.mean() >= SMALLEST_EFFECT:
            choice = Choice.of(study.space, module, level)
            harmful.append(
                Removed(
                    **choice.model_dump(),
                    order=1,
                    mean_effect=float(of_choice.mean()),
                    low=low,
                    num_samples=len(of_choice),
                    round=study.round_number,
                )
            )
    return price, sorted(harmful, key=lambda each: -each.low)


def _harmful_pairs(study: _Study, known: SmallerSpace, price: float) -> list[Removed]:
    """Give the pairs of choices that harm beyond both alone, worst first.

    Which modules interact is asked of a few architectures; of the modules that do, all pairs of levels are put into
    the same mixtures of two architectures of the band, so that the interaction of each is a difference of four scores.
    """
    background = study.background[known.admitted(study.background)]
    if len(background) < 2:
        return []
    # The most unequal ones: it is at the ends of their ranges that modules interact.
    shares = background / np.maximum([len(options) - 1 for options in study.space.options], 1)
    few = background[np.argsort(-shares.std(1), kind="stable")[:NUM_INTERACTING]]
    strength = np.abs(module_interactions(study.score, few, background, 1, study.seed_of("interacting"))).mean(0)
    upper = np.argwhere(np.triu(strength >= SMALLEST_EFFECT, 1))
    chosen = sorted(upper.tolist(), key=lambda pair: -strength[*pair])[:NUM_PAIRS]
    found = {(module, other): _pair_effects(study, background, module, other, price) for module, other in chosen}
    tested = [
        (module, level, other, other_level)
        for module, other in found
        for level in sorted(known.allowed[module])
        for other_level in sorted(known.allowed[other])
        if (module, level, other, other_level) not in known.pairs
        and not (study.widest(module, level) or study.widest(other, other_level))
        and not study.in_best((module, level), (other, other_level))
        and study.support((module, level), (other, other_level)) >= FEWEST_MEASURED
    ]
    harmful = []
    for module, level, other, other_level in tested:
        beyond, together = (effects[:, level, other_level] for effects in found[module, other])
        support = study.support((module, level), (other, other_level))
        low = study.low(beyond, support, len(tested))
        if min(low, study.low(together, support, len(tested))) > 0 and beyond.mean() >= SMALLEST_EFFECT:
            harmful.append(
                Removed(
                    **Choice.of(study.space, module, level).model_dump(),
                    order=2,
                    partner=Choice.of(study.space, other, other_level),
                    mean_effect=float(beyond.mean()),
                    low=low,
                    num_samples=len(beyond),
                    round=study.round_number,
                )
            )
    return sorted(harmful, key=lambda each: -each.low)


def _pair_effects(
    study: _Study, background: Int[np.ndarray, "backgrounds modules"], module: int, other: int, price: float
) -> tuple[Float[np.ndarray, "contexts levels others"], Float[np.ndarray, "contexts levels others"]]:
    """Give, for all levels of two modules, what they add beyond each alone, and what they add together, price paid."""
    rng = np.random.default_rng(study.seed_of("pair", module, other))
    start, end = (background[rng.integers(len(background), size=NUM_CONTEXTS)] for _ in range(2))
    # As in an order drawn at random: any number of the other modules are there before the two.
    come = rng.random(start.shape) < rng.random((NUM_CONTEXTS, 1))
    come[:, [module, other]] = False
    shape = (NUM_CONTEXTS, len(study.space.options[module]), len(study.space.options[other]))
    rows = np.broadcast_to(np.where(come, end, start)[:, None, None, :], (*shape, start.shape[1])).copy()
    rows[..., module] = np.arange(shape[1])[None, :, None]
    rows[..., other] = np.arange(shape[2])[None, None, :]
    flat = rows.reshape(-1, start.shape[1])
    loss = study.score(flat).reshape(shape)
    paid = loss + price * study.cost(flat).reshape(shape)
    each, first, second = np.arange(NUM_CONTEXTS), start[:, module], start[:, other]
    beyond = loss - loss[each, :, second][:, :, None] - loss[each, first][:, None, :]
    return beyond + loss[each, first, second][:, None, None], paid - paid[each, first, second][:, None, None]


def _take_out(study: _Study, known: SmallerSpace, harmful: Sequence[Removed], most: int) -> SmallerSpace:
    """Take choices out, worst first, until so many have left or too little of the band would be left."""
    smaller = known
    for removed in harmful:
        if len(smaller.removed) - len(known.removed) == most:
            break
        if removed.partner is None and len(smaller.allowed[removed.module]) <= FEWEST_OPTIONS:
            continue
        without = smaller.without(study.space, removed)
        if without.feasible_share(study.drawn) < LEAST_FEASIBLE:
            break
        smaller = without
    return smaller
