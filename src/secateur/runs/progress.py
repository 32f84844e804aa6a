"""What a run says while it works. The library emits events; only the command line draws them."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage of the main flow begins. `total` counts its steps where they are known."""

    stage: str
    total: int | None = None


@dataclass(frozen=True)
class StageAdvanced:
    """One step of a stage is done. `value` is what the step gave, `lowest` the least of the stage so far."""

    stage: str
    done: int
    value: float | None = None
    lowest: float | None = None


@dataclass(frozen=True)
class StageEnded:
    """A stage is done. `reused` says that its outcome came from the run folder."""

    stage: str
    seconds: float
    note: str = ""
    reused: bool = False


Event = StageStarted | StageAdvanced | StageEnded
Listener = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Ignore every event."""


class StageClock:
    """Handle of a running stage: `advance` after each step, `note` for the line that closes it."""

    def __init__(self, stage: str, listener: Listener) -> None:
        self.stage = stage
        self.note = ""
        self.reused = False
        self.done = 0
        self.seconds = 0.0
        self._lowest: float | None = None
        self._listener = listener

    def advance(self, value: float | None = None) -> None:
        self.done += 1
        if value is not None:
            self._lowest = value if self._lowest is None else min(value, self._lowest)
        self._listener(StageAdvanced(self.stage, self.done, value, self._lowest))


@contextlib.contextmanager
def stage_clock(stage: str, listener: Listener, total: int | None = None) -> Iterator[StageClock]:
    """Emit the events of one stage and time it; nothing ends where an exception passes."""
    clock = StageClock(stage, listener)
    listener(StageStarted(stage, total))
    start = time.perf_counter()
    yield clock
    clock.seconds = time.perf_counter() - start
    listener(StageEnded(stage, clock.seconds, clock.note, clock.reused))
