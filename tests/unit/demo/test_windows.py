import torch
from transformers import AutoTokenizer

from secateur.demo import decoder_path, generate_documents
from secateur.demo.windows import WindowStream


def test_windows_are_the_stream_cut_into_pieces() -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    stream = WindowStream(tokenizer, seed=3)
    windows = torch.cat([stream.next_windows(2, 64), stream.next_windows(1, 64)])
    expected = [token for document in generate_documents(20, 3) for token in tokenizer(document.text)["input_ids"]]
    assert windows[:, :-1].flatten().tolist() == expected[: 3 * 64]
    assert windows[:, 1:].flatten().tolist() == expected[1 : 3 * 64 + 1]


def test_a_stream_continues_from_its_two_numbers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    stream = WindowStream(tokenizer, seed=3)
    stream.next_windows(3, 50)
    continued = WindowStream(tokenizer, seed=3, next_document=stream.next_document, leftover=list(stream.leftover))
    assert torch.equal(continued.next_windows(4, 50), stream.next_windows(4, 50))
