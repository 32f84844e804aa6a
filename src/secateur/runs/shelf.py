"""Tensors that work in progress puts aside: in memory, or in files that outlive the process."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.runs.folder import remove, written_whole


class Shelf:
    """Named sets of tensors. In a folder each is a file that appears whole, and what is taken is mapped from it."""

    def __init__(self, folder: Path | None = None) -> None:
        """Keep in memory, or in a folder: made if it is missing, and what it holds already can be taken."""
        self._folder = folder
        self._kept: dict[str, dict[str, Tensor]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if self._folder is None:
            self._kept[name] = dict(tensors)
            return
        with written_whole(self._path(name)) as path:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)

    def take(self, name: str) -> dict[str, Tensor]:
        """Give what was put there; from a folder on the CPU, whatever it was on.

        Raises:
            KeyError: There is nothing of that name.
        """
        if name not in self:
            raise KeyError(name)
        return self._kept[name] if self._folder is None else load_file(self._path(name))

    def drop(self, name: str) -> None:
        """Forget a set of tensors, if it is there."""
        self._kept.pop(name, None)
        if self._folder is not None:
            remove(self._path(name))

    def __contains__(self, name: object) -> bool:
        return name in self._kept if self._folder is None else self._path(str(name)).is_file()

    def _path(self, name: str) -> Path:
        assert self._folder is not None, "only asked for where there is a folder"
        return self._folder / f"{name}.safetensors"
