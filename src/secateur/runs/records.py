"""Records in a run folder, read back: what is damaged, or of another version, is one line."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from secateur.errors import RunFolderError
from secateur.schema import Record

Kind = TypeVar("Kind", bound=Record)
# What to do about a database that is not ours.
BEGIN_AGAIN = "begin again in another --out folder"


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """Read a record of a kind.

    Raises:
        RunFolderError: The file cannot be read, is no JSON, or holds something else than this version writes.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error
    return _read(kind, kind.model_validate_json, text, str(path), "make it again")


def read_text(text: str, kind: type[Kind]) -> Kind:
    """Read a record that a run's database holds as text.

    Raises:
        RunFolderError: It is something else than this version writes.
    """
    return _read(kind, kind.model_validate_json, text, "the run's database", BEGIN_AGAIN)


def read_value(value: Any, kind: type[Kind]) -> Kind:
    """Read a record that a stage has left, from plain JSON data.

    Raises:
        RunFolderError: It is something else than this version writes.
    """
    return _read(kind, kind.model_validate, value, "the run's database", BEGIN_AGAIN)


def _read(kind: type[Kind], read: Callable[[Any], Kind], given: Any, holder: str, what_to_do: str) -> Kind:
    try:
        return read(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise RunFolderError(
            f"{holder} holds no {kind.__name__} that this version can read ({where}: {first['msg']}); {what_to_do}"
        ) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read a run's database and what lies beside it, whoever wrote them.

    Raises:
        RunFolderError: Something there is not what this version writes.
    """
    try:
        yield
    except (sqlite3.Error, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RunFolderError(
            f"{path} holds something that this version did not write ({type(error).__name__}: {reason}); make it again"
        ) from error
