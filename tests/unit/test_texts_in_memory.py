"""What a caller may hand over as text."""

import json
from pathlib import Path
from typing import Any

import pytest

from secateur.api.texts import as_sources
from secateur.data import Conversation, assign_documents, read_documents
from secateur.errors import DataError

CHAT = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]


class Rows:
    """Stands in for a data set: rows by iteration, columns by name."""

    column_names = ("text", "label")

    def __iter__(self) -> Any:
        return iter([{"text": "one", "label": 0}, {"text": "two", "label": 1}])


def documents(data: Any, text_field: str = "text") -> list[str]:
    sources = as_sources(data, text_field)
    (name,) = sources.names
    assert name.startswith("memory:")
    return list(sources.texts[name])


def test_documents_come_as_texts_rows_and_chats(tmp_path: Path) -> None:
    assert documents(["one", "two"]) == documents(iter(("one", "two"))) == documents(Rows()) == ["one", "two"]
    assert documents([{"body": "one"}], "body") == ["one"]
    chats = documents([CHAT, {"messages": CHAT}])
    assert all(isinstance(chat, Conversation) for chat in chats)
    assert [json.loads(chat) for chat in chats] == [CHAT, CHAT]
    # A document may look like anything but the name of a file that is there.
    assert documents(["what is in a.b?", "x" * 5000, "a\0b"]) == ["what is in a.b?", "x" * 5000, "a\0b"]


def test_files_and_names_are_sources_as_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_text("a document")
    monkeypatch.chdir(tmp_path)
    assert as_sources("some/hub-id").names == ("some/hub-id",)
    assert as_sources("text").names == as_sources(Path("text")).names == (str(path),)
    assert as_sources(["text", "demo", "missing.txt"]).names == (str(path), "demo", "missing.txt")
    assert as_sources(["text"]).texts == {}


def test_the_same_documents_are_split_alike_from_memory_and_from_a_file(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(50)]
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts))
    sources = as_sources(texts)
    in_memory = assign_documents(list(sources.names), {}, texts=sources.texts)
    assert in_memory == assign_documents([str(path)], {})
    assert as_sources(texts).names == sources.names != as_sources(texts[1:]).names
    with pytest.raises(DataError, match="handed over in Python"):
        read_documents(sources.names[0])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"train": ["a"]}, r"data\['train'\]"),
        ([], "no document"),
        (["  "], "no document"),
        (["demo", "a document"], "item 0 of the text is a file"),
        ([{"content": "a"}], "item 0 of the text is no row"),
        (["a", 3], "item 1 of the text is a int"),
        ([[{"role": "user"}]], "no chat"),
    ],
)
def test_what_is_no_text_is_refused(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_sources(data)
