"""Timing pieces of work beside each other: warmed up, repeated, in a new random order each time."""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import numpy as np
import torch

WARM_UPS = 3

Clock = Callable[[], float]
Key = TypeVar("Key", bound=Hashable)
# Makes a piece of work ready; what it gives is then timed.
Work = Callable[[], Callable[[], object]]


def interleaved_seconds(
    work: Mapping[Key, Work],
    repeats: int,
    clock: Clock,
    order: np.random.Generator,
    advance: Callable[[], None] = lambda: None,
) -> dict[Key, list[float]]:
    """Time each piece of work `repeats` times, all of them in a new random order each time.

    What disturbs the machine for a while then disturbs all alike, and not the one whose turn it was; and times of the
    same repeat make pairs.
    """
    keys = list(work)
    for key in keys:
        for _ in range(WARM_UPS):
            work[key]()()
    times: dict[Key, list[float]] = {key: [] for key in keys}
    for _ in range(repeats):
        for index in order.permutation(len(keys)).tolist():
            run = work[keys[index]]()
            start = clock()
            run()
            times[keys[index]].append(clock() - start)
        advance()
    return times


def median_seconds(
    work: Mapping[Key, Work],
    repeats: int,
    clock: Clock,
    order: np.random.Generator,
    advance: Callable[[], None] = lambda: None,
) -> dict[Key, float]:
    """Give the median time of each piece of work; see `interleaved_seconds`."""
    times = interleaved_seconds(work, repeats, clock, order, advance)
    return {key: float(np.median(measured)) for key, measured in times.items()}


def device_clock(device: torch.device) -> Clock:
    """Give a clock that waits for what was sent to the device."""

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def device_name(device: torch.device) -> str:
    """Name what is timed: the GPU, or the CPU with its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} threads"
