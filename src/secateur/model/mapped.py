"""Weights in files that are mapped into memory: only what is being used has to be there.

A model and what is made of it are never needed whole at the same time: a walk uses one layer after the other. So the
weights of each layer lie in a file of their own; the kernel reads what is touched, and `release` gives it back.
"""

import mmap
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from secateur.errors import ModelError

# Where a tensor may begin in a file: what vector instructions like, and any number's size divides it.
ALIGNMENT = 64


class MappedWeights:
    """Parameters, laid down in a file and mapped from it.

    The file has no name, so that nothing is left of it however the process ends. Parameters stay the objects that they
    were, and may be changed in place: the file changes with them.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], folder: Path, dtype: torch.dtype | None = None) -> None:
        """Lay down what is on the CPU; parameters on other devices stay there.

        Args:
            folder: On a file system with room for the weights; in memory it would save nothing.
            dtype: What floating-point parameters become; as they are if not given.
        """
        parameters = [each for each in parameters if each.device.type == "cpu" and each.numel()]
        places: list[tuple[nn.Parameter, int, torch.dtype]] = []
        self._map: mmap.mmap | None = None
        if not parameters:
            return
        with tempfile.TemporaryFile(dir=folder) as file:
            for parameter in parameters:
                wanted = dtype if dtype is not None and parameter.is_floating_point() else parameter.dtype
                file.write(bytes(-file.tell() % ALIGNMENT))
                places.append((parameter, file.tell(), wanted))
                file.write(parameter.detach().to(wanted).contiguous().view(-1).view(torch.uint8).numpy().data)
            file.flush()
            self._map = mmap.mmap(file.fileno(), 0)
        for parameter, offset, wanted in places:
            flat = torch.frombuffer(self._map, dtype=wanted, count=parameter.numel(), offset=offset)
            parameter.data = flat.view(parameter.shape)

    def release(self) -> None:
        """Let go of what is in memory; it comes back from the file when it is touched."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def check_room(model: nn.Module, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Refuse to lay weights down where they do not fit.

    Raises:
        ModelError: There is too little room.
    """
    needed = sum(
        parameter.numel() * (dtype or parameter.dtype).itemsize
        for parameter in model.parameters()
        if parameter.device.type == "cpu"
    )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ModelError(
            f"{folder} has room for {free / 1e9:.1f} GB, the model's weights need {needed / 1e9:.1f} GB while it is "
            "pruned; choose an --out folder on a larger disk"
        )
