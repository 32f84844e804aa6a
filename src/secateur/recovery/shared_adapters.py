"""Low-rank changes that pruned models of one bank share: what a model keeps of a module is a prefix, of them too.

A projection W [rows, columns] of a pruned model becomes

    W + scale * B[:rows] A[:, :columns]        A [rank, most columns], B [most rows, rank]

Since the bank has each module's groups in one order, row i of a projection into the groups belongs to the same group in
every model that has it, and so does column j of the projection out of them. A projection into the groups so shares A
whole and the first rows of B, one out of them the first columns of A and B whole.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.recovery.trainee import projections
from secateur.schema import derive_seed

# Of the names under which the two factors of a projection are trained and stored, the last part.
INTO_RANK, OUT_OF_RANK = "A", "B"


class SharedAdapters:
    """Two factors per projection, by its path in the models; as wide as the widest model that they were made for."""

    def __init__(self, factors: Mapping[str, nn.Parameter], scale: float) -> None:
        """Take factors by `path.A` and `path.B`."""
        self.parameters = dict(factors)
        self.scale = scale

    @classmethod
    def of_models(
        cls, models: Sequence[PreTrainedModel], rank: int, alpha: int, part: str = "all", seed: int = 0
    ) -> "SharedAdapters":
        """Make adapters that change nothing yet for every projection that any of the models has.

        Raises:
            ConfigError: There is no such part.
            ModelError: The models have no projections to adapt.

        Source:
            LoRA (arXiv 2106.09685): B is zero; A is drawn as nn.Linear's weights are, which is what peft does. Here its
            draw is derived from the path, so that it does not depend on what else is adapted.
        """
        sizes: dict[str, tuple[int, int]] = {}
        devices: dict[str, torch.device] = {}
        for model in models:
            for path, projection in projections(model, part).items():
                rows, columns = _weight(projection).shape
                most_rows, most_columns = sizes.get(path, (0, 0))
                sizes[path] = max(rows, most_rows), max(columns, most_columns)
                devices[path] = _weight(projection).device
        factors = {}
        for path, (rows, columns) in sizes.items():
            generator = torch.Generator().manual_seed(derive_seed(seed, "shared adapter", path))
            into = torch.empty(rank, columns)
            nn.init.kaiming_uniform_(into, a=math.sqrt(5), generator=generator)
            factors[f"{path}.{INTO_RANK}"] = nn.Parameter(into.to(devices[path]))
            factors[f"{path}.{OUT_OF_RANK}"] = nn.Parameter(torch.zeros(rows, rank, device=devices[path]))
        return cls(factors, alpha / rank)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], scale: float) -> "SharedAdapters":
        """Take factors that were trained before."""
        return cls({name: nn.Parameter(tensor, requires_grad=False) for name, tensor in tensors.items()}, scale)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Give the factors as they are stored."""
        return {name: parameter.detach().cpu() for name, parameter in self.parameters.items()}

    @property
    def paths(self) -> list[str]:
        """Give the projections that are adapted."""
        return [name.removesuffix(f".{INTO_RANK}") for name in self.parameters if name.endswith(f".{INTO_RANK}")]

    def attach(self, model: PreTrainedModel, dropout: float = 0.0) -> Callable[[], None]:
        """Let a model compute with its slices until the function that is returned is called; its weights stay.

        Args:
            dropout: Share of a projection's inputs that the change misses, while the model is in training.
        """
        handles = []
        for path, projection in self._own(model).items():
            rows, columns = projection.weight.shape
            into, out_of = (self.parameters[f"{path}.{factor}"] for factor in (INTO_RANK, OUT_OF_RANK))

            def changed(
                module: nn.Module,
                arguments: tuple[Any, ...],
                output: Tensor,
                into: nn.Parameter = into,
                out_of: nn.Parameter = out_of,
                rows: int = rows,
                columns: int = columns,
            ) -> Tensor:
                x = F.dropout(arguments[0], dropout, module.training).to(into.dtype)
                change = F.linear(F.linear(x, into[:, :columns]), out_of[:rows])
                return output + (self.scale * change).to(output.dtype)

            handles.append(projection.register_forward_hook(changed))

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    @torch.no_grad()
    def merge(self, model: PreTrainedModel) -> None:
        """Make a model's slices part of its weights, in place.

        A model may be one that they were not made for: what it has beyond them, modules or groups, stays as it is.

        Raises:
            ModelError: The model has none of the projections.
        """
        for path, projection in self._own(model).items():
            weight = projection.weight
            rows, columns = weight.shape
            into, out_of = (
                self.parameters[f"{path}.{factor}"].detach().to(weight.device) for factor in (INTO_RANK, OUT_OF_RANK)
            )
            change = self.scale * (out_of[:rows] @ into[:, :columns])
            merged = weight.detach().clone()
            reached = merged[: len(change), : change.shape[1]]
            reached.copy_(reached.to(change.dtype) + change)
            projection.weight = nn.Parameter(merged, requires_grad=False)

    def _own(self, model: PreTrainedModel) -> dict[str, nn.Linear]:
        """Give the adapted projections that a model has."""
        named = dict(model.named_modules())
        found = {path: named.get(path) for path in self.paths}
        own = {path: module for path, module in found.items() if isinstance(module, nn.Linear)}
        if not own:
            raise ModelError(
                f"none of the {len(self.paths)} adapted projections is in this {type(model).__name__}; the adapters "
                "were trained for pruned models of another family"
            )
        return own


def _weight(projection: nn.Module) -> Tensor:
    # Of the families whose projections are stored in another way (Conv1D), a model that is cut has linear layers.
    if not isinstance(projection, nn.Linear):
        raise ModelError(
            f"shared adapters are for models that were cut here, whose projections are linear layers; got a "
            f"{type(projection).__name__}; cut the model with secateur.pruning.surgery.prune"
        )
    return projection.weight
