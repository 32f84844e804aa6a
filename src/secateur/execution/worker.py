"""A worker process: opens what it works with, says that it is ready, and answers batches, a line of JSON each.

python -m secateur.execution.worker '{"module": ..., "function": ..., "argument": ...}'
"""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence

from secateur.execution.pool import Answer, Batch, Opening

# Does the items of a batch: kind, items -> results.
Work = Callable[[str, Sequence[str]], Sequence[str]]
# Seconds between two looks whether the process that asks is still there.
WATCHED_EVERY = 1.0


def opened(opening: Opening) -> tuple[str, Work]:
    """Call what an opening names."""
    said, work = getattr(importlib.import_module(opening.module), opening.function)(opening.argument)
    return said, work


def answer(work: Work, batch: Batch) -> Answer:
    """Do a batch; what goes wrong is the answer."""
    try:
        return Answer(results=tuple(work(batch.kind, batch.items)))
    except Exception as error:  # of whatever kind: the supervisor decides what becomes of the batch
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Answer(failure="memory" if is_out_of_memory(error) else "other", reason=reason)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that a smaller batch may do; PyTorch's on the CPU is a RuntimeError like others."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def main() -> None:
    """Talk with the supervisor over the standard streams; what else is printed goes to standard error."""
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    said, work = opened(Opening.model_validate_json(sys.argv[1]))
    print(said.replace("\n", " "), file=lines, flush=True)
    for line in sys.stdin:
        print(answer(work, Batch.model_validate_json(line)).model_dump_json(), file=lines, flush=True)


def _end_with(parent: int) -> None:
    """End where the process that asks is gone, in the middle of a batch too."""
    while os.getppid() == parent:
        time.sleep(WATCHED_EVERY)
    os._exit(1)


if __name__ == "__main__":
    main()
