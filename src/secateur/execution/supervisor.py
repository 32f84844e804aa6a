"""Gives work out: batches to whoever is free, again where a worker was lost, smaller where they were too large."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from secateur.errors import ExecutionError
from secateur.execution.pool import Answer, Batch, Event, Lost, Pool, Ready

# Times that the same single item may take its worker with it, or fail there, before it is given up.
MOST_TRIES = 3
# Workers in a row that were lost before they were ready, after which there is no use in starting more.
MOST_FAILED_OPENINGS = 3
# Seconds for a batch while nothing is known of how long one takes; and times the usual time, once it is.
FIRST_LIMIT, LEAST_LIMIT, TIMES_USUAL = 1_800.0, 60.0, 20.0
# Seconds between two looks at the clock.
LOOK = 1.0


def batch_size(left: int, most: int, workers: int) -> int:
    """Say how many items the next batch has: the fewer are left, the fewer, so that the last is not waited for long.

    Args:
        most: Items of a batch.

    Source:
        Guided self-scheduling (Polychronopoulos, Kuck 1987), with half of a fair share instead of a whole one.
    """
    return min(most, left if workers == 1 else math.ceil(left / (2 * workers)))


@dataclass
class Part:
    """Some items of what is to be done.

    Attributes:
        most: Of them, how many make a batch; None of what is one.
        stopped: Their worker is being ended.
    """

    items: tuple[str, ...]
    tries: int = 0
    most: int | None = None
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
    _kind: str = ""
    _waiting: deque[Part] = field(default_factory=deque)
    _at_work: dict[str, tuple[Part, float]] = field(default_factory=dict)
    _seconds_per_item: dict[str, deque[float]] = field(default_factory=dict)

    def results(
        self,
        kind: str,
        items: Sequence[str],
        failed: Callable[[str, str], str],
        *,
        batch_items: int | None = None,
        share: float = 1.0,
    ) -> Iterator[tuple[str, str]]:
        """Give items with their results, as they come.

        Args:
            items: Neighbours go into the same batch.
            failed: Gives the result of an item that no worker could do, and why.
            batch_items: Of a batch, at most; as everywhere if not given.
            share: Of all items that have no result yet, what has to be there before this ends. The rest is given by
                later calls of the same kind; without items a call waits for all of it.

        Raises:
            ExecutionError: No worker can be opened, or one sees something else than the others.
        """
        assert kind == self._kind or not self._num_out(), "what is still out is of one kind"
        self._kind = kind
        if items:
            self._waiting.append(Part(tuple(items), most=batch_items or self.batch_items))
        missing = self._num_out()
        needed = math.ceil(share * missing) if items else missing
        while needed > 0:
            self._give_out()
            for event in self.pool.poll(LOOK):
                for each in self._taken(event, failed):
                    needed -= 1
                    yield each
            self._end_late()
        self._give_out()

    def _give_out(self) -> None:
        while self._waiting and self._free:
            part = self._next_batch()
            worker = self._free.pop(0)
            self.pool.send(worker, Batch(kind=self._kind, items=part.items))
            self._at_work[worker] = part, time.monotonic()

    def _taken(self, event: Event, failed: Callable[[str, str], str]) -> Iterator[tuple[str, str]]:
        """Give the results that an event brings."""
        if isinstance(event, Ready):
            self._welcome(event)
            return
        given = self._at_work.pop(event.worker, None)
        if isinstance(event, Lost):
            self._mourn(event)
            answer = Answer(failure="other", reason=event.reason)
        else:
            answer = event.answer
            self._free.append(event.worker)
        if given is None:
            return
        part, begun = given
        if answer.failure is None:
            self._known().append((time.monotonic() - begun) / len(part.items))
            yield from zip(part.items, answer.results, strict=True)
            return
        again, given_up = self._after_failure(part)
        self._waiting.extendleft(reversed(again))
        for item in given_up:
            yield item, failed(item, answer.reason)

    def close(self) -> None:
        self.pool.close()

    def _num_out(self) -> int:
        """Count the items that have no result yet."""
        return sum(len(part.items) for part in (*self._waiting, *(part for part, _ in self._at_work.values())))

    def _next_batch(self) -> Part:
        """Cut a batch of neighbours off what waits; what was tried before is one already."""
        part = self._waiting.popleft()
        if part.most is None:
            return part
        # Cut now, and not before, since workers come and go.
        size = batch_size(len(part.items), part.most, len(self._free) + len(self._at_work))
        if size < len(part.items):
            self._waiting.appendleft(Part(part.items[size:], most=part.most))
        return Part(part.items[:size])

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

    def _after_failure(self, part: Part) -> tuple[list[Part], tuple[str, ...]]:
        """Say what is tried again, and which items are given up."""
        if len(part.items) > 1:
            self.faults.split += 1
            half = len(part.items) // 2
            return [Part(part.items[:half]), Part(part.items[half:])], ()
        if part.tries + 1 < MOST_TRIES:
            return [Part(part.items, part.tries + 1)], ()
        self.faults.given_up += 1
        return [], part.items

    def _end_late(self) -> None:
        now = time.monotonic()
        for worker, (part, begun) in self._at_work.items():
            limit = self._limit(len(part.items))
            if now - begun > limit and not part.stopped:
                part.stopped = True
                self.faults.hung += 1
                self.pool.stop(worker, f"no answer within {limit:.0f} s")

    def _limit(self, count: int) -> float:
        if self.batch_seconds is not None:
            return self.batch_seconds
        if not self._known():
            return FIRST_LIMIT
        return max(LEAST_LIMIT, TIMES_USUAL * count * statistics.median(self._known()))

    def _known(self) -> deque[float]:
        """Give the seconds per item that batches of this kind have taken."""
        return self._seconds_per_item.setdefault(self._kind, deque(maxlen=64))
