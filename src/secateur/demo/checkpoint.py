"""What training needs to go on after an interruption, in one safetensors file."""

import json
import os
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


def save_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Write weights, optimizer state and progress; the file is replaced whole, or not at all."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    names = {parameter: name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            tensors[f"optimizer.{key}.{names[parameter]}"] = value
    temporary = path.with_suffix(".partial")
    save_file(tensors, temporary, metadata={"progress": json.dumps(asdict(progress))})
    os.replace(temporary, path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Fill model and optimizer from the file; returns how far training had come."""
    with safe_open(path, framework="pt") as file:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(file.get_tensor(f"model.{name}"))
                optimizer.state[parameter] = {
                    key: file.get_tensor(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")
                }
        return Progress(**json.loads(file.metadata()["progress"]))
