import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from secateur.demo import decoder_path, generate_documents


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(decoder_path())


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  two  blanks \n\n and\ttabs\r\n",
        "Grüße, κόσμε, 世界, \U0001f600 \u200d e\u0301",
        "12 + 345 = 357",
        "<s> and </s > are text here? [UNK] \x00\x7f",
        "don't stop; x=3.14%",
    ],
)
def test_any_text_survives(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_generated_text_survives_and_begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> None:
    for document in generate_documents(100, seed=61):
        ids = tokenizer(document.text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids[1:])
        assert tokenizer.decode(ids, skip_special_tokens=True) == document.text
        assert len(ids) < 256


def test_digits_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerBase) -> None:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("17 + 28 = 45", add_special_tokens=False)["input_ids"])
    assert pieces == ["1", "7", "Ġ+", "Ġ2", "8", "Ġ=", "Ġ4", "5"]


def test_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert len(tokenizer) == 1024
