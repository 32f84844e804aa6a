"""Which tokens of a document a model should learn to predict: all of a text, the responses of a chat."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from secateur.errors import DataError
from secateur.token_stream import Conversation, Instruction, encode

RESPONDER = "assistant"
# What templates write around a response, so that transformers can say which tokens it has.
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Stand around a response while a template writes it. No text has them: Unicode reserves them for such a use.
BEGIN, END = "\ufdd0", "\ufdd1"
# Templates of models that think leave out of earlier responses what stands before it.
THOUGHT = "</think>"


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
    """Tokenise a document as it is packed into windows everywhere else, and say what counts.

    Of a chat and of an instruction the responses count, each with the token that ends it.

    Raises:
        DataError: It cannot be said which tokens are a response.
    """
    ids = encode(tokenizer, document).ids
    if isinstance(document, Conversation):
        counted = _of_conversation(tokenizer, document)
    elif isinstance(document, Instruction):
        text = str(document)
        of_text = _overlapping(_offsets(tokenizer, text), [(document.response_start, len(text))], len(text))
        ended = [True] * (tokenizer.eos_token_id is not None)
        counted = [False] * (len(ids) - len(of_text) - len(ended)) + of_text + ended
    else:
        counted = [True] * len(ids)
    assert len(counted) == len(ids), "the tokens are those of `encode`"
    return CountedTokens(ids, counted)


def _of_conversation(tokenizer: PreTrainedTokenizerBase, conversation: Conversation) -> list[bool]:
    messages, text = json.loads(conversation), conversation.written_by(tokenizer)
    offsets = _offsets(tokenizer, text)
    if GENERATION.search(tokenizer.get_chat_template()):
        marked: Any = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        return [bool(each) for each in marked["assistant_masks"]]
    spans = _marked_spans(tokenizer, messages, text)
    counted = _overlapping(offsets, spans, len(text))
    enders = _enders(tokenizer)
    ids = encode(tokenizer, conversation).ids
    for _, end in spans:
        place = int(np.searchsorted(offsets[:, 0], end))
        # What a template writes between a response and its end has to be written by the model too.
        blank = place
        while blank < len(ids) and text[offsets[blank, 0] : offsets[blank, 1]].isspace():
            blank += 1
        if blank < len(ids) and ids[blank] in enders:
            counted[place : blank + 1] = [True] * (blank + 1 - place)
    return counted


def _offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Give the first character of each token, and the one behind its last."""
    if not tokenizer.is_fast:
        raise DataError(
            f"{type(tokenizer).__name__} is no fast tokenizer, and cannot say which tokens are a response; give plain "
            "text, or a model with a tokenizer.json"
        )
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
    return np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)


def _overlapping(
    offsets: "np.ndarray[Any, np.dtype[np.int64]]", spans: Sequence[tuple[int, int]], length: int
) -> list[bool]:
    """Say which tokens have a character in a span."""
    inside = np.zeros(length, dtype=np.int64)
    for begin, end in spans:
        inside[begin:end] = 1
    before = np.concatenate([[0], inside.cumsum()])
    return [bool(each) for each in before[offsets[:, 1]] > before[offsets[:, 0]]]


def _enders(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Give the tokens that may end a response: special ones, but for what begins a text and nothing else."""
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    special |= set(tokenizer.all_special_ids)
    return special - ({tokenizer.bos_token_id} - {tokenizer.eos_token_id})


def _marked_spans(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]], text: str
) -> list[tuple[int, int]]:
    """Let the template write the chat once more, with marks around its responses.

    Raises:
        DataError: It then writes another text.
    """
    parts = [_parts(each["content"]) if _responds(each) else None for each in messages]
    marked = [
        message | {"content": f"{part[0]}{BEGIN}{part[1]}{END}{part[2]}"} if part else message
        for message, part in zip(messages, parts, strict=True)
    ]
    written = Conversation(json.dumps(marked, ensure_ascii=False)).written_by(tokenizer)
    pieces = re.split(f"[{BEGIN}{END}]", written)
    marks = [each for each in written if each in (BEGIN, END)]
    responses = list(filter(None, parts))
    if "".join(pieces) != text or marks != [BEGIN, END] * len(responses):
        raise DataError(
            "the tokenizer's chat template does not write responses as they are, and it cannot be said which tokens "
            "they have; give plain text, or a template with {% generation %} around responses"
        )
    places = np.cumsum([len(piece) for piece in pieces]).tolist()
    spans = []
    for begin, end, (before, _, _) in zip(places[0::2], places[1::2], responses, strict=False):
        thought = before.lstrip()
        spans.append((begin - len(thought) if text[:begin].endswith(thought) else begin, end))
    return spans


def _responds(message: Mapping[str, Any]) -> bool:
    content = message["content"]
    if message["role"] == RESPONDER and content and not isinstance(content, str):
        raise DataError(
            f"a response of a conversation is {type(content).__name__}, expected a text; leave such conversations out"
        )
    return bool(message["role"] == RESPONDER and content and content.strip())


def _parts(content: str) -> tuple[str, str, str]:
    """Cut a response into what templates always write, and what some of them take away before and behind it."""
    thought, mark, said = content.rpartition(THOUGHT)
    if not said.strip():
        thought, mark, said = "", "", content
    core = said.strip()
    before, behind = said.split(core, 1)
    return f"{thought}{mark}{before}", core, behind
