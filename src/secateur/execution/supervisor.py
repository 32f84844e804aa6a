"""Gives work out: batches to whoever is free, again where a worker was lost, smaller where they were too large."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from secateur.errors import ExecutionError
from secateur.execution.pool import Answer, Batch, Lost, Pool, Ready

# Times that the same single item may take its worker with it, or fail there, before it is given up.
MOST_TRIES = 3
# Workers in a row that were lost before they were ready, after which there is no use in starting more.
MOST_FAILED_OPENINGS = 3
# Seconds for a batch while nothing is known of how long one takes; and times the usual time, once it is.
FIRST_LIMIT, LEAST_LIMIT, TIMES_USUAL = 1_800.0, 60.0, 20.0
# Seconds between two looks at the clock.
LOOK = 1.0


@dataclass
class Part:
    """Some items of what is to be done, by place; `stopped` once their worker is being ended."""

    places: tuple[int, ...]
    tries: int = 0
    stopped: bool = False


@dataclass
class Faults:
    """What went wrong and was mended, counted.

    Attributes:
        lost: Workers that went with a batch, or without one.
        hung: Among them those that were ended, since they did not answer in time.
        split: Batches that were halved.
        given_up: Items that were recorded as failed.
    """

    lost: int = 0
    hung: int = 0
    split: int = 0
    given_up: int = 0


@dataclass
class Supervisor:
    """Has items done by the workers of a pool.

    What an item gives does not depend on who does it, in which batch, or how often it was tried: that is for the
    workers to hold. Results come in the order in which they are made.

    Attributes:
        pool: Where workers are.
        batch_items: Of a batch, at most.
        batch_seconds: After which a worker that does not answer is ended; by what batches usually take if not given.
        expected: What every worker must say when it is ready; what the first one says if not given.
    """

    pool: Pool
    batch_items: int
    batch_seconds: float | None = None
    expected: str | None = None
    faults: Faults = field(default_factory=Faults)
    _free: list[str] = field(default_factory=list)
    _failed_openings: int = 0
    _seconds_per_item: deque[float] = field(default_factory=lambda: deque(maxlen=64))

    def results(self, kind: str, items: Sequence[str], failed: Callable[[int, str], str]) -> Iterator[tuple[int, str]]:
        """Give the place and the result of every item, as they come.

        Args:
            items: Neighbours go into the same batch.
            failed: Gives the result of an item, by place, that no worker could do, and why.

        Raises:
            ExecutionError: No worker can be opened, or one sees something else than the others.
        """
        waiting = deque(self._parts(len(items)))
        at_work: dict[str, tuple[Part, float]] = {}
        while waiting or at_work:
            while waiting and self._free:
                worker, part = self._free.pop(0), waiting.popleft()
                self.pool.send(worker, Batch(kind=kind, items=tuple(items[place] for place in part.places)))
                at_work[worker] = part, time.monotonic()
            for event in self.pool.poll(LOOK):
                if isinstance(event, Ready):
                    self._welcome(event)
                    continue
                given = at_work.pop(event.worker, None)
                if isinstance(event, Lost):
                    self._mourn(event)
                    answer = Answer(failure="other", reason=event.reason)
                else:
                    answer = event.answer
                    self._free.append(event.worker)
                if given is None:
                    continue
                part, begun = given
                if answer.failure is None:
                    self._seconds_per_item.append((time.monotonic() - begun) / len(part.places))
                    yield from zip(part.places, answer.results, strict=True)
                    continue
                again, given_up = self._after_failure(part)
                waiting.extendleft(reversed(again))
                for place in given_up:
                    yield place, failed(place, answer.reason)
            self._end_late(at_work)

    def close(self) -> None:
        self.pool.close()

    def _parts(self, count: int) -> list[Part]:
        """Cut items into batches, no larger than leaves every free worker one."""
        share = -(-count // max(1, len(self._free)))
        size = max(1, min(self.batch_items, share))
        return [Part(tuple(range(start, min(start + size, count)))) for start in range(0, count, size)]

    def _welcome(self, event: Ready) -> None:
        if self.expected is None:
            self.expected = event.said
        if event.said != self.expected:
            raise ExecutionError(
                f"worker {event.worker} sees something else than this process: {event.said}, expected "
                f"{self.expected}; give all machines the same files and versions"
            )
        self._failed_openings = 0
        self._free.append(event.worker)

    def _mourn(self, event: Lost) -> None:
        self.faults.lost += 1
        if event.worker in self._free:
            self._free.remove(event.worker)
        if event.opened:
            return
        self._failed_openings += 1
        if self._failed_openings >= MOST_FAILED_OPENINGS:
            raise ExecutionError(
                f"{self._failed_openings} workers in a row ended before they were ready, the last one with: "
                f"{event.reason}; what was measured is kept, go on with `secateur resume` once that is mended"
            )

    def _after_failure(self, part: Part) -> tuple[list[Part], tuple[int, ...]]:
        """Say what is tried again, and which places are given up."""
        if len(part.places) > 1:
            self.faults.split += 1
            half = len(part.places) // 2
            return [Part(part.places[:half]), Part(part.places[half:])], ()
        if part.tries + 1 < MOST_TRIES:
            return [Part(part.places, part.tries + 1)], ()
        self.faults.given_up += 1
        return [], part.places

    def _end_late(self, at_work: dict[str, tuple[Part, float]]) -> None:
        now = time.monotonic()
        for worker, (part, begun) in at_work.items():
            limit = self._limit(len(part.places))
            if now - begun > limit and not part.stopped:
                part.stopped = True
                self.faults.hung += 1
                self.pool.stop(worker, f"no answer within {limit:.0f} s")

    def _limit(self, count: int) -> float:
        if self.batch_seconds is not None:
            return self.batch_seconds
        if not self._seconds_per_item:
            return FIRST_LIMIT
        return max(LEAST_LIMIT, TIMES_USUAL * count * statistics.median(self._seconds_per_item))
