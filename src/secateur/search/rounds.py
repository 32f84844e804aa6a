"""The search: measure a first set, then let the predictor, refitted each round, say what to measure next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from secateur.search.fit import Fitted
from secateur.search.one_round import Round, is_nothing
from secateur.search.propose import heuristics, initial_candidates
from secateur.search.sensitivity import Sensed, measure_sensitivities
from secateur.search.task import Found, MeasureBatch, MeasuresOn, PastRound, RoundRecord, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureTable
from secateur.space.smaller_space import SmallerSpace

# The predictor's settings are made for this many pairs or more.
FEWEST_PAIRS = 25
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
        out: dict[str, Candidate] = {}
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
            plan = self.task.planned(number)
            if plan is not None and plan.reconstructed == self.reconstructed:
                before, fitted = (measured, left, number), None
            else:
                missing = self.count - len(measured) - len(out)
                step = self._fitted(measured, number, left, list(out.values()))
                plan, fitted = step.plan(math.ceil(missing / to_come)), step.fitted
                self.task.begin_round(plan)
            self.task.judged(plan.quality)
            # What is out is being measured already, but for what an earlier process has left.
            wanted = {each.architecture.key: each for each in (*plan.out, *plan.batch)}
            out |= wanted
            # Of the last round everything is waited for.
            promises_nothing = is_nothing(self.task, plan.promised)
            closing = promises_nothing or to_come == 1 or len(measured) + len(out) >= self.count
            new = self._measured(list(wanted.values()), closing=closing)
            for each in new:
                out.pop(each.architecture.key, None)
            measured, left = measured + new, SmallerSpace.of(self.task.space, (*left.removed, *plan.removed))
            rounds.append(plan.record(new, measured))
            self.task.end_round(rounds[-1])
            if promises_nothing:
                break
        if fitted is None:
            # All of it is past; what it ended with is fitted as it was then.
            known, space, number = before
            fitted = self._fitted(known, number, space).fitted
        return measured, tuple(rounds), fitted

    def _fitted(
        self, measured: Sequence[Measurement], number: int, left: SmallerSpace, out: Sequence[Candidate] = ()
    ) -> Round:
        return Round(self.task, self.table, measured, out, number, left, reconstructed=self.reconstructed)

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
