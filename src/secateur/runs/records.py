"""Records in a run folder, read back: what is damaged, or of another version, is one line."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from secateur.errors import RunFolderError
from secateur.schema import Record

Kind = TypeVar("Kind", bound=Record)


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """Read a record of a kind.

    Raises:
        RunFolderError: The file cannot be read, is no JSON, or holds something else than this version writes.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "not JSON"
        raise RunFolderError(
            f"{path} is no {kind.__name__} that this version can read ({where}: {first['msg']}); make it again"
        ) from error


def read_text(text: str, kind: type[Kind]) -> Kind:
    """Read a record that a run's database holds as text.

    Raises:
        RunFolderError: It is something else than this version writes.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _unreadable(error, kind) from error


def read_value(value: Any, kind: type[Kind]) -> Kind:
    """Read a record that a stage has left, from plain JSON data.

    Raises:
        RunFolderError: It is something else than this version writes.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _unreadable(error, kind) from error


def _unreadable(error: ValidationError, kind: type[Record]) -> RunFolderError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "not JSON"
    return RunFolderError(
        f"the run's database holds no {kind.__name__} that this version can read where one should be ({where}: "
        f"{first['msg']}); begin again in another --out folder"
    )


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
