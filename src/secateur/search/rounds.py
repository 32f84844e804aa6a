"""The search: measure a first set, then let the predictor, refitted each round, say what to measure next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
from secateur.search.propose import heuristics, initial_candidates, neighbours_of_best, predicted_candidates
from secateur.search.sensitivity import Sensed, measure_sensitivities
from secateur.search.shrink import shrink
from secateur.search.task import Found, MeasureBatch, MeasuresOn, PastRound, RoundRecord, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureTable
from secateur.space.search_space import Levels
from secateur.space.smaller_space import SmallerSpace

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
    predictor fitted on those alone proposes. What is proposed is decided by the task's acquisition, which looks at the
    predictor's doubts too.

    Raises:
        SecateurError: Too many measurements failed to fit a predictor.
    """
    sensed = _sense(task)
    table = task.features(sensed.sensitivities)
    num_reconstructed = num_to_reconstruct(task)
    num_sliced = max(task.num_measurements - num_reconstructed - len(sensed.probes), len(sensed.centres))
    first = first_candidates(task, num_initial(task, num_sliced) - len(sensed.centres), sensed.centres)
    phase = _Phase(task, table, task.measure, num_sliced, 1)
    sliced, rounds, fitted = phase.run([*sensed.centres, *task.measure(first)])
    if task.measure_reconstructed is None or num_reconstructed == 0:
        return Found(sliced, ranked(sliced), rounds, probes=list(sensed.probes), fitted=fitted)
    first = from_ranking(task, ranked(sliced), num_initial(task, num_reconstructed))
    phase = _Phase(task, table, task.measure_reconstructed, num_reconstructed, len(rounds) + 1)
    measured, more, fitted = phase.run(task.measure_reconstructed(first))
    probes = [*sensed.probes, *sliced]
    return Found(measured, ranked(measured), rounds + more, probes=probes, reconstructed=True, fitted=fitted)


def first_candidates(task: SearchTask, count: int, centres: Sequence[Measurement]) -> list[Candidate]:
    """Give the first set: as an earlier process has proposed it, since filling a large one takes seconds, or anew."""
    keys = {measurement.architecture.key for measurement in centres}
    begun = [each for each in task.begun() if each.architecture.key not in keys]
    if len(begun) == count:
        return begun
    return initial_candidates(task, count, [task.space.levels(measurement.architecture) for measurement in centres])


def _sense(task: SearchTask) -> Sensed:
    """Measure sensitivities around the heuristics, where their share of the measurements suffices."""
    count = int(task.num_measurements * task.sensitivity_share)
    return measure_sensitivities(task, heuristics(task), count) if count else Sensed()


def num_to_reconstruct(task: SearchTask) -> int:
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


def num_initial(task: SearchTask, count: int) -> int:
    return min(count, max(FEWEST_PAIRS, round(count * task.initial_share)))


@dataclass(frozen=True)
class _Phase:
    """Rounds of one kind of measurement: by slices, or after reconstruction.

    Attributes:
        count: Measurements when it ends at the latest.
        first_round: Number of its first round.
    """

    task: SearchTask
    table: FeatureTable
    measure: MeasureBatch
    count: int
    first_round: int

    @property
    def reconstructed(self) -> bool:
        return self.measure is self.task.measure_reconstructed

    def run(self, measured: list[Measurement]) -> tuple[list[Measurement], tuple[RoundRecord, ...], Fitted | None]:
        """Go on from a first set with what the predictor proposes, refitted each round.

        There is one round even where the first set has spent everything: it judges the predictor. The phase ends early
        when the predictor is trusted and promises next to nothing.
        """
        rounds: list[RoundRecord] = []
        fitted: Fitted | None = None
        left = SmallerSpace.of(self.task.space)
        out: dict[str, Levels] = {}
        before = (measured, left, self.first_round)
        for number in range(self.first_round, self.first_round + self.task.num_rounds):
            if rounds and len(measured) + len(out) >= self.count:
                break
            past = self.task.past(number)
            if past is not None and past.record.reconstructed == self.reconstructed:
                before = (measured, left, number)
                measured, left = self._remembered(past, measured, left)
                rounds.append(past.record)
                if is_nothing(self.task, past.record.promised):
                    break
                continue
            to_come = self.first_round + self.task.num_rounds - number
            missing = self.count - len(measured) - len(out)
            step = _Round(self, measured, list(out.values()), number, math.ceil(missing / to_come), left)
            fitted = step.fitted
            batch = step.propose()
            self.task.judged(step.quality)
            if step.promises_nothing:
                batch = []
            out |= {each.architecture.key: self.task.space.levels(each.architecture) for each in batch}
            # Of the last round everything is waited for.
            closing = step.promises_nothing or to_come == 1 or len(measured) + len(out) >= self.count
            new = self._measured(batch, closing=closing)
            for each in new:
                out.pop(each.architecture.key, None)
            measured, left = measured + new, step.left
            rounds.append(step.record(new, measured))
            self.task.end_round(rounds[-1])
            if step.promises_nothing:
                break
        if fitted is None:
            # All of it is past; what it ended with is fitted as it was then.
            known, space, number = before
            fitted = _Round(self, known, [], number, 0, space).fitted
        return measured, tuple(rounds), fitted

    def _remembered(
        self, past: PastRound, measured: list[Measurement], left: SmallerSpace
    ) -> tuple[list[Measurement], SmallerSpace]:
        """Give what was measured, and what was left of the space, after a round that an earlier process has ended."""
        self.task.judged(past.record.quality)
        new = self.measure(past.batch) if past.batch else []
        return measured + new, SmallerSpace.of(self.task.space, (*left.removed, *past.record.removed))

    def _measured(self, batch: list[Candidate], *, closing: bool) -> list[Measurement]:
        """Measure a round; where nobody waits for the last of it, what is there, and what came late of others."""
        if self.task.wait_for == 1 or not isinstance(self.measure, MeasuresOn):
            return self.measure(batch) if batch else []
        new = self.measure.so_far(batch, self.task.wait_for)
        return new + self.measure.so_far([], 1.0) if closing else new


