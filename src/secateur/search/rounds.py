"""The search: measure a first set, then let the predictor, refitted each round, say what to measure next."""

import math
from collections.abc import Sequence

import numpy as np

from secateur.errors import SecateurError
from secateur.predictor.choice import fit_predictor
from secateur.predictor.quality import PredictorQuality
from secateur.schema import derive_seed
from secateur.search.propose import initial_candidates, predicted_candidates
from secateur.search.task import Found, MeasureBatch, RoundRecord, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureTable, feature_table

# The predictor's settings are made for this many pairs or more.
FEWEST_PAIRS = 25
# With failed measurements it has to do with fewer, but cross-validation needs one pair per fold.
FEWEST_TO_FIT = 5
# Share of the ranking from which the first architectures are taken that are measured after reconstruction.
RANKING_SHARE = 0.75


def search_rounds(task: SearchTask) -> Found:
    """Search inside the budget band; the best that was measured is taken.

    Slices of the bank tell good from bad at the price of a forward pass. What they do not tell is how much of an
    architecture's loss the sequential reconstruction will give back, and among the best that decides: there their order
    on stories260K has nothing to do with the final one (docs/log.md). So where there is such a reconstruction, the
    last share of the measurements is made after it: of architectures from the whole ranking first, then of what a
    predictor fitted on those alone proposes. There are few of them and each costs a reconstruction, so what a predictor
    is unsure of is worth a look: they are proposed by its lower bound.

    Raises:
        SecateurError: Too many measurements failed to fit a predictor.
    """
    num_reconstructed = _num_reconstructed(task)
    num_sliced = task.num_measurements - num_reconstructed
    sliced, rounds = _rounds(
        task, task.measure, initial_candidates(task, _num_initial(task, num_sliced)), num_sliced, 1
    )
    if task.measure_reconstructed is None or num_reconstructed == 0:
        return Found(sliced, ranked(sliced), rounds)
    first = from_ranking(task, ranked(sliced), _num_initial(task, num_reconstructed))
    measured, more = _rounds(task, task.measure_reconstructed, first, num_reconstructed, len(rounds) + 1)
    return Found(measured, ranked(measured), rounds + more, probes=sliced, reconstructed=True)


def _num_reconstructed(task: SearchTask) -> int:
    """Share the measurements out: each of the two predictors needs its pairs, or there is only one."""
    count = task.num_measurements
    if task.measure_reconstructed is None or task.reconstructed_share == 0 or count < 2 * FEWEST_PAIRS:
        return 0
    return min(max(FEWEST_PAIRS, round(count * task.reconstructed_share)), count - FEWEST_PAIRS)


def from_ranking(task: SearchTask, ranking: Sequence[Measurement], count: int) -> list[Candidate]:
    """Take architectures from all over a ranking, the more the nearer to its top."""
    furthest = max(1.0, len(ranking) * RANKING_SHARE)
    places = np.unique(np.geomspace(1, furthest, 4 * count).round().astype(int) - 1)
    chosen = places[np.linspace(0, len(places) - 1, min(count, len(places))).astype(int)]
    return [task.candidate(task.space.levels(ranking[place].architecture), "ranking") for place in chosen.tolist()]


def _num_initial(task: SearchTask, count: int) -> int:
    return min(count, max(FEWEST_PAIRS, round(count * task.initial_share)))


def _rounds(
    task: SearchTask, measure: MeasureBatch, first: list[Candidate], count: int, number: int
) -> tuple[list[Measurement], tuple[RoundRecord, ...]]:
    """Measure a first set, then what the predictor proposes, refitted each round, until `count` are measured.

    There is one round even where the first set has spent them all: it judges the predictor.
    """
    table = feature_table(task.space, task.errors)
    reconstructed = measure is task.measure_reconstructed
    measured = measure(first)
    rounds: list[RoundRecord] = []
    for later in range(task.num_rounds):
        if rounds and len(measured) >= count:
            break
        left = math.ceil((count - len(measured)) / (task.num_rounds - later))
        quality, batch = _one_round(task, table, measured, left, number + later, optimistic=reconstructed)
        measured = measured + (measure(batch) if batch else [])
        best = ranked(measured)[0].kl
        assert best is not None, "ranked measurements have a KL"
        rounds.append(RoundRecord(round=number + later, quality=quality, reconstructed=reconstructed, best_kl=best))
        task.end_round(rounds[-1])
    return measured, tuple(rounds)


def _one_round(
    task: SearchTask, table: FeatureTable, measured: Sequence[Measurement], count: int, number: int, *, optimistic: bool
) -> tuple[PredictorQuality, list[Candidate]]:
    """Fit the predictor on what is measured, judge it, and propose `count` candidates."""
    space = task.space
    pairs = ranked(measured)
    if len(pairs) < max(FEWEST_TO_FIT, len(measured) / 2):
        reasons = sorted({m.reason for m in measured if m.reason})
        why = f"{reasons[0]}; check the model and its dtype" if reasons else "the budget band holds no more"
        raise SecateurError(
            f"only {len(pairs)} of {len(measured)} measurements succeeded, too few to fit a predictor ({why})"
        )
    levels = np.array([space.levels(measurement.architecture) for measurement in pairs])
    kl = np.array([measurement.kl for measurement in pairs])
    features = table.features(levels)
    parameters = np.array([float(space.decoder_parameters(tuple(row))) for row in levels.tolist()])
    fit_seed = derive_seed(task.seed, "fit", number)
    predictor, quality = fit_predictor(task.predictor, features, kl, parameters, table.monotone, fit_seed)
    score = predictor.lower_bound if optimistic else predictor.predict
    failed = [space.levels(measurement.architecture) for measurement in measured if measurement.kl is None]
    batch = predicted_candidates(
        task,
        lambda rows: score(table.features(rows)),
        [*(tuple(row) for row in levels.tolist()), *failed],
        count,
        number,
    )
    return quality, batch
