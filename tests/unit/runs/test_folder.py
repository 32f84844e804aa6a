import subprocess
import sys

import pytest

from secateur.errors import RunFolderError
from secateur.runs.folder import RunFolder, remove, written_whole

HOLDER = """
import sys
from pathlib import Path
from secateur.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.readline()
"""


def start_holder(root):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


class TestHeld:
    def test_a_second_process_is_refused_and_told_who_holds_the_folder(self, tmp_path):
        with start_holder(tmp_path) as holder:
            for _ in range(2):
                with (
                    pytest.raises(RunFolderError, match=f"in use by process {holder.pid}; wait"),
                    RunFolder(tmp_path).held(),
                ):
                    pass
            holder.communicate("\n")
        with RunFolder(tmp_path).held():
            pass

    def test_a_process_that_was_killed_holds_nothing(self, tmp_path):
        with start_holder(tmp_path) as holder:
            holder.kill()
        with RunFolder(tmp_path).held():
            pass

    def test_an_exception_lets_go(self, tmp_path):
        with pytest.raises(KeyError), RunFolder(tmp_path).held():
            raise KeyError
        with RunFolder(tmp_path).held():
            pass


def write_half(path, as_folder):
    """Begin to write, and fail."""
    with written_whole(path) as partial:
        if as_folder:
            partial.mkdir()
            (partial / "inside").write_text("half")
        else:
            partial.write_text("half")
        raise KeyError


class TestWrittenWhole:
    def test_a_file_appears_when_the_block_has_ended(self, tmp_path):
        path = tmp_path / "report.json"
        with written_whole(path) as partial:
            partial.write_text("whole")
            assert not path.exists()
        assert path.read_text() == "whole"
        assert list(tmp_path.iterdir()) == [path]

    def test_an_exception_leaves_nothing(self, tmp_path):
        for name in ("file", "folder"):
            with pytest.raises(KeyError):
                write_half(tmp_path / name, as_folder=name == "folder")
        assert list(tmp_path.iterdir()) == []

    def test_an_exception_leaves_what_was_there_before(self, tmp_path):
        path = tmp_path / "exported"
        path.mkdir()
        (path / "old").write_text("old")
        with pytest.raises(KeyError):
            write_half(path, as_folder=True)
        assert (path / "old").read_text() == "old"

    def test_a_folder_is_replaced_as_a_whole(self, tmp_path):
        path = tmp_path / "exported"
        path.mkdir()
        (path / "old").write_text("old")
        with written_whole(path) as partial:
            partial.mkdir()
            (partial / "new").write_text("new")
        assert [each.name for each in path.iterdir()] == ["new"]

    def test_a_file_is_replaced(self, tmp_path):
        path = tmp_path / "report.json"
        path.write_text("old")
        with written_whole(path) as partial:
            partial.write_text("new")
        assert path.read_text() == "new"

    def test_what_a_killed_process_left_behind_is_cleared_first(self, tmp_path):
        (tmp_path / ".exported.partial").mkdir()
        (tmp_path / ".exported.partial/stale").write_text("stale")
        with written_whole(tmp_path / "exported") as partial:
            assert not partial.exists()
            partial.mkdir()
        assert list((tmp_path / "exported").iterdir()) == []


def test_removing_what_is_not_there_is_no_trouble(tmp_path):
    remove(tmp_path / "nothing")


def test_a_folder_holds_a_run_once_its_config_is_written(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.holds_a_run
    folder.config.write_text("seed: 0\n")
    assert folder.holds_a_run
    paths = [folder.config, folder.database, folder.bank, folder.uniform_bank, folder.report, folder.exported]
    assert len(set(paths)) == 6
    assert all(path.parent == tmp_path for path in paths)
