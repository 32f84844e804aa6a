"""How long a run will still take: what was expected of every stage, corrected by how fast the work has gone so far."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from secateur.runs.progress import (
    Event,
    PredictorFitted,
    StageAdvanced,
    StageEnded,
    StageStarted,
    StageWork,
    WorkExpected,
)

# Of one kind of work: so many expected steps of it count as having gone as all work has, beside those observed.
PRIOR_STEPS = 1.0
# Of all work: this share of what is expected in all counts as having gone as expected.
PRIOR_SHARE = 0.02


@dataclass(frozen=True)
class _Unit:
    """One step of a stage, or the work between two."""

    kind: str
    seconds: float
    is_step: bool


@dataclass
class _Seen:
    """What was expected of the work that has been done, what it took, and how much one unit of it should take."""

    expected: float = 0.0
    observed: float = 0.0
    units: int = 0

    @property
    def usual(self) -> float:
        return self.expected / self.units if self.units else 0.0


def units_of(work: StageWork) -> list[_Unit]:
    """Take a stage's work apart into steps and what is between them."""
    units: list[_Unit] = []
    for part in work.parts:
        each = part.seconds / max(part.steps, 1)
        units += [_Unit(part.kind, each, part.steps > 0)] * max(part.steps, 1)
    return units


@dataclass
class TimeLeft:
    """Listens to a run, and tells how long it will still take.

    Every kind of work (`Part.kind`) has a pace of its own: what it took over what was expected. Kinds that have not
    been met go at the pace of all work together. Steps count by their own seconds where they are made in groups, and
    by the time since the event before otherwise.

    Attributes:
        clock: Seconds of a clock that runs evenly.
    """

    clock: Callable[[], float] = time.monotonic
    _stages: dict[str, list[_Unit]] = field(default_factory=dict)
    _expected: float = 0.0
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _running: str | None = None
    _place: int = 0
    _done: int = 0
    _last: float = 0.0

    def listen(self, event: Event) -> None:
        now = self.clock()
        if isinstance(event, WorkExpected):
            self._stages |= {work.stage: units_of(work) for work in event.stages}
            self._expected += event.seconds
        elif isinstance(event, StageStarted):
            self._running, self._place, self._done = event.stage, 0, 0
        elif isinstance(event, StageAdvanced) and event.stage == self._running:
            self._advance(event, now - self._last)
        elif isinstance(event, PredictorFitted) and event.stage == self._running:
            self._pass_between(now - self._last)
        elif isinstance(event, StageEnded):
            if event.stage == self._running:
                self._running = None
            self._stages.pop(event.stage, None)
        self._last = now

    @property
    def known(self) -> bool:
        """Whether anything was said of the work to come."""
        return self._expected > 0

    @property
    def seconds(self) -> float | None:
        """Seconds left of the whole run; None as long as nothing is known of it."""
        if not self.known:
            return None
        left = 0.0
        for stage, units in self._stages.items():
            to_come = units[self._place :] if stage == self._running else units
            of_stage = sum(unit.seconds * self.pace(unit.kind) for unit in to_come)
            if stage == self._running:
                # What is under way is partly done; it may also take longer than anyone thought.
                of_stage = max(of_stage - (self.clock() - self._last), 0.1 * of_stage)
            left += of_stage
        return left

    def pace(self, kind: str) -> float:
        """Give what a kind of work takes over what was expected of it."""
        overall = self._overall()
        seen = self._seen.get(kind)
        if seen is None or not seen.expected:
            return overall
        prior = PRIOR_STEPS * seen.usual
        return (seen.observed + prior * overall) / (seen.expected + prior)

    def _overall(self) -> float:
        prior = PRIOR_SHARE * self._expected
        observed = sum(seen.observed for seen in self._seen.values())
        expected = sum(seen.expected for seen in self._seen.values())
        return (observed + prior) / (expected + prior) if expected + prior else 1.0

    def _advance(self, event: StageAdvanced, elapsed: float) -> None:
        units = self._stages.get(event.stage, [])
        # Steps that an earlier process has made are passed over.
        while self._done < event.done - 1 and self._place < len(units):
            self._done += units[self._place].is_step
            self._place += 1
        passed = []
        while self._place < len(units):
            unit = units[self._place]
            passed.append(unit)
            self._place += 1
            if unit.is_step:
                break
        self._done = event.done
        if event.seconds is not None:
            # Groups of steps tell their own times; what came before the first of them is not told apart.
            # From the run folder it took nothing, which says nothing of what is to come.
            self._credit(passed[-1:] if event.seconds else [], event.seconds)
        else:
            self._credit(passed, elapsed)

    def _pass_between(self, elapsed: float) -> None:
        """Pass over the next work between steps, which has just been done."""
        units = self._stages.get(self._running or "", [])
        for place in range(self._place, len(units)):
            if not units[place].is_step:
                self._credit([units[place]], elapsed)
                # Rounds may be fewer or smaller than expected: steps before it will not come.
                self._place = place + 1
                self._done += sum(unit.is_step for unit in units[self._place : place])
                return

    def _credit(self, units: list[_Unit], seconds: float) -> None:
        """Note what units took, shared out among them as it was expected; what was to take nothing teaches nothing."""
        expected = sum(unit.seconds for unit in units)
        if not expected:
            return
        for unit in units:
            seen = self._seen.setdefault(unit.kind, _Seen())
            seen.expected += unit.seconds
            seen.observed += seconds * unit.seconds / expected
            seen.units += 1
