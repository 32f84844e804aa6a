"""What training needs to go on after an interruption, in one safetensors file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True)
class Progress:
    """How far training has come.

    Attributes:
        elapsed_s: Seconds spent training, interruptions not counted.
        next_document: Index of the first document of the stream that was not yet tokenized.
        leftover: Tokens of earlier documents that were not yet trained on.
    """

    step: int
    tokens: int
    elapsed_s: float
    next_document: int
    leftover: list[int]


def save_checkpoint(
    path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write weights, optimizer state and progress; the file is replaced whole, or not at all."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                tensors[f"optimizer.{names[id(parameter)]}:{key}"] = value
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(progress))})
    temporary.replace(path)


def load_checkpoint(path: Path, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Fill model and optimizers from the file; returns how far training had come."""
    with safe_open(path, framework="pt") as file:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        stored = set(file.keys())
        for optimizer in optimizers:
            for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
                prefix = f"optimizer.{names[id(parameter)]}:"
                optimizer.state[parameter] = {
                    key.removeprefix(prefix): file.get_tensor(key) for key in stored if key.startswith(prefix)
                }
        return Progress(**json.loads(file.metadata()["progress"]))
