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


@dataclass
class _Stage:
    """A stage's work, taken apart into steps and what is between them, and how far it has come.

    Attributes:
        place: First of the units that are to come.
        done: Steps behind it.
        ahead: Expected seconds of what is to come, by kind of work: a long search is asked about at every step.
    """

    units: list[_Unit]
    place: int = 0
    done: int = 0
    ahead: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, work: StageWork) -> "_Stage":
        units: list[_Unit] = []
        for part in work.parts:
            each = part.seconds / max(part.steps, 1)
            units += [_Unit(part.kind, each, part.steps > 0)] * max(part.steps, 1)
        stage = cls(units)
        stage.begin()
        return stage

    def begin(self) -> None:
        self.place, self.done, self.ahead = 0, 0, {}
        for unit in self.units:
            self.ahead[unit.kind] = self.ahead.get(unit.kind, 0.0) + unit.seconds

    @property
    def is_over(self) -> bool:
        return self.place == len(self.units)

    def pass_unit(self) -> _Unit:
        unit = self.units[self.place]
        self.place += 1
        self.done += unit.is_step
        self.ahead[unit.kind] -= unit.seconds
        return unit


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
    _stages: dict[str, _Stage] = field(default_factory=dict)
    _expected: float = 0.0
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _running: str | None = None
    _last: float = 0.0

    def listen(self, event: Event) -> None:
        now = self.clock()
        if isinstance(event, WorkExpected):
            self._stages |= {work.stage: _Stage.of(work) for work in event.stages}
            self._expected += event.seconds
        elif isinstance(event, StageStarted):
            self._running = event.stage
            if event.stage in self._stages:
                self._stages[event.stage].begin()
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
        for name, stage in self._stages.items():
            of_stage = sum(seconds * self.pace(kind) for kind, seconds in stage.ahead.items())
            if name == self._running:
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
        stage = self._stages.get(event.stage, _Stage([]))
        # Steps that an earlier process has made are passed over.
        while stage.done < event.done - 1 and not stage.is_over:
            stage.pass_unit()
        passed: list[_Unit] = []
        while not stage.is_over and not (passed and passed[-1].is_step):
            passed.append(stage.pass_unit())
        stage.done = event.done
        if event.seconds is not None:
            # Groups of steps tell their own times; what came before the first of them is not told apart.
            # From the run folder it took nothing, which says nothing of what is to come.
            self._credit(passed[-1:] if event.seconds else [], event.seconds)
        else:
            self._credit(passed, elapsed)

    def _pass_between(self, elapsed: float) -> None:
        """Pass over the next work between steps, which has just been done."""
        stage = self._stages.get(self._running or "", _Stage([]))
        between = next((unit for unit in stage.units[stage.place :] if not unit.is_step), None)
        if between is None:
            return
        self._credit([between], elapsed)
        # Rounds may be fewer or smaller than expected: steps before it will not come, and none of them was done.
        done = stage.done
        while stage.pass_unit() is not between:
            pass
        stage.done = done

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