class _Round:
    """One fit of the predictor, and what follows from it."""

    def __init__(
        self,
        phase: _Phase,
        measured: Sequence[Measurement],
        out: Sequence[Levels],
        number: int,
        count: int,
        left: SmallerSpace,
    ) -> None:
        self.out = out
        task = self.task = phase.task
        self.phase, self.number, self.count, self.before = phase, number, count, left
        space, pairs = task.space, fit_to_learn_from(measured)
        self.levels = np.array([space.levels(measurement.architecture) for measurement in pairs])
        self.kl = np.array([measurement.kl for measurement in pairs], dtype=float)
        self.failed = [space.levels(measurement.architecture) for measurement in measured if measurement.kl is None]
        parameters = np.array([float(space.decoder_parameters(tuple(row))) for row in self.levels.tolist()])
        self.predictor: Predictor
        self.quality: PredictorQuality
        self.pairs = Pairs(phase.table.layout, phase.table.features(self.levels), self.kl)
        fit_seed = derive_seed(task.seed, "fit", number)
        self.predictor, self.quality = fit_predictor(task.predictor, self.pairs, parameters, fit_seed)
        record = fit_record(
            number, self.quality.predictor, self.predictor, pairs, self.kl, reconstructed=phase.reconstructed
        )
        task.end_fit(record)
        self.left = self._shrunk() if task.shrinks and self.quality.trusted else left
        self.promised: float | None = None

    def propose(self) -> list[Candidate]:
        """Propose candidates: what promises most, or neighbours of the best where the predictor is not trusted."""
        known = [*self._rows(self.levels), *self.failed, *self.out]
        if not self.quality.trusted:
            return neighbours_of_best(self.task, self._rows(self.levels), self.count, self.number, self.out)
        acquire = ACQUISITIONS[self.task.acquisition]
        best = float(np.log(self.kl.min()))
        batch = predicted_candidates(
            self.task,
            lambda rows: acquire(self.predictor, self.phase.table.features(rows), best),
            known,
            self.count,
            self.number,
            self.left.admitted,
            self._second_opinion if self.task.second_opinion else lambda shortlist: shortlist,
        )
        if batch:
            promises = log_expected_improvement(*self.predictor.posterior(self._features(batch)), best)
            self.promised = float(np.exp(promises.max()))
        return batch

    @property
    def promises_nothing(self) -> bool:
        return is_nothing(self.task, self.promised)

    def record(self, new: Sequence[Measurement], measured: Sequence[Measurement]) -> RoundRecord:
        """Put on record how good the predictor was, and what came of it.

        Args:
            new: What the round has measured.
            measured: That and all before it.
        """
        best = ranked(measured)[0].kl
        assert best is not None, "ranked measurements have a KL"
        return RoundRecord(
            round=self.number,
            quality=self.quality,
            reconstructed=self.phase.reconstructed,
            best_kl=best,
            fell_back=not self.quality.trusted,
            covered=self._covered(ranked(new)),
            foretold=self._foretold(new),
            promised=self.promised,
            removed=self.left.removed[len(self.before.removed) :],
        )

    @property
    def fitted(self) -> Fitted:
        return Fitted(self._log_loss, self.levels)

    def _log_loss(self, rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
        return self.predictor.predict(self.phase.table.features(rows))

    def _foretold(self, new: Sequence[Measurement]) -> tuple[Foretold, ...]:
        """Say what the predictor thought of candidates, trusted or not."""
        if not new:
            return ()
        levels = np.array([self.task.space.levels(measurement.architecture) for measurement in new])
        features = self.phase.table.features(levels)
        keys = [measurement.architecture.key for measurement in new]
        known = {m.architecture.key: m.kl for m in new if m.kl is not None}
        return foretold(keys, self.predictor.predict(features), self.predictor.interval(features, CONFIDENCE), known)

    def _covered(self, new: Sequence[Measurement]) -> float | None:
        """Give the share of new measurements inside the interval that was predicted for them."""
        if not new or not self.quality.trusted:
            return None
        levels = np.array([self.task.space.levels(measurement.architecture) for measurement in new])
        interval = self.predictor.interval(self.phase.table.features(levels))
        measured = np.log(np.array([measurement.kl for measurement in new], dtype=float))
        return float(((interval.low <= measured) & (measured <= interval.high)).mean())

    def _second_opinion(self, shortlist: list[Levels]) -> list[Levels]:
        if not shortlist:
            return []
        features = self.phase.table.features(np.array(shortlist))
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

    def _features(self, batch: Sequence[Candidate]) -> Float[np.ndarray, "candidates features"]:
        return self.phase.table.features(np.array([self.task.space.levels(each.architecture) for each in batch]))

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
