"""From text to tokens, with the bytes of the text that each of them stands for."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from secateur.errors import DataError

# Who speaks, in ShareGPT's words and in those of chat templates.
SPEAKERS = {"human": "user", "gpt": "assistant"}
# Alpaca's two prompts, without and with something to work on (the form that LLM-Pruner's recovery trains on).
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


class Conversation(str):
    """Messages of a chat as a document: JSON of `[{"role": ..., "content": ...}, ...]` until there is a tokenizer."""

    __slots__ = ()

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Conversation | None":
        """Read `messages` (role, content) or `conversations` (from, value: ShareGPT's); None where neither is there.

        Raises:
            TypeError, KeyError: The messages have another form.
        """
        if isinstance(record.get("messages"), list):
            messages = [{"role": each["role"], "content": each["content"]} for each in record["messages"]]
        elif isinstance(record.get("conversations"), list):
            messages = [
                {"role": SPEAKERS.get(each["from"], each["from"]), "content": each["value"]}
                for each in record["conversations"]
            ]
        else:
            return None
        return cls(_spelt(json.dumps(messages, ensure_ascii=False)))

    def written_by(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """Give the text of the tokenizer's chat template, which writes its own beginning and end.

        Raises:
            DataError: The tokenizer has no template, or refuses the messages.
        """
        if not tokenizer.chat_template:
            raise DataError(
                "the data holds conversations, and the model's tokenizer has no chat template; give plain text, or the "
                "folder of a chat model"
            )
        try:
            return str(tokenizer.apply_chat_template(json.loads(self), tokenize=False))
        except Exception as error:  # a template is a program of its own, which refuses in its own way
            raise DataError(f"the tokenizer's chat template refuses a conversation: {error}") from error


class Instruction(str):
    """A task and its response as a document: Alpaca's prompt and the response, which the tokenizer's EOS ends.

    Attributes:
        response_start: Characters before the response.
    """

    __slots__ = ("response_start",)
    response_start: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Instruction | None":
        """Read `instruction`, `output` and, if there is one, `input`; None where they are not there.

        Raises:
            TypeError: One of them is no text.
        """
        if "instruction" not in record or "output" not in record:
            return None
        texts = {name: record.get(name) or "" for name in ("instruction", "input", "output")}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise TypeError(f"{name!r} is {type(text).__name__}, expected a text")
        prompt = _spelt((PROMPT_WITH_INPUT if texts["input"] else PROMPT).format(**texts))
        instruction = cls(prompt + _spelt(texts["output"]))
        instruction.response_start = len(prompt)
        return instruction


def answered(record: Mapping[str, Any]) -> Conversation | Instruction | None:
    """Read a record in which somebody answers: a chat, or an instruction; None where it is neither.

    Raises:
        TypeError, KeyError: It is one, of another form.
    """
    return Conversation.of(record) or Instruction.of(record)


def _spelt(text: str) -> str:
    """JSON can spell half a character (a lone surrogate), which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class TokenStream:
    """Tokens one behind the other.

    Attributes:
        byte_starts: Where in the text each token begins, in UTF-8 bytes, and last the length of the text: tokens i to j
            (without j) stand for `byte_starts[j] - byte_starts[i]` bytes. A token that marks a beginning stands for
            none; where several tokens spell one character, the last of them stands for it. None where the tokenizer
            cannot say, or puts an unknown token in the place of text.
        row_starts: At which token each row of the text begins.
    """

    ids: list[int]
    byte_starts: list[int] | None
    row_starts: list[int]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def joined(cls, pieces: Sequence["TokenStream"]) -> "TokenStream":
        """Put streams one behind the other."""
        ids: list[int] = []
        byte_starts: list[int] | None = [0]
        row_starts: list[int] = []
        for piece in pieces:
            row_starts += [len(ids) + start for start in piece.row_starts]
            ids += piece.ids
            if byte_starts is not None and piece.byte_starts is not None:
                before = byte_starts.pop()
                byte_starts += [before + start for start in piece.byte_starts]
            else:
                byte_starts = None
        return cls(ids, byte_starts, row_starts)


def encode(tokenizer: PreTrainedTokenizerBase, document: str, only_bos: bool = False) -> TokenStream:
    """Tokenise a document behind the tokenizer's BOS; the response to an instruction ends with its EOS.

    Args:
        only_bos: A tokenizer without BOS puts nothing before the text, instead of its EOS.
    """
    if isinstance(document, Conversation):
        return _encode(tokenizer, document.written_by(tokenizer), None)
    start = tokenizer.bos_token_id
    if start is None and not only_bos:
        start = tokenizer.eos_token_id
    stream = _encode(tokenizer, str(document), start)
    if not isinstance(document, Instruction) or tokenizer.eos_token_id is None:
        return stream
    starts = stream.byte_starts
    return TokenStream([*stream.ids, tokenizer.eos_token_id], starts and [*starts, starts[-1]], stream.row_starts)


def encode_rows(rows: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Join rows by a blank line and tokenise them once, behind one BOS if the tokenizer has one; chats one by one."""
    rows = list(rows)
    if any(isinstance(row, Conversation | Instruction) for row in rows):
        return TokenStream.joined([encode(tokenizer, row, only_bos=True) for row in rows])
    text = "\n\n".join(rows)
    stream = encode(tokenizer, text, only_bos=True)
    if stream.byte_starts is None:
        return stream
    lengths = np.array([len(row.encode("utf-8", "surrogatepass")) + 2 for row in rows])
    begins = np.concatenate([[0], lengths.cumsum()[:-1]])
    # The tokens of a row are those that begin in it; BOS, which stands for nothing, belongs to the first.
    starts = np.searchsorted(np.array(stream.byte_starts[:-1]), begins).tolist()
    return TokenStream(stream.ids, stream.byte_starts, starts)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, start: int | None) -> TokenStream:
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_offsets_mapping=bool(tokenizer.is_fast))
    ids: list[int] = encoded["input_ids"]
    starts = None
    if tokenizer.is_fast and not (tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids):
        before = _bytes_before(text)
        # Never back: what a normaliser puts before a text has no place in it.
        characters = np.maximum.accumulate(np.array([begin for begin, _ in encoded["offset_mapping"]], dtype=np.int64))
        starts = [*before[characters].tolist(), int(before[-1])]
    if start is not None:
        ids = [start, *ids]
        starts = None if starts is None else [0, *starts]
    return TokenStream(ids, starts, [0])


def _bytes_before(text: str) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Give, per character and for the end, how many UTF-8 bytes come before."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    sizes = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], sizes.cumsum()])
