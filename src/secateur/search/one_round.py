"""One round of the search: a fit of the predictor, what it proposes, and what it says of that before it is measured."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from secateur.errors import SecateurError
from secateur.predictor.choice import fit_predictor
from secateur.predictor.pairwise import top_first
from secateur.predictor.protocol import Pairs, Predictor
from secateur.predictor.quality import PredictorQuality
from secateur.schema import derive_seed
from secateur.search.acquisition import ACQUISITIONS, log_expected_improvement
from secateur.search.fit import CONFIDENCE, Fitted, Foretold, fit_record, foretold
from secateur.search.propose import neighbours_of_best, predicted_candidates
from secateur.search.shrink import shrink
from secateur.search.task import RoundPlan, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureTable
from secateur.space.search_space import Levels
from secateur.space.smaller_space import SmallerSpace

# With failed measurements a predictor has to do with few, but cross-validation needs one pair per fold.
FEWEST_TO_FIT = 5


class Round:
    """One fit of the predictor, and what follows from it.

    Args:
        measured: At the budget, so far.
        out: Candidates that are being measured.
        left: Of the search space.
        reconstructed: `measured` were made after sequential reconstruction.

    Raises:
        SecateurError: Too few measurements succeeded.
    """

    def __init__(
        self,
        task: SearchTask,
        table: FeatureTable,
        measured: Sequence[Measurement],
        out: Sequence[Candidate],
        number: int,
        left: SmallerSpace,
        *,
        reconstructed: bool,
    ) -> None:
        self.task, self.table, self.out = task, table, tuple(out)
        self.number, self.before, self.reconstructed = number, left, reconstructed
        space, pairs = task.space, fit_to_learn_from(measured)
        self.levels = np.array([space.levels(measurement.architecture) for measurement in pairs])
        self.kl = np.array([measurement.kl for measurement in pairs], dtype=float)
        self.failed = [space.levels(measurement.architecture) for measurement in measured if measurement.kl is None]
        parameters = np.array([float(space.decoder_parameters(tuple(row))) for row in self.levels.tolist()])
        self.predictor: Predictor
        self.quality: PredictorQuality
        self.pairs = Pairs(table.layout, table.features(self.levels), self.kl)
        fit_seed = derive_seed(task.seed, "fit", number)
        self.predictor, self.quality = fit_predictor(task.predictor, self.pairs, parameters, fit_seed)
        record = fit_record(number, self.quality.predictor, self.predictor, pairs, self.kl, reconstructed=reconstructed)
        task.end_fit(record)
        self.left = self._shrunk() if task.shrinks and self.quality.trusted else left

    def plan(self, count: int) -> RoundPlan:
        """Propose up to `count` candidates, none where they promise next to nothing; says what is thought of them."""
        batch, promised = self._proposed(count)
        if is_nothing(self.task, promised):
            batch = []
        return RoundPlan(
            round=self.number,
            quality=self.quality,
            reconstructed=self.reconstructed,
            batch=tuple(batch),
            out=self.out,
            foretold=self._foretold([*self.out, *batch]),
            promised=promised,
            removed=self.left.removed[len(self.before.removed) :],
        )

    @property
    def fitted(self) -> Fitted:
        return Fitted(self._log_loss, self.levels)

    def _proposed(self, count: int) -> tuple[list[Candidate], float | None]:
        """Propose what promises most, and say how much; neighbours of the best where the predictor is not trusted."""
        out = [self.task.space.levels(candidate.architecture) for candidate in self.out]
        if not self.quality.trusted:
            return neighbours_of_best(self.task, self._rows(self.levels), count, self.number, out), None
        acquire = ACQUISITIONS[self.task.acquisition]
        best = float(np.log(self.kl.min()))
        batch = predicted_candidates(
            self.task,
            lambda rows: acquire(self.predictor, self.table.features(rows), best),
            [*self._rows(self.levels), *self.failed, *out],
            count,
            self.number,
            self.left.admitted,
            self._second_opinion if self.task.second_opinion else lambda shortlist: shortlist,
        )
        if not batch:
            return batch, None
        promises = log_expected_improvement(*self.predictor.posterior(self._features(batch)), best)
        return batch, float(np.exp(promises.max()))

    def _foretold(self, candidates: Sequence[Candidate]) -> tuple[Foretold, ...]:
        """Say what the predictor thinks of candidates, trusted or not."""
        if not candidates:
            return ()
        features = self._features(candidates)
        keys = [candidate.architecture.key for candidate in candidates]
        return foretold(keys, self.predictor.predict(features), self.predictor.interval(features, CONFIDENCE), {})

    def _second_opinion(self, shortlist: list[Levels]) -> list[Levels]:
        if not shortlist:
            return []
        features = self.table.features(np.array(shortlist))
        seed = derive_seed(self.task.seed, "second opinion", self.number)
        order = top_first(self.pairs, features, self.predictor.predict(features), seed)
        return [shortlist[place] for place in order.tolist()]

    def _shrunk(self) -> SmallerSpace:
        return shrink(
            self.task.space,
            self.task.budget,
            self._log_loss,
            self.levels,
            self.kl,
            self.before,
            self.number,
            self.task.seed,
        )

    def _log_loss(self, rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
        return self.predictor.predict(self.table.features(rows))

    def _features(self, batch: Sequence[Candidate]) -> Float[np.ndarray, "candidates features"]:
        return self.table.features(np.array([self.task.space.levels(each.architecture) for each in batch]))

    @staticmethod
    def _rows(levels: Int[np.ndarray, "candidates modules"]) -> list[Levels]:
        return [tuple(row) for row in levels.tolist()]


def is_nothing(task: SearchTask, promised: float | None) -> bool:
    """Say whether what a round promises is not worth going on for."""
    return promised is not None and promised < task.least_improvement


def fit_to_learn_from(measured: Sequence[Measurement]) -> list[Measurement]:
    """Give those that did not fail, lowest KL first.

    Raises:
        SecateurError: They are too few to fit a predictor.
    """
    pairs = ranked(measured)
    if len(pairs) < max(FEWEST_TO_FIT, len(measured) / 2):
        reasons = sorted({m.reason for m in measured if m.reason})
        why = f"{reasons[0]}; check the model and its dtype" if reasons else "the budget band holds no more"
        raise SecateurError(
            f"only {len(pairs)} of {len(measured)} measurements succeeded, too few to fit a predictor ({why})"
        )
    return pairs
