"""Weights of an exported model in 8 bits, by torchao as transformers loads it: after pruning, and apart from it."""

import importlib
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, TorchAoConfig

from secateur.errors import ConfigError
from secateur.export.modeling_file import MODULE

SCHEMES = ("int8",)
MISSING = "--quantize needs torchao; install it with: pip install 'secateur[quantize]'"


def check_quantize(folder: Path, scheme: str) -> None:
    """Refuse what cannot be quantised, before anything is loaded.

    Raises:
        ConfigError: The scheme is unknown, torchao is missing, or the folder holds no transformers model.
    """
    if scheme not in SCHEMES:
        raise ConfigError(f"--quantize {scheme} is unknown; known: {', '.join(SCHEMES)}")
    if importlib.util.find_spec("torchao") is None:
        raise ConfigError(MISSING)
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder} holds no transformers model to quantise; GGUF files are quantised with llama.cpp's own tool"
        )


def load_plain(folder: Path) -> PreTrainedModel:
    """Load an export in bfloat16: what quantised weights are compared with, in size and in quality."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    return model.eval()


def load_quantized(folder: Path) -> PreTrainedModel:
    """Load an export with every linear layer's weight in int8, one scale per output channel; embeddings stay bfloat16.

    Source:
        torchao's weight-only int8, symmetric, activations in bfloat16.
    """
    quantization = importlib.import_module("torchao.quantization")
    scheme = TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=scheme)
    return model.eval()


def quantized_card(card: str, scheme: str, note: str) -> str:
    """Say in an export's card what was done to it since, under its title."""
    added = f"Quantised to {scheme} by torchao, which loading needs (`pip install torchao`): {note}."
    return re.sub(r"^# .*$", lambda title: f"{title.group()}\n\n{added}", card, count=1, flags=re.MULTILINE)


def has_own_code(folder: Path) -> bool:
    return (folder / f"{MODULE}.py").is_file()
