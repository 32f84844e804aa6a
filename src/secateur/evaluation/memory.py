"""The memory that a model takes while it works."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import PreTrainedModel

# Linux tells a process how much of it is in memory, and how much was at most since somebody wrote RESET here.
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET = "5"


def peak_memory(model: PreTrainedModel, work: Callable[[], object]) -> int | None:
    """Give the bytes of a model's weights and buffers, plus what `work` adds at its peak; None where that is not told.

    Other models may lie in memory beside it: they are in neither part. On a CPU the process's own growth is taken, in
    pages, so that models of a few megabytes may add 0.
    """
    own = sum({id(each): each.numel() * each.element_size() for each in _tensors(model)}.values())
    added = _added_on_gpu(model.device, work) if model.device.type == "cuda" else _added_on_cpu(work)
    return None if added is None else own + added


def memory_measure(device: torch.device) -> str:
    """Say what `peak_memory` gives on a device."""
    how = "torch.cuda.max_memory_allocated" if device.type == "cuda" else "peak resident memory of the process"
    return f"weights and buffers, plus the growth of {how} while the prompt is read and continued"


def _tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def _added_on_gpu(device: torch.device, work: Callable[[], object]) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _added_on_cpu(work: Callable[[], object]) -> int | None:
    gc.collect()
    # What is free inside of the process would be used first, and the growth not be seen. Only glibc has this.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    try:
        CLEAR.write_text(RESET)
        before = _resident("VmRSS")
        work()
        return max(0, _resident("VmHWM") - before)
    except (OSError, ValueError):  # not Linux, or a container that hides it
        return None


def _resident(entry: str) -> int:
    """Read kilobytes of the process's status.

    Raises:
        ValueError: There is no such entry.
    """
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{entry}:"):
            return 1024 * int(line.split()[1])
    raise ValueError(f"no {entry} in {STATUS}")
