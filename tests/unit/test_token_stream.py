"""Which bytes of a text a token stands for."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secateur.data import Role, build_token_sets, perplexity_windows
from secateur.token_stream import TokenStream, encode, encode_rows
from tiny import sentencepiece_tokenizer


@pytest.fixture
def byte_tokenizer():
    """Every byte is a token, as byte-level BPE spells what it has not merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<s>": 0} | {letter: number for number, letter in enumerate(alphabet, start=1)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def test_several_tokens_of_one_character_stand_for_its_bytes_together(byte_tokenizer):
    stream = encode(byte_tokenizer, "aé€😀b")
    assert len(stream) == 1 + 1 + 2 + 3 + 4 + 1
    assert stream.byte_starts[0] == stream.byte_starts[1] == 0, "BOS stands for nothing"
    assert stream.byte_starts[-1] == len("aé€😀b".encode())
    assert set(stream.byte_starts) == {0, 1, 3, 6, 10, 11}


def test_what_a_normaliser_puts_before_the_text_has_no_bytes():
    stream = encode(sentencepiece_tokenizer(), "hello hé")
    assert stream.byte_starts == sorted(stream.byte_starts)
    assert (stream.byte_starts[0], stream.byte_starts[-1]) == (0, len("hello hé".encode()))


def test_an_unknown_token_hides_how_many_bytes_were_predicted(tokenizer):
    assert encode(tokenizer, "w3 w4").byte_starts == [0, 0, 3, 5]
    assert encode(tokenizer, "w3 nothing").byte_starts is None
    assert TokenStream.joined([encode(tokenizer, "w3"), encode(tokenizer, "nothing")]).byte_starts is None


def test_rows_begin_where_their_first_token_does(tokenizer):
    stream = encode_rows(["w3 w4", "w5", "w6 w7"], tokenizer)
    assert [stream.ids[start] for start in stream.row_starts] == [0, 5, 6], "BOS is the first row's"
    assert stream.byte_starts[-1] == len("w3 w4\n\nw5\n\nw6 w7")


def test_a_window_has_the_bytes_of_all_its_tokens_but_the_first(tokenizer):
    windows = perplexity_windows(["w3 w44 w5 w66 w7 w8"], tokenizer, 3)
    assert windows.tokens.tolist() == [[0, 3, 44], [5, 66, 7]]
    assert windows.window_bytes.tolist() == [len("w3 w44 "), len("w66 w7 ")]
    packed = build_token_sets({Role.EVALUATION: ["w3 w4 w5"] * 8}, tokenizer, 4, {Role.EVALUATION: 16})
    assert packed[Role.EVALUATION].window_bytes.tolist() == [len("w3 w4 w5")] * 4
