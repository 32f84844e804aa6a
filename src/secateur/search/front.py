"""The search for several objectives: measure a first set, then what NSGA-II finds on predictions, round after round."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from secateur.predictor.protocol import Predictor
from secateur.predictor.quality import PredictorQuality
from secateur.schema import derive_seed
from secateur.search.acquisition import BOUND_DEVIATIONS
from secateur.search.fit import Fitted, fit_record
from secateur.search.nsga import optimise, slices
from secateur.search.objectives import DISPARITY, QUALITY, fit_objectives, log_target
from secateur.search.one_round import fit_to_learn_from
from secateur.search.pareto import choose_point, front_after_front, spread
from secateur.search.propose import initial_candidates, predicted_candidates
from secateur.search.rounds import from_ranking, num_initial, num_to_reconstruct
from secateur.search.task import Found, MeasureBatch, RoundRecord, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureTable
from secateur.space.search_space import Levels

# Of a round's batch, where the choice is the least disparity at a price: the best quality, from which a price counts;
# of what is left, the least disparity at such shares of it.
QUALITY_SHARE, PRICE_SHARE = 0.25, 0.6
LEAST_PRICE, MOST_PRICE = 0.5, 1.25
GROUP_MEAN = "perplexity over the dense model's, geometric mean over groups"


def search_front(task: SearchTask) -> Found:
    """Search for the Pareto front inside the budget band; what the task's rule takes from it is the finalist.

    As the search for one objective (`search_rounds`): slices of the bank first, then, where the run has a sequential
    reconstruction, the last share of the measurements after it, each with predictors of their own, one per group. What
    a round measures is spread over the front that NSGA-II finds on predictions.

    Raises:
        SecateurError: Too many measurements failed to fit a predictor.
    """
    num_reconstructed = num_to_reconstruct(task)
    num_sliced = task.num_measurements - num_reconstructed
    first = _first_candidates(task, num_initial(task, num_sliced))
    sliced, rounds, fitted = _rounds(task, task.measure, first, num_sliced, 1)
    if task.measure_reconstructed is None or num_reconstructed == 0:
        return Found(sliced, chosen_first(task, sliced), rounds, fitted=fitted)
    ranking = _front_after_front(task, sliced)
    first = from_ranking(task, ranking, num_initial(task, num_reconstructed))
    measured, more, fitted = _rounds(task, task.measure_reconstructed, first, num_reconstructed, len(rounds) + 1)
    chosen = chosen_first(task, measured)
    return Found(measured, chosen, rounds + more, probes=sliced, reconstructed=True, fitted=fitted)


def chosen_first(task: SearchTask, measured: Sequence[Measurement]) -> list[Measurement]:
    """Give the one measurement that the task's rule takes; none where all failed.

    Only one: what several objectives weigh is decided by the rule, not by whichever of a few has the least KL later.
    """
    succeeded = ranked(measured)
    if not succeeded:
        return []
    wanted = task.objectives
    points = [wanted.measured(measurement, task.space.shape) for measurement in succeeded]
    return [succeeded[choose_point(wanted.choose, points, wanted.within)]]


def _first_candidates(task: SearchTask, count: int) -> list[Candidate]:
    """Propose what `search_rounds` begins with; with a cost among the objectives, at sizes from floor to ceiling."""
    if not task.objectives.bound_costs:
        return initial_candidates(task, count)
    bands = slices(task.space, task.budget)
    each = math.ceil(count / len(bands))
    found: dict[str, Candidate] = {}
    for number, band in enumerate(bands):
        part = initial_candidates(replace(task, budget=band, seed=derive_seed(task.seed, "slice", number)), each)
        found |= {candidate.architecture.key: candidate for candidate in part}
    return list(found.values())[:count]


def _front_after_front(task: SearchTask, measured: Sequence[Measurement]) -> list[Measurement]:
    """Order measurements by how many fronts are before theirs."""
    succeeded = ranked(measured)
    return [succeeded[index] for index in front_after_front(_values(task, succeeded))]


def _values(task: SearchTask, measured: Sequence[Measurement]) -> np.ndarray:
    points = [list(task.objectives.measured(measurement, task.space.shape).values()) for measurement in measured]
    return np.array(points).reshape(len(points), len(task.objectives.names))


def _rounds(
    task: SearchTask, measure: MeasureBatch, first: list[Candidate], count: int, number: int
) -> tuple[list[Measurement], tuple[RoundRecord, ...], Fitted | None]:
    """Measure a first set, then a batch along the predicted front, refitted each round, until `count` are measured."""
    table = task.features()
    measured = measure(first)
    rounds: list[RoundRecord] = []
    fitted: Fitted | None = None
    reconstructed = measure is task.measure_reconstructed
    for later in range(task.num_rounds):
        if rounds and len(measured) >= count:
            break
        left = math.ceil((count - len(measured)) / (task.num_rounds - later))
        qualities, batch, fitted = _one_round(task, table, measured, left, number + later, reconstructed=reconstructed)
        # The weakest of them, since the front is no better known than the group that is known least.
        weakest = min(qualities.values(), key=lambda quality: quality.kendall_tau)
        task.judged(weakest)
        measured = measured + (measure(batch) if batch else [])
        best = ranked(measured)[0].kl
        assert best is not None, "ranked measurements have a KL"
        record = RoundRecord(
            round=number + later,
            quality=weakest,
            targets=qualities,
            reconstructed=reconstructed,
            best_kl=best,
        )
        rounds.append(record)
        task.end_round(record)
    return measured, tuple(rounds), fitted


def _one_round(
    task: SearchTask,
    table: FeatureTable,
    measured: Sequence[Measurement],
    count: int,
    number: int,
    *,
    reconstructed: bool,
) -> tuple[dict[str, PredictorQuality], list[Candidate], Fitted]:
    """Fit a predictor per target, judge them, and propose `count` candidates along the predicted front."""
    wanted, space = task.objectives, task.space
    pairs = fit_to_learn_from(measured)
    fit_seed = derive_seed(task.seed, "fit", number)
    predictors, qualities = fit_objectives(wanted, space, table, pairs, task.predictor, fit_seed)
    fitted = _keep_fits(task, table, predictors, qualities, pairs, number, reconstructed=reconstructed)

    def predicted(rows: np.ndarray) -> np.ndarray:
        features = table.features(rows)
        return wanted.predicted({name: each.predict(features) for name, each in predictors.items()}, space, rows)

    start = [space.levels(measurement.architecture) for measurement in _front_after_front(task, pairs)]
    seed = derive_seed(task.seed, "front", number)
    seen = optimise(space, task.budget, predicted, start, seed, sliced=bool(wanted.bound_costs))
    known = {space.levels(measurement.architecture) for measurement in measured}
    ends = _quality_end(task, table, predictors, measured, count, number) if wanted.choose == "least_disparity" else []
    known |= {space.levels(candidate.architecture) for candidate in ends}
    new = {levels: values for levels, values in seen.items() if levels not in known}
    batch = choose_batch(task, new, pairs, count - len(ends))
    return qualities, [*ends, *(task.candidate(levels, "predicted", number) for levels in batch)], fitted


def _keep_fits(
    task: SearchTask,
    table: FeatureTable,
    predictors: Mapping[str, Predictor],
    qualities: Mapping[str, PredictorQuality],
    pairs: Sequence[Measurement],
    number: int,
    *,
    reconstructed: bool,
) -> Fitted:
    """Put every target's fit on record, and give the mean of all as one function."""
    wanted, space = task.objectives, task.space
    for target, predictor in predictors.items():
        log_targets = np.array([log_target(wanted, measurement, target) for measurement in pairs])
        quantity = wanted.quantity(target)
        name = qualities[target].predictor
        measured = np.exp(log_targets)
        task.end_fit(
            fit_record(number, name, predictor, pairs, measured, reconstructed=reconstructed, quantity=quantity)
        )

    def mean(rows: np.ndarray) -> np.ndarray:
        features = table.features(rows)
        return np.asarray(np.mean([each.predict(features) for each in predictors.values()], axis=0))

    levels = np.array([space.levels(measurement.architecture) for measurement in pairs])
    quantity = wanted.quantity(wanted.targets[0]) if len(wanted.targets) == 1 else GROUP_MEAN
    return Fitted(mean, levels, quantity)


