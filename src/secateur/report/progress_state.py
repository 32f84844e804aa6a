"""Where a run stands, put together from its events: what every way to show progress draws from."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from secateur.runs.progress import (
    KL,
    Event,
    PredictorFitted,
    StageAdvanced,
    StageEnded,
    StageStarted,
    WorkExpected,
)
from secateur.runs.time_left import TimeLeft

# What the steps of a stage are, where they are not just steps.
STEPS = {"search": "candidate", "uniformity": "candidate", "calibrate": "layer and module", "evaluate": "model"}


@dataclass
class ProgressState:
    """Listens to a run, and holds where it stands.

    Attributes:
        clock: Seconds of a clock that runs evenly.
        lowest: Best values so far, one per step that had a value.
        stages: Of the run, in order, where they are known.
    """

    clock: Callable[[], float] = time.monotonic
    stage: str | None = None
    done: int = 0
    total: int | None = None
    value: float | None = None
    metric: str = KL
    lowest: list[float] = field(default_factory=list)
    predictor: PredictorFitted | None = None
    ended: list[StageEnded] = field(default_factory=list)
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._time_left = TimeLeft(self.clock)
        self._start = self.clock()
        self._stage_start = self._start

    def listen(self, event: Event) -> None:
        self._time_left.listen(event)
        if isinstance(event, WorkExpected):
            self.stages = tuple(work.stage for work in event.stages)
        elif isinstance(event, StageStarted):
            self.stage, self.total, self.done, self.value = event.stage, event.total, 0, None
            self.lowest.clear()
            self._stage_start = self.clock()
        elif isinstance(event, StageAdvanced):
            self.metric = event.metric
            self.done, self.value = event.done, event.value if event.value is not None else self.value
            if event.lowest is not None:
                self.lowest.append(event.lowest)
        elif isinstance(event, PredictorFitted):
            self.predictor = event
        elif isinstance(event, StageEnded):
            self.ended.append(event)
            self.stage = None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.clock() - self._start

    @property
    def stage_seconds(self) -> float:
        """Of the stage that runs."""
        return self.clock() - self._stage_start

    @property
    def seconds_left(self) -> float | None:
        """Of the whole run; None where nothing was said of the work to come."""
        return self._time_left.seconds

    @property
    def share_done(self) -> float | None:
        """Of the whole run, in time."""
        left = self.seconds_left
        return None if left is None else self.seconds / max(self.seconds + left, 1e-9)

    @property
    def stage_place(self) -> str:
        """Which stage of how many; empty where that is not known."""
        if self.stage not in self.stages:
            return ""
        return f"stage {self.stages.index(self.stage) + 1} of {len(self.stages)}"

    @property
    def step(self) -> str:
        """The step that the stage is at: `candidate 38 of 60`."""
        if not self.done and not self.total:
            return ""
        word = STEPS.get(self.stage or "", "step")
        return f"{word} {self.done} of {self.total}" if self.total else f"{word} {self.done}"

    @property
    def values(self) -> str:
        """Current and best value with their metric."""
        if self.value is None:
            return ""
        return f"{self.metric} {self.value:.4f}" + (f", best {self.lowest[-1]:.4f}" if self.lowest else "")


def predictor_line(fitted: PredictorFitted) -> str:
    """Say which predictor decides, and how well it ranks."""
    name = fitted.predictor.replace("_", " ")
    pairs = f"{fitted.kendall_tau:.2f} at the budget, {fitted.num_pairs} pairs"
    return f"{name}, Kendall tau {pairs}" if fitted.trusted else f"{name}, tau {pairs}; not trusted"


def duration(seconds: float) -> str:
    """Write seconds as `42 s`, `3:05` or `2:03:05`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def about(seconds: float) -> str:
    """Write how long something will take, no finer than anyone can know it: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 60:
        return f"{max(5 * round(seconds / 5), 1)} s"
    minutes = seconds / 60
    if minutes < 10:
        half = round(2 * minutes) / 2
        return f"{half:g} min"
    if minutes < 90:
        return f"{round(minutes)} min"
    hours, left = divmod(round(minutes / 10) * 10, 60)
    return f"{hours} h {left} min" if left else f"{hours} h"
