"""Whether models can be averaged: the same tensors, the same computation, the same tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from secateur.errors import ModelError
from secateur.model.loading import read_config
from secateur.recovery.ingredients import Head, Ingredient, is_floating

# Entries of a config on which no logit depends.
SAID_ONLY = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures", "auto_map"}
SAID_ONLY |= {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "gradient_checkpointing"}
SAID_ONLY |= {
    "output_hidden_states",
    "output_attentions",
    "return_dict",
    "id2label",
    "label2id",
    "task_specific_params",
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def refuse_differing(ingredients: Sequence[Ingredient], models: Sequence[Path], *, trust_remote_code: bool) -> None:
    """Refuse what cannot be averaged, before any work.

    Args:
        models: Folder of each ingredient's config: its own, or that of the base of an adapter.

    Raises:
        ModelError: Says the first tensor that differs, with both shapes, or the first setting, or whose tokenizer.
    """
    first = ingredients[0]
    for other in ingredients[1:]:
        found = first_difference(first, other)
        if found:
            raise ModelError(f"{first.folder} and {other.folder} cannot be averaged: {found}")
    configs = {each: read_config(str(each), None, trust_remote_code).to_dict() for each in dict.fromkeys(models)}
    for folder, config in configs.items():
        if config.get("quantization_config"):
            raise ModelError(f"{folder} is quantised; average models as they were before, and quantise the soup")
    for folder in list(configs)[1:]:
        named = differing_entry(configs[models[0]], configs[folder])
        if named:
            raise ModelError(f"{models[0]} and {folder} cannot be averaged: their configs differ in {named}")
        for code in models[0].glob("*.py"):
            if (folder / code.name).is_file() and (folder / code.name).read_bytes() != code.read_bytes():
                raise ModelError(f"{models[0]} and {folder} cannot be averaged: their files {code.name} differ")
    _refuse_other_tokens(dict.fromkeys([*models, *(each.folder for each in ingredients)]), trust_remote_code)


def first_difference(first: Ingredient, other: Ingredient) -> str | None:
    """Name the first tensor that differs in more than its values; None where none does."""
    ours, theirs = first.heads, other.heads
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if name not in ours or name not in theirs:
            lacking, having = (first, theirs) if name not in ours else (other, ours)
            return f"{lacking.folder} has no tensor {name!r}, which is {having[name].text} in the other"
        if ours[name] != theirs[name]:
            return f"tensor {name!r} is {ours[name].text} in the first and {theirs[name].text} in the second"
    for name in counted_tensors(ours):
        own = first.tensor(name)
        if not is_floating(own) and not torch.equal(own, other.tensor(name)):
            return f"tensor {name!r} ({ours[name].text}) holds no weights that can be averaged, and differs"
    return None


def counted_tensors(heads: Mapping[str, Head]) -> list[str]:
    """Give the tensors that are no floating-point numbers, as safetensors names types."""
    return [name for name, head in heads.items() if head.dtype not in ("F64", "F32", "BF16", "F16")]


def differing_entry(first: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Name the first entry of two configs that differs and on which logits depend, with both values."""
    for name in sorted({*first, *other} - SAID_ONLY):
        if "dropout" not in name and first.get(name) != other.get(name):
            return f"{name}: {json.dumps(first.get(name), default=str)} and {json.dumps(other.get(name), default=str)}"
    return None


def _refuse_other_tokens(folders: Mapping[Path, None], trust_remote_code: bool) -> None:
    """Compare the tokenizers of those folders that have one."""
    known: dict[Path, Any] = {}
    for folder in folders:
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            known[folder] = spelled(AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code))
    for folder, spelling in known.items():
        first = next(iter(known))
        if spelling != known[first]:
            raise ModelError(f"{first} and {folder} cannot be averaged: their tokenizers cut text differently")


def spelled(tokenizer: PreTrainedTokenizerBase) -> Any:
    """Give all by which a tokenizer turns text into numbers."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer.get_vocab()
    rules = json.loads(backend.to_str())
    return {name: value for name, value in rules.items() if name not in ("truncation", "padding")}
