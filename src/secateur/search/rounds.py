"""The search: measure a first set, then let the predictor, refitted each round, say what to measure next."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from secateur.errors import SecateurError
from secateur.predictor.quality import PredictorQuality, cross_validate
from secateur.predictor.trees import fit_trees
from secateur.schema import Record, derive_seed
from secateur.search.propose import initial_candidates, predicted_candidates
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import Budget
from secateur.space.encoding import FeatureTable, feature_table
from secateur.space.search_space import SearchSpace

# The predictor's settings are made for this many pairs or more.
FEWEST_PAIRS = 25
# With failed measurements it has to do with fewer, but cross-validation needs one pair per fold.
FEWEST_TO_FIT = 5

MeasureBatch = Callable[[list[Candidate]], list[Measurement]]


class RoundRecord(Record):
    """One fit of the predictor and what its proposals gave."""

    round: int = Field(description="1 for the first fit")
    quality: PredictorQuality = Field(description="cross-validated at the budget before the round's measurements")
    best_kl: float = Field(description="lowest KL on the selection set after the round, nats per token")


@dataclass(frozen=True)
class Found:
    """What a search found: all its measurements and one record per round."""

    measurements: list[Measurement]
    rounds: tuple[RoundRecord, ...]

    @property
    def best(self) -> Measurement:
        return ranked(self.measurements)[0]


def search_rounds(
    space: SearchSpace,
    budget: Budget,
    errors: Sequence[Mapping[int, float]],
    measure_batch: MeasureBatch,
    num_measurements: int,
    num_rounds: int,
    initial_share: float,
    seed: int,
    end_round: Callable[[RoundRecord], None] = lambda _record: None,
) -> Found:
    """Search inside the budget band with `num_measurements` measurements in all.

    What is proposed depends on measurements and the seed alone, so `measure_batch` may take them from a database.

    Args:
        errors: Per module, reconstruction error per width (`WeightBank.errors`).
        measure_batch: Measures candidates, in any order.
        end_round: Called after each round.

    Raises:
        SecateurError: Too many measurements failed to fit a predictor.
    """
    table = feature_table(space, errors)
    num_initial = min(num_measurements, max(FEWEST_PAIRS, round(num_measurements * initial_share)))
    measured = measure_batch(initial_candidates(space, budget, errors, num_initial, seed))
    rounds: list[RoundRecord] = []
    for number in range(1, num_rounds + 1):
        left = math.ceil((num_measurements - len(measured)) / (num_rounds - number + 1))
        quality, batch = _one_round(space, budget, table, measured, left, number, seed)
        measured = measured + (measure_batch(batch) if batch else [])
        best = ranked(measured)[0].kl
        assert best is not None, "ranked measurements have a KL"
        rounds.append(RoundRecord(round=number, quality=quality, best_kl=best))
        end_round(rounds[-1])
    return Found(measured, tuple(rounds))


def ranked(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Give those that did not fail, lowest KL first."""
    return sorted((m for m in measurements if m.kl is not None), key=lambda m: (m.kl, m.architecture.key))


def _one_round(
    space: SearchSpace,
    budget: Budget,
    table: FeatureTable,
    measured: Sequence[Measurement],
    count: int,
    number: int,
    seed: int,
) -> tuple[PredictorQuality, list[Candidate]]:
    """Fit the predictor on what is measured, judge it, and propose `count` candidates."""
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
    fit_seed = derive_seed(seed, "fit", number)
    quality = cross_validate(features, kl, parameters, table.monotone, fit_seed)
    predictor = fit_trees(features, kl, table.monotone, fit_seed)
    failed = [space.levels(measurement.architecture) for measurement in measured if measurement.kl is None]
    batch = predicted_candidates(
        space,
        budget,
        lambda rows: predictor.predict(table.features(rows)),
        [*(tuple(row) for row in levels.tolist()), *failed],
        count,
        number,
        seed,
    )
    return quality, batch
