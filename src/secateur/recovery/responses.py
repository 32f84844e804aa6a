"""Which tokens of a document a model should learn to predict: all of a text, the responses of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from secateur.token_stream import encode


@dataclass(frozen=True)
class CountedTokens:
    """Tokens, and whether the prediction of each counts."""

    ids: list[int]
    counted: list[bool]

    @classmethod
    def joined(cls, pieces: Sequence["CountedTokens"]) -> "CountedTokens":
        """Put documents one behind the other."""
        return cls([token for piece in pieces for token in piece.ids], [c for piece in pieces for c in piece.counted])


def encode_counted(tokenizer: PreTrainedTokenizerBase, document: str) -> CountedTokens:
    """Tokenise a document as it is packed into windows everywhere else, and say what counts."""
    ids = encode(tokenizer, document).ids
    return CountedTokens(ids, [True] * len(ids))
