"""What a caller may hand over as text, as sources of the configuration and the documents that are in memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.config import absolute_name
from secateur.data import FILE_SUFFIXES
from secateur.errors import DataError
from secateur.given import memory_source
from secateur.token_stream import answered

# A file, a hub id or `demo`; several of them; or documents: texts, rows with a text or messages, chats.
Text = str | PathLike[str] | Iterable[Any]
FORMS = (
    "give a file, a hub id or 'demo', a list of these, or documents: texts, rows with a text field, or chats (lists of "
    "messages)"
)
# A longer string is a document, whatever the file system would say of it.
LONGEST_NAME = 1_024


@dataclass(frozen=True)
class Sources:
    """Names for the configuration, and the documents that some of them stand for."""

    names: tuple[str, ...]
    texts: dict[str, tuple[str, ...]]


def as_sources(data: Text, text_field: str = "text") -> Sources:
    """Tell names of sources from documents, and give documents a name by their content.

    A string or path alone is a source. In a list, strings are sources where they are `demo` or name a file, else
    documents.

    Raises:
        DataError: It is neither, is both at once, or is empty.
    """
    if isinstance(data, str | PathLike):
        return Sources((absolute_name(str(data)),), {})
    if isinstance(data, Mapping):
        splits = ", ".join(map(repr, list(data)[:5]))
        raise DataError(f"the text is a mapping with {splits}; give one of its values, such as data['train']")
    if hasattr(data, "iloc"):
        raise DataError(
            f"the text is a table of class {type(data).__name__}; give the column: list(data[{text_field!r}])"
        )
    if not isinstance(data, Iterable):
        raise DataError(f"the text is a {type(data).__name__}; {FORMS}")
    items = list(data)
    named = [is_source(item) for item in items]
    if items and all(named):
        return Sources(tuple(absolute_name(str(item)) for item in items), {})
    if any(named):
        place = named.index(True)
        raise DataError(
            f"item {place} of the text is a file ({items[place]!s}) and others are documents; give one kind"
        )
    documents = tuple(as_document(item, place, text_field) for place, item in enumerate(items))
    if not any(document.strip() for document in documents):
        raise DataError(f"the text has no document in it; {FORMS}")
    name = memory_source(documents)
    return Sources((name,), {name: documents})


def is_source(item: object) -> bool:
    """Say whether an item of a list names a file, or the generated text."""
    if isinstance(item, PathLike):
        return True
    if not isinstance(item, str) or len(item) > LONGEST_NAME or "\n" in item:
        return False
    return item == "demo" or Path(item).suffix in FILE_SUFFIXES or _is_file(item)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero in it
        return False


def as_document(item: object, place: int, text_field: str) -> str:
    """Turn a text, a row or a chat into a document.

    Raises:
        DataError: It is none; says which item of the list.
    """
    row: object = item
    try:
        if isinstance(item, Sequence) and not isinstance(item, str | bytes):
            row = {"messages": list(item)}
        if isinstance(row, Mapping):
            spoken = answered(row) if text_field not in row else None
            if spoken is not None:
                return spoken
            row = row[text_field]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"item {place} of the text is no row with a text in {text_field!r} and no chat of messages with role and "
            f"content ({type(error).__name__}: {error}); another field: config={{'data': {{'text_field': NAME}}}}"
        ) from error
    if not isinstance(row, str):
        raise DataError(f"item {place} of the text is a {type(row).__name__}, expected a text; {FORMS}")
    # Half a character (a lone surrogate) is what no tokenizer takes.
    return row.encode("utf-8", "replace").decode("utf-8")
