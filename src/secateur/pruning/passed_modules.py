"""What a sequential reconstruction leaves at its first modules, for the next one that begins alike."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.model.shape import block_names, module_of
from secateur.model.walk import DecoderWalk


@dataclass(frozen=True)
class _Passed:
    """A module that was passed: its parameters as they were cut, those that were solved, and the state behind it."""

    cut: dict[str, Tensor]
    solved: dict[str, Tensor]
    states: list[Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.cut.values(), *self.solved.values(), *self.states))


class PassedModules:
    """Modules of the model that was reconstructed last, from the first one on, as deep as memory allows.

    What a module becomes depends on its own parameters and on those before it. So where the next model has been cut
    alike, which is looked up in its parameters, it takes over what was solved. Results do not depend on it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._ridge = 0.0
        self._passed: list[_Passed] = []

    @property
    def num_modules(self) -> int:
        """How many are kept."""
        return len(self._passed)

    def take_over(
        self, walk: DecoderWalk, ridge: float, advance: Callable[[], None]
    ) -> tuple[int, list[Tensor] | None]:
        """Give a model, as it was cut, what was solved for the first modules that it shares with the last one.

        Returns:
            How many modules that were, and the states behind them; None before the first.
        """
        if ridge != self._ridge:
            self._ridge, self._passed = ridge, []
        shared = 0
        for index, passed in enumerate(self._passed):
            cut = block_parameters(walk, index)
            if not _alike(passed.cut, cut):
                break
            layer = walk.layers[module_of(index)[0]]
            for name, tensor in passed.solved.items():
                path, _, entry = name.rpartition(".")
                setattr(layer.get_submodule(path), entry, nn.Parameter(tensor, requires_grad=False))
            shared = index + 1
            advance()
        # What follows the first difference is stale.
        del self._passed[shared:]
        return shared, self._passed[-1].states if shared else None

    def keep(self, walk: DecoderWalk, index: int, cut: dict[str, nn.Parameter], states: list[Tensor]) -> None:
        """Keep a module that follows those that are kept, if it fits.

        Args:
            cut: Its parameters before they were solved (`block_parameters`).
        """
        if index != len(self._passed):
            return
        solved = {name: p.detach() for name, p in block_parameters(walk, index).items() if p is not cut[name]}
        passed = _Passed({name: parameter.detach() for name, parameter in cut.items()}, solved, states)
        if passed.num_bytes + sum(each.num_bytes for each in self._passed) <= self._most_bytes:
            self._passed.append(passed)


def block_parameters(walk: DecoderWalk, index: int) -> dict[str, nn.Parameter]:
    """Give the parameters of a module and of its norms, by name inside the layer; none of a module that is gone."""
    layer_index, kind = module_of(index)
    names, layer = block_names(walk.family, kind), walk.layers[layer_index]
    return {
        f"{path}.{name}": parameter
        for path in (names.norm, names.module, names.post_norm)
        if path
        for name, parameter in layer.get_submodule(path).named_parameters()
    }


def _alike(passed: dict[str, Tensor], cut: dict[str, nn.Parameter]) -> bool:
    return passed.keys() == cut.keys() and all(torch.equal(passed[name], cut[name]) for name in cut)
