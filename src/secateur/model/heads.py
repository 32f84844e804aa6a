"""Tell an attention module how many heads it has, where it does not count them in its weights."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from secateur.model.families import Family
from secateur.model.shape import BlockKind


def head_attributes(module: nn.Module, family: Family, kept: int, dense: int) -> dict[str, int]:
    """Give what `set_heads` would set: attributes with their values for `kept` of `dense` KV heads."""
    names = family.attention
    paths = (*names.head_counts, *names.kv_head_counts, *names.query_widths)
    return {path: _read(module, path) * kept // dense for path in paths}


def set_heads(module: nn.Module, family: Family, kept: int, dense: int) -> None:
    """Make an attention module one of `kept` KV heads, where it had `dense`."""
    values = head_attributes(module, family, kept, dense)
    if any(path.startswith("config.") for path in values):
        module.config = copy.copy(module.config)
    for path, value in values.items():
        _write(module, path, value)


@contextmanager
def narrowed_heads(module: nn.Module, family: Family, kind: BlockKind, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Let an attention module run on weights of fewer heads than it has, and leave it as it was."""
    names = family.attention
    if kind is not BlockKind.ATTENTION or not (names.head_counts or names.kv_head_counts or names.query_widths):
        yield
        return
    dense = module.get_submodule(names.output).weight
    kept = weights[f"{names.output}.weight"]
    assert isinstance(dense, Tensor), "an output projection has a weight"
    values = head_attributes(module, family, kept.shape[1], dense.shape[1])
    before = {path: _read(module, path) for path in values}
    try:
        for path, value in values.items():
            _write(module, path, value)
        yield
    finally:
        for path, value in before.items():
            _write(module, path, value)


def _read(module: nn.Module, path: str) -> int:
    holder = module.config if path.startswith("config.") else module
    return int(getattr(holder, path.removeprefix("config.")))


def _write(module: nn.Module, path: str, value: int) -> None:
    holder = module.config if path.startswith("config.") else module
    setattr(holder, path.removeprefix("config."), value)
