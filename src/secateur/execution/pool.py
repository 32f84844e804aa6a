"""Workers as the supervisor sees them: they become ready, are given a batch, and answer or are lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from secateur.schema import Record


class Batch(Record):
    """What a worker is asked: items of one kind, as JSON texts."""

    kind: str
    items: tuple[str, ...]


class Answer(Record):
    """What a worker gives back: a result per item, or why there is none."""

    results: tuple[str, ...] = ()
    failure: Literal["memory", "other"] | None = None
    reason: str = ""


class Opening(Record):
    """How a worker becomes one: a function of an importable module, called once with a text.

    It gives what the worker says when it is ready, and a function of a batch's kind and items to its results.
    """

    module: str
    function: str
    argument: str


@dataclass(frozen=True)
class Ready:
    """A worker can be given a batch. `said` is what opening it gave."""

    worker: str
    said: str


@dataclass(frozen=True)
class Answered:
    worker: str
    answer: Answer


@dataclass(frozen=True)
class Lost:
    """A worker is gone. `opened` says whether it was ready before."""

    worker: str
    reason: str
    opened: bool


Event = Ready | Answered | Lost


@runtime_checkable
class Pool(Protocol):
    """Workers somewhere. A pool keeps as many as it can: one that is lost is followed by another of another name."""

    def poll(self, seconds: float) -> Sequence[Event]:
        """Give what has happened, waiting at most so long for something."""
        ...

    def send(self, worker: str, batch: Batch) -> None:
        """Give a ready worker a batch; if it is gone, that is an event of the next poll."""
        ...

    def stop(self, worker: str, reason: str) -> None:
        """End a worker that no longer answers; it is lost at the next poll."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...
