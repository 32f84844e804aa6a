"""In which type a checkpoint's tensors are stored, read from the head of its files."""

import json
import struct
from pathlib import Path

import torch
from transformers import PreTrainedModel

# As safetensors names them.
CODES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


def stored_alike(folder: Path, dtype: str) -> bool:
    """Say whether all tensors of a local checkpoint are of one floating-point type; False where it cannot be told."""
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    return bool(files) and all(_types(file) == {CODES.get(dtype)} for file in files)


def has_buffers_of(model: PreTrainedModel, dtype: torch.dtype) -> bool:
    """Say whether a model keeps more than parameters in a type: what it has computed in it cannot be had back."""
    return any(buffer.dtype is dtype for buffer in model.buffers())


def _types(file: Path) -> set[str]:
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        head = json.loads(opened.read(length))
    return {entry["dtype"] for name, entry in head.items() if name != "__metadata__"}
