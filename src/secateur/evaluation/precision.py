"""In which type the matrix products of candidates are computed."""

import torch
from transformers import PreTrainedModel

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# What a processor says of itself where it has instructions for products of bfloat16; without them they are emulated,
# ten times slower than float32 (docs/log.md).
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def measuring_dtype(wanted: str, model: PreTrainedModel) -> torch.dtype:
    """Give the type that a configuration asks for.

    Args:
        wanted: `float32`, `bfloat16`, or `auto`: bfloat16 for a float32 model where the device multiplies it fast. It
            ranks candidates as float32 does (docs/log.md). A model that is computed in 16 bits stays so.
    """
    if model.dtype != torch.float32:
        return model.dtype
    if wanted != "auto":
        return TYPES[wanted]
    return torch.bfloat16 if multiplies_bfloat16(model.device) else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Say whether a device has instructions for products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in INSTRUCTIONS)
