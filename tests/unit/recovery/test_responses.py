"""What counts in a document: all of a text, the responses of chats and instructions, with the token that ends them."""

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secateur.data import read_documents
from secateur.errors import DataError
from secateur.recovery.responses import CountedTokens, encode_counted
from secateur.recovery.text import build_recovery_set
from secateur.token_stream import Conversation, Instruction, encode, encode_rows

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
# Content of its ends taken away; the next speaker's token ends a response (GLM-4).
TRIMMED = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}{% endfor %}<|user|>"
# A blank before the end, and the text begins anew with every turn (Llama 2).
SPACED = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} </s>{% endif %}{% endfor %}"
)
NO_END = "{% for m in messages %}{% if m.role == 'user' %}<s>{% endif %}{{ m.content }}{% endfor %}"
# What was thought is left out of earlier responses (Qwen 3).
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>"]
CHAT = [
    {"role": "user", "content": "hello? assistant"},
    {"role": "assistant", "content": " a "},
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "hello hello"},
]


def byte_tokenizer():
    """One token per byte, and one for `he`."""
    letters = {letter: number for number, letter in enumerate([*sorted(pre_tokenizers.ByteLevel.alphabet()), "he"])}
    tokenizer = Tokenizer(models.BPE(letters, [("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def chat_tokenizer(template):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    tokenizer.chat_template = template
    return tokenizer


def conversation(messages):
    return Conversation.of({"messages": messages})


def counted_text(tokenizer, counted: CountedTokens) -> list[str]:
    """Give each run of tokens that count."""
    runs, last = [], False
    for token, counts in zip(counted.ids, counted.counted, strict=True):
        if counts:
            runs = [*runs, [token]] if not last else [*runs[:-1], [*runs[-1], token]]
        last = counts
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["a <|im_end|>", "hello hello<|im_end|>"]),
        (TRIMMED, ["a<|user|>", "hello hello<|user|>"]),
        (SPACED, ["a  </s>", "hello hello </s>"]),
        (NO_END, ["a", "hello hello"]),
        (GENERATION, [" a <|im_end|>", "hello hello<|im_end|>"]),
    ],
    ids=["chatml", "trimmed", "spaced", "no-end", "generation"],
)
def test_of_a_chat_the_responses_count_and_what_ends_them(template, expected):
    tokenizer = chat_tokenizer(template)
    chat = conversation(CHAT)
    counted = encode_counted(tokenizer, chat)
    assert counted.ids == encode(tokenizer, chat).ids
    assert [run.strip() for run in counted_text(tokenizer, counted)] == [run.strip() for run in expected]


def test_what_a_template_leaves_out_of_earlier_responses_does_not_hide_them():
    tokenizer = chat_tokenizer(THINKING)
    thought = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>hello</think>\n\nassistant"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "<think>c</think>\n\nd"},
    ]
    counted = encode_counted(tokenizer, conversation(thought))
    assert counted_text(tokenizer, counted) == ["assistant<|im_end|>", "<think>c</think>\n\nd<|im_end|>"]


def test_what_cannot_be_told_apart_is_refused():
    turned = chat_tokenizer("{% for m in messages %}{{ m.content | reverse }}{% endfor %}")
    with pytest.raises(DataError, match="does not write responses as they are"):
        encode_counted(turned, conversation(CHAT))
    parts = conversation([{"role": "assistant", "content": [{"type": "text", "text": "a"}]}])
    with pytest.raises(DataError, match="a response of a conversation is list"):
        encode_counted(chat_tokenizer(CHATML), parts)

    class Slow(type(turned)):
        is_fast = False

    turned.__class__ = Slow
    with pytest.raises(DataError, match=r"no fast tokenizer.*give plain text"):
        encode_counted(turned, conversation(CHAT))


RECORD = {"instruction": "Say hello.", "input": "", "output": "hello"}


class TestInstructions:
    def test_are_alpacas_prompt_and_a_response_that_ends(self, tmp_path):
        path = tmp_path / "alpaca.jsonl"
        path.write_text("\n".join(map(json.dumps, [RECORD, RECORD | {"input": "to he"}])))
        plain, with_input = read_documents(str(path))
        assert plain.endswith("### Instruction:\nSay hello.\n\n### Response:\nhello")
        assert "### Instruction:\nSay hello.\n\n### Input:\nto he\n\n### Response:\nhello" in with_input
        tokenizer = byte_tokenizer()
        for document in (plain, with_input):
            counted = encode_counted(tokenizer, document)
            stream = encode(tokenizer, document)
            assert counted.ids == stream.ids
            assert (stream.ids[0], stream.ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            assert stream.byte_starts[-1] == stream.byte_starts[-2] == len(document)
            assert counted_text(tokenizer, counted) == ["hello</s>"]
        # Everywhere else all of it is text, one after the other.
        assert encode_rows([plain], tokenizer).ids == encode(tokenizer, plain).ids

    def test_of_another_form_are_refused_with_their_line(self, tmp_path):
        (tmp_path / "bad.jsonl").write_text(json.dumps(RECORD | {"output": 3}))
        with pytest.raises(DataError, match=r"bad.jsonl, line 1: .*'output' is int, expected a text"):
            read_documents(str(tmp_path / "bad.jsonl"))

    def test_without_a_beginning_or_an_end_count_the_same(self):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        assert counted_text(tokenizer, encode_counted(tokenizer, Instruction.of(RECORD))) == ["hello"]
        tokenizer.bos_token = None
        assert counted_text(tokenizer, encode_counted(tokenizer, Instruction.of(RECORD))) == ["hello"]


def test_a_document_longer_than_windows_counts_where_its_response_is():
    """Windows within a long question are left out; a response goes on counting in the window after."""
    tokenizer = chat_tokenizer(CHATML)
    chats = [
        conversation([{"role": "user", "content": "l" * 50}, {"role": "assistant", "content": f"{'o' * 40}{n}"}])
        for n in range(8)
    ]
    recovery_set = build_recovery_set({"text": chats}, tokenizer, 16, 10_000)
    tokens, counted = recovery_set.tokens[:, 1:], recovery_set.counted
    assert counted.any(1).all()
    assert len(recovery_set) < sum(len(encode(tokenizer, chat).ids) for chat in chats) // 16
    letters = tokenizer.convert_tokens_to_ids(["l", "o"])
    assert not counted[tokens == letters[0]].any()
    assert counted[tokens == letters[1]].float().mean() > 0.9
    assert counted.all(1).any()
    assert not torch.equal(counted, torch.ones_like(counted))


def test_a_plain_text_counts_whole():
    counted = encode_counted(byte_tokenizer(), "hello")
    assert all(counted.counted)