def _quality_end(
    task: SearchTask,
    table: FeatureTable,
    predictors: Mapping[str, Predictor],
    measured: Sequence[Measurement],
    count: int,
    number: int,
) -> list[Candidate]:
    """Propose what may be of the best quality, as the search for quality alone does: a price counts from there."""
    wanted, space = task.objectives, task.space
    pairs = ranked(measured)
    quality = [wanted.measured(measurement, space.shape)[QUALITY] for measurement in pairs]
    best_first = [space.levels(pairs[place].architecture) for place in np.argsort(quality, kind="stable")]
    # They are not proposed again either.
    best_first += [space.levels(measurement.architecture) for measurement in measured if measurement.kl is None]

    def lowest(rows: np.ndarray) -> np.ndarray:
        features = table.features(rows)
        posteriors = [predictor.posterior(features) for predictor in predictors.values()]
        return np.mean([mean - BOUND_DEVIATIONS * deviation for mean, deviation in posteriors], axis=0)

    return predicted_candidates(task, lowest, best_first, math.ceil(QUALITY_SHARE * count), number)


def choose_batch(
    task: SearchTask, new: dict[Levels, tuple[float, ...]], pairs: Sequence[Measurement], count: int
) -> list[Levels]:
    """Choose what to measure: spread over the predicted front, and more of it where a price decides.

    For one price after another, what has the least disparity among what costs no more (the epsilon-constraint method),
    around the price that may be paid, since it is a prediction that says what is within it.
    """
    wanted = task.objectives
    chosen: dict[Levels, None] = {}

    def take(candidates: list[Levels], number: int) -> None:
        left = [levels for levels in candidates if levels not in chosen]
        if left and number > 0:
            values = np.array([new[levels] for levels in left])
            chosen.update(dict.fromkeys(left[index] for index in spread(values, number)))

    if wanted.choose == "least_disparity":
        quality, disparity = wanted.names.index(QUALITY), wanted.names.index(DISPARITY)
        best = min(wanted.measured(measurement, task.space.shape)[QUALITY] for measurement in pairs)
        best = min(best, *(values[quality] for values in new.values())) if new else best
        by_disparity = sorted(new, key=lambda levels: new[levels][disparity])
        for share in np.linspace(LEAST_PRICE, MOST_PRICE, math.ceil(PRICE_SHARE * count)):
            allowed = best + share * math.log1p(wanted.within)
            left = (levels for levels in by_disparity if levels not in chosen and new[levels][quality] <= allowed)
            chosen.update(dict.fromkeys(islice(left, 1)))
    take(list(new), count - len(chosen))
    return list(chosen)[:count]
