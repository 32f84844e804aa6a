"""A run's database from a stranger, or from another version: whoever goes on with it is told in one line."""

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from small_runs import Moment, run_until

from secateur.config import RunConfig
from secateur.errors import RunFolderError
from secateur.pipeline import resume_pipeline
from secateur.runs.store import RunStore


@pytest.fixture(scope="module")
def begun(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in the last round of its search."""
    root = tmp_path_factory.mktemp("begun") / "run"
    run_until(small_config, root, Moment("advanced", 33, "search"))
    return root


@pytest.fixture
def folder(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def refused(folder: Path) -> str:
    with pytest.raises(RunFolderError) as caught:
        resume_pipeline(folder, lambda _event: None)
    message = str(caught.value)
    assert "--out" in message, "it says what to do"
    return message


def test_the_search_has_left_what_is_replaced_below(begun: Path) -> None:
    with RunStore(begun / "run.db") as store:
        assert {"load", "calibrate", "round 1", "plan", "speeds"} <= {row.name for row in store.stages()}


@pytest.mark.parametrize("payload", [None, 7, ["a"], {"round": "one"}], ids=repr)
@pytest.mark.parametrize("stage", ["load", "calibrate", "round 1", "plan", "speeds"])
def test_what_a_stage_has_left(folder: Path, stage: str, payload: Any) -> None:
    with RunStore(folder / "run.db") as store:
        store.end_stage(stage, 0.0, payload)
    refused(folder)


@pytest.mark.parametrize(
    "record", ["", "null", "[[", "[" * 5_000, json.dumps({"architecture": 1})], ids=lambda r: r[:9]
)
@pytest.mark.parametrize("table", ["candidates", "measurements"])
def test_records(folder: Path, table: str, record: str) -> None:
    with sqlite3.connect(folder / "run.db") as connection:
        connection.execute(f"UPDATE {table} SET record = ?", (record,))
    assert "can read" in refused(folder)


def test_tables_of_another_kind(folder: Path) -> None:
    with sqlite3.connect(folder / "run.db") as connection:
        connection.execute("DROP TABLE measurements")
        connection.execute("CREATE TABLE measurements (key TEXT, value BLOB)")
    assert "no such column" in refused(folder)


def test_numbers_that_are_none(folder: Path) -> None:
    with sqlite3.connect(folder / "run.db") as connection:
        connection.execute("ALTER TABLE stages RENAME TO ours")
        connection.execute("CREATE TABLE stages (name TEXT PRIMARY KEY, seconds, payload, ended_at)")
        connection.execute("INSERT INTO stages SELECT name, 'long', payload, ended_at FROM ours")
    assert "stage" in refused(folder)
