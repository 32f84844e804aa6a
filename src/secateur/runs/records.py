"""Records in a run folder, read back: what is damaged, or of another version, is one line."""

from pathlib import Path
from typing import TypeVar

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
