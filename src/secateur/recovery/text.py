"""The recovery set: windows of text to train on, with what counts in each and the domain it comes from."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.errors import DataError
from secateur.recovery.responses import CountedTokens, encode_counted

# Of a batch at least; fewer make no epoch.
MIN_WINDOWS = 4


@dataclass(frozen=True)
class Batch:
    """Windows that a step is taken on: their places in the recovery set, and what stands there."""

    places: Int[Tensor, " windows"]
    tokens: Int[Tensor, "windows length"]
    counted: Bool[Tensor, "windows predictions"]
    domains: Int[Tensor, " windows"]

    @property
    def num_counted(self) -> Float[Tensor, " windows"]:
        return self.counted.sum(1).float()

    def __len__(self) -> int:
        return len(self.places)

    def split(self, windows: int) -> list["Batch"]:
        """Cut into batches of at most so many windows."""
        parts = zip(
            *(each.split(windows) for each in (self.places, self.tokens, self.counted, self.domains)), strict=True
        )
        return [Batch(*part) for part in parts]


@dataclass(frozen=True)
class RecoverySet:
    """Windows to train on. Nothing of them is in a selection or evaluation set.

    Attributes:
        counted: Which of a window's predictions count: all in plain text, the responses in chats.
        domains: Of each window, as a place in `domain_names`.
    """

    tokens: Int[Tensor, "windows length"]
    counted: Bool[Tensor, "windows predictions"]
    domains: Int[Tensor, " windows"]
    domain_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_tokens(self) -> int:
        return self.tokens.numel()

    @property
    def fingerprint(self) -> str:
        hasher = hashlib.sha256(self.tokens.to(torch.int64).cpu().numpy().tobytes())
        hasher.update(self.counted.cpu().numpy().tobytes())
        hasher.update(self.domains.to(torch.int64).cpu().numpy().tobytes())
        return hasher.hexdigest()[:16]

    def batch(self, places: Int[Tensor, " windows"]) -> Batch:
        return Batch(places, self.tokens[places], self.counted[places], self.domains[places])


def build_recovery_set(
    documents_of: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    num_tokens: int,
) -> RecoverySet:
    """Tokenise and pack every domain's documents into windows, domain by domain.

    Where there is more text than `num_tokens`, every domain gives the same share of its characters.

    Args:
        documents_of: Documents by domain; a single domain may be called anything.

    Raises:
        DataError: A domain has less text than a window, or there is too little in all.
    """
    characters = {name: sum(map(len, documents)) for name, documents in documents_of.items()}
    whole = max(1, sum(characters.values()))
    cut = {
        name: _cut(documents, tokenizer, sequence_length, math.ceil(num_tokens * characters[name] / whole))
        for name, documents in documents_of.items()
    }
    tokens, counted, domains = [], [], []
    for place, (name, (own, own_counted)) in enumerate(cut.items()):
        if not len(own):
            raise DataError(
                f"domain {name!r} of the recovery set has less text that counts than a window of {sequence_length} "
                "tokens (of chats only responses count); give it more, or lower data.sequence_length"
            )
        tokens.append(own)
        counted.append(own_counted)
        domains.append(torch.full((len(own),), place))
    recovery_set = RecoverySet(torch.cat(tokens), torch.cat(counted), torch.cat(domains), tuple(cut))
    if len(recovery_set) < MIN_WINDOWS:
        raise DataError(
            f"the recovery set has {recovery_set.num_tokens} tokens, at least {MIN_WINDOWS * sequence_length} are "
            f"needed ({MIN_WINDOWS} windows of {sequence_length}); give more text or lower data.sequence_length"
        )
    return recovery_set


def _cut(
    documents: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, most: int
) -> tuple[Int[Tensor, "windows length"], Bool[Tensor, "windows predictions"]]:
    """Pack documents one after the other, up to so many tokens; windows in which nothing counts are left out."""
    pieces: list[CountedTokens] = []
    found = 0
    # In the order of their hash: which of them come first has nothing to do with the order of the file.
    for document in sorted(documents, key=_hash):
        if found >= most:
            break
        pieces.append(encode_counted(tokenizer, document))
        found += len(pieces[-1].ids)
    joined = CountedTokens.joined(pieces)
    windows = min(found, max(most, length)) // length
    tokens = torch.tensor(joined.ids[: windows * length], dtype=torch.int64).view(windows, length)
    counted = torch.tensor(joined.counted[: windows * length], dtype=torch.bool).view(windows, length)[:, 1:]
    some = counted.any(1)
    return tokens[some], counted[some]


def _hash(document: str) -> str:
    return hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()
