"""The weight bank on disk: a file per module, of which slices are mapped when they are asked for.

All widths of all modules are several times the model; a candidate needs one width of each, one module at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.runs.folder import written_whole


@dataclass(frozen=True)
class MappedTensors(Mapping[str, Tensor]):
    """The tensors of a file whose names begin with a prefix, by the rest of their names.

    Each is opened when it is asked for, and leaves memory with the last that uses it.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]
    device: torch.device

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt", device=str(self.device)) as file:
            return file.get_tensor(self.prefix + name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class ByWidth(Mapping[int, Tensor]):
    """Tensors that are named by a width."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, width: int) -> Tensor:
        return self.tensors[str(width)]

    def __iter__(self) -> Iterator[int]:
        return map(int, self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def write_tensors(path: Path, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Write groups of tensors into a file, each under its group's name, a dot, and its own."""
    tensors = {f"{group}.{name}": tensor for group, own in groups.items() for name, tensor in own.items()}
    with written_whole(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)


def mapped_tensors(path: Path, group: str, device: torch.device, *, hold: bool = False) -> Mapping[str, Tensor]:
    """Give a group of tensors of a file: each brought to the device when it is asked for, or all there at once.

    Candidates ask for what they need of a layer once per group of theirs.
    """
    with safe_open(path, framework="pt") as file:
        held = list(file.keys())
    names = tuple(name.removeprefix(f"{group}.") for name in held if name.startswith(f"{group}."))
    mapped = MappedTensors(path, f"{group}.", names, device)
    return dict(mapped) if hold else mapped


def holds(device: torch.device, num_bytes: int) -> bool:
    """Say whether a bank of so many bytes should lie on a device: on a GPU with room for it and as much again.

    On a CPU the kernel keeps what is used of a mapped file, and drops it where memory is short.
    """
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return 2 * num_bytes <= free
