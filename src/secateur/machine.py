"""How a process of the command line uses the machine: threads that wait for work, and memory that is used again."""

import ctypes
import os

# Turns of waiting before an idle thread goes to sleep: some microseconds, longer than from one product to the next.
SPINS = "2000"
# mallopt's names, and what they are set to.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_ON_HEAP = 32 << 20
KEPT_ON_HEAP = 256 << 20


def settle_process() -> None:
    """Prepare a process that computes much with tensors of some megabytes; before torch is imported.

    Idle OpenMP threads wait a moment and then sleep. Those that spin on made a run beside another busy process up to
    seven times slower, those that sleep at once must be woken for every product: a walk through the demo model takes
    1.5 times as long (docs/log.md).

    Freed memory up to `KEPT_ON_HEAP` stays with the process. Given back at once, as by default, it comes back page by
    page, each filled with zeros: a quarter of the time of a walk through a small model.

    What the user has set already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:  # glibc has it; other C libraries decide for themselves
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT_ON_HEAP)
