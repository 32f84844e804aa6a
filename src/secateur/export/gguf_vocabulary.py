"""A tokenizer as llama.cpp keeps it: byte-level BPE (`gpt2`) or BPE with byte fallback like sentencepiece (`llama`)."""

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from secateur.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
# llama.cpp knows how text is cut before merging by name only; these are the patterns of the names.
_CUT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {_CUT % r"\p{N}{1,3}": "llama-bpe", _CUT % r"\p{N}": "qwen2"}


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer part of a GGUF file says. `scores` for `llama`, `merges` for `gpt2`."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    special: dict[str, int] = field(default_factory=dict)
    begins_with_bos: bool = False


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> Vocabulary:
    """Read a fast tokenizer.

    Args:
        vocab_size: Rows of the embedding; tokens up to there that the tokenizer has not are marked as unused.

    Raises:
        ModelError: It is of a kind that llama.cpp would cut text with otherwise.
    """
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise ModelError(
            f"a tokenizer of type {model['type']!r} cannot be written as GGUF; BPE can be; use another --target"
        )
    sentencepiece = bool(model.get("byte_fallback"))
    names: dict[int, str] = {number: token for token, number in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for number, token in names.items():
        if sentencepiece and len(token) == len("<0x00>") and token.startswith("<0x"):
            types[number] = BYTE
    for added in state["added_tokens"]:
        names[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    if sentencepiece and model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    size = max(vocab_size, 1 + max(names))
    pairs = [merge if isinstance(merge, list) else merge.split(" ", 1) for merge in model["merges"]]
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(pairs):
        ranks.setdefault(left + right, rank)
    special = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "unk", "pad")}
    begins = tokenizer("x")["input_ids"][:1] == [special["bos"]]
    return Vocabulary(
        model="llama" if sentencepiece else "gpt2",
        pre="default" if sentencepiece else _pre_tokenizer(state["pre_tokenizer"]),
        tokens=[names.get(number, f"[PAD{number}]") for number in range(size)],
        types=[types.get(number, UNUSED) for number in range(size)],
        # Only what a merge makes is compared, and the earlier merge goes first.
        scores=[-float(ranks.get(names.get(number, ""), len(pairs))) for number in range(size)]
        if sentencepiece
        else [],
        merges=[] if sentencepiece else [f"{left} {right}" for left, right in pairs],
        special={name: number for name, number in special.items() if number is not None},
        begins_with_bos=begins,
    )


def _pre_tokenizer(state: dict[str, Any] | None) -> str:
    parts = (state or {}).get("pretokenizers", [state or {}])
    for part in parts:
        if part.get("type") == "Split":
            pattern = part["pattern"].get("Regex", "")
            if pattern in PRE_TOKENIZERS:
                return PRE_TOKENIZERS[pattern]
            raise ModelError(
                f"the tokenizer cuts text by a pattern that llama.cpp has no name for ({pattern[:60]}...); "
                "use another --target"
            )
    if any(part.get("type") == "ByteLevel" and part.get("use_regex", True) for part in parts):
        return "gpt-2"
    raise ModelError("the tokenizer cuts text in a way that llama.cpp has no name for; use another --target")
