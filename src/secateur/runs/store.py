"""The run database: candidates, measurements and stages in one SQLite file.

Every write is one transaction, so that a process killed at any moment leaves a database that holds all that had
happened. Only the driver of a run writes.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from secateur.errors import RunFolderError
from secateur.runs.records import BEGIN_AGAIN, Kind, read_value

SCHEMA = """
CREATE TABLE IF NOT EXISTS stages (
    name TEXT PRIMARY KEY, seconds REAL NOT NULL, payload TEXT NOT NULL, ended_at TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS candidates (
    key TEXT PRIMARY KEY, round INTEGER NOT NULL, position INTEGER NOT NULL, record TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS measurements (
    key TEXT NOT NULL, protocol TEXT NOT NULL, record TEXT NOT NULL, measured_at TEXT NOT NULL,
    PRIMARY KEY (key, protocol)
) STRICT;
"""
NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


@dataclass(frozen=True)
class StageRow:
    """A finished stage: how long it took and what it left, as plain JSON data."""

    name: str
    seconds: float
    payload: Any

    def read(self, kind: type[Kind]) -> Kind:
        """Give what it left as a record.

        Raises:
            RunFolderError: It is something else than this version writes.
        """
        return read_value(self.payload, kind)

    def read_all(self, kind: type[Kind]) -> tuple[Kind, ...]:
        """Give what it left as records, of which there are several."""
        return tuple(read_value(each, kind) for each in self._expected(list))

    def named(self) -> dict[str, Any]:
        """Give what it left as values by name."""
        found: dict[str, Any] = self._expected(dict)
        return found

    def _expected(self, kind: type) -> Any:
        if not isinstance(self.payload, kind):
            raise _foreign(self.name)
        return self.payload


def _foreign(stage: Any) -> RunFolderError:
    return RunFolderError(
        f"the run's database holds something else of stage {stage!r} than this version writes; {BEGIN_AGAIN}"
    )


class RunStore:
    """Open run database. Records go in and come out as JSON text; the rooms above know their types."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises:
            RunFolderError: The file is not a database of this kind.
        """
        self.path = path
        try:
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            # What is written survives the process at once, the machine's power after a moment; it is never torn.
            self._connection.execute("PRAGMA synchronous=NORMAL")
            # A stranger's database has no say in what is run on it.
            self._connection.execute("PRAGMA trusted_schema=OFF")
            self._connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            raise RunFolderError(f"{path} is not a run database ({error}); choose another --out folder") from error

    def __enter__(self) -> "RunStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def end_stage(self, name: str, seconds: float, payload: Any = None) -> None:
        self._connection.execute(
            f"INSERT OR REPLACE INTO stages VALUES (?, ?, ?, {NOW})", (name, seconds, json.dumps(payload))
        )

    def stage(self, name: str) -> StageRow | None:
        rows = self._rows("SELECT name, seconds, payload FROM stages WHERE name = ?", name)
        return self._stage(rows[0]) if rows else None

    def stages(self) -> list[StageRow]:
        """List finished stages in the order in which they ended."""
        rows = self._rows("SELECT name, seconds, payload FROM stages ORDER BY ended_at, rowid")
        return [self._stage(row) for row in rows]

    def add_candidates(self, records: list[tuple[str, int, str]]) -> None:
        """Store proposals as (key, round, record); one that is known keeps its first origin."""
        with self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO candidates VALUES (?, ?, ?, ?)",
                [(key, number, position, record) for position, (key, number, record) in enumerate(records)],
            )

    def candidate(self, key: str) -> str | None:
        rows = self._rows("SELECT record FROM candidates WHERE key = ?", key)
        return rows[0][0] if rows else None

    def candidates(self, round_number: int | None = None) -> list[str]:
        """List candidate records in the order of proposal; those of one round if it is named."""
        rows = self._rows(
            "SELECT record FROM candidates WHERE ?1 IS NULL OR round = ?1 ORDER BY round, position", round_number
        )
        return [record for (record,) in rows]

    def add_measurement(self, key: str, protocol: str, record: str) -> None:
        self._connection.execute(
            f"INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, {NOW})", (key, protocol, record)
        )

    def measurements_of(self, keys: Iterable[str], protocol: str) -> dict[str, str]:
        """Give measurement records of one protocol by key; a key that was not measured is left out."""
        return dict(
            self._rows(
                "SELECT key, record FROM measurements WHERE protocol = ? AND key IN (SELECT value FROM json_each(?))",
                protocol,
                json.dumps(list(keys)),
            )
        )

    def measurements(self, protocol: str) -> list[str]:
        """List measurement records of one protocol in the order in which they were made."""
        rows = self._rows("SELECT record FROM measurements WHERE protocol = ? ORDER BY measured_at, rowid", protocol)
        return [record for (record,) in rows]

    def all_measurements(self) -> list[str]:
        rows = self._rows("SELECT record FROM measurements ORDER BY measured_at, rowid")
        return [record for (record,) in rows]

    def _rows(self, question: str, *values: str | int | None) -> list[tuple[Any, ...]]:
        """Read from the database.

        Raises:
            RunFolderError: It is damaged, or its tables are not ours.
        """
        try:
            return self._connection.execute(question, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise RunFolderError(f"{self.path} cannot be read ({error}); choose another --out folder") from error

    def _stage(self, row: tuple[Any, ...]) -> StageRow:
        name, seconds, payload = row
        try:
            return StageRow(str(name), float(seconds), json.loads(payload))
        except (TypeError, ValueError, RecursionError) as error:
            raise _foreign(name) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def stored_stage(database: Path, name: str) -> StageRow | None:
    """Give what a stage of a run has left, before the run is gone on with; None where nothing is stored yet."""
    if not database.is_file():
        return None
    with RunStore(database) as store:
        return store.stage(name)
