"""What is trained of a model, and how it becomes part of its weights."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.errors import ConfigError, ModelError

PARTS = ("all", "attention", "mlp")


@runtime_checkable
class Trainee(Protocol):
    """A model in training."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Give what is trained, by a name that is the same in every process."""
        ...

    def at(self, step: int, /) -> PreTrainedModel:
        """Give the model that takes a step, in training mode; the same for the same step."""
        ...

    def judged(self) -> PreTrainedModel:
        """Give the model that is judged on the selection set, in evaluation mode."""
        ...

    def finish(self) -> PreTrainedModel:
        """Make what was trained part of the weights; the model is then as it was but for them."""
        ...

    def discard(self) -> PreTrainedModel:
        """Take off what was trained; the model is then as it was. Nothing more is asked of the trainee."""
        ...


class WholeModel:
    """Every weight of a model is trained, in float32; for small models."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Give the model weights of its own: a pruned one shares its embeddings and its head with the dense one."""
        self._model = model
        self._given = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.data = parameter.detach().clone().float()
            parameter.requires_grad_(True)

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return dict(self._model.named_parameters())

    def at(self, _step: int, /) -> PreTrainedModel:
        return self._model.train()

    def judged(self) -> PreTrainedModel:
        return self._model.eval()

    def finish(self) -> PreTrainedModel:
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.data = parameter.data.to(self._given[name].dtype)
        self._given.clear()
        return self._model.eval()

    def discard(self) -> PreTrainedModel:
        for name, parameter in self._model.named_parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
            parameter.data = self._given[name]
        return self._model.eval()


def compute_layers_twice(model: PreTrainedModel) -> None:
    """Let a model in training keep of each layer only what goes into it, and compute the rest again for the gradients.

    Raises:
        ConfigError: It cannot.
    """
    if not model.supports_gradient_checkpointing:
        raise ConfigError(f"recovery.checkpointing: a {type(model).__name__} cannot compute layers twice; leave it out")
    # Newer versions of transformers, and older ones.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # With adapters it lets embeddings have gradients, for the other way to compute twice.
    model.disable_input_require_grads()


def compute_layers_once(model: PreTrainedModel) -> None:
    """Take `compute_layers_twice` back."""
    disable = getattr(model, "activation_checkpointing_disable", None) or model.gradient_checkpointing_disable
    disable()


class Finished:
    """A model of which nothing is trained any more, to be judged as those are that are."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {}

    def at(self, _step: int, /) -> PreTrainedModel:
        return self._model

    def judged(self) -> PreTrainedModel:
        return self._model.eval()

    def finish(self) -> PreTrainedModel:
        return self._model

    def discard(self) -> PreTrainedModel:
        return self._model


def projections(model: nn.Module, part: str = "all") -> dict[str, nn.Module]:
    """Give the projections of a decoder's layers by their paths.

    Args:
        part: `all`, or those of `attention` or `mlp` alone.

    Raises:
        ConfigError: There is no such part.
        ModelError: The model has no layers, or they have no projections.
    """
    if part not in PARTS:
        raise ConfigError(f"recovery.modules={part!r} is not known: expected {', '.join(PARTS)}")
    lists = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.ModuleList)]
    sizes = {name: sum(parameter.numel() for parameter in each.parameters()) for name, each in lists}
    if not sizes:
        raise ModelError(f"a {type(model).__name__} has no list of layers, and is no decoder that can be recovered")
    path = max(sizes, key=lambda name: sizes[name])
    found: dict[str, nn.Module] = {
        f"{path}.{name}": module
        for name, module in model.get_submodule(path).named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not _routes(name)
    }
    wanted = {name: each for name, each in found.items() if part == "all" or part == _part(name.removeprefix(path))}
    if not wanted:
        raise ModelError(f"the layers of a {type(model).__name__} have no linear projections ({part}) to adapt")
    return wanted


def parts_of(model: nn.Module) -> tuple[str, ...]:
    """Give the parts of a model that have projections, of `PARTS`."""
    kinds = {_part(name) for name in projections(model)}
    return tuple(part for part in PARTS if part == "all" or part in kinds)


def _part(path: str) -> str:
    return "attention" if "attn" in path or "attention" in path else "mlp"


def _routes(path: str) -> bool:
    """Whether a projection sends tokens to experts: what is learned there in a short training is who gets none."""
    return path.rpartition(".")[2] in ("router", "gate", "shared_expert_gate")


@torch.no_grad()
def values_of(parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copy the values of parameters."""
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def set_values(parameters: Mapping[str, nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    """Set parameters to values, in place."""
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
