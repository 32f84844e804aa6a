"""A disk that is full: one line, and the run goes on once there is room."""

import subprocess
from pathlib import Path

import pytest
from small_runs import Finished, Invoke, assert_refused

from secateur.config import RunConfig, to_yaml
from secateur.pipeline import resume_pipeline


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own, in memory, whose size can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("size=64k"):
        pytest.skip("needs the right to mount a file system")
    yield folder, mount
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_without_room_for_the_weights_is_refused_before_anything_is_written(
    invoke: Invoke, small_config: RunConfig, tmp_path: Path, small_disk
) -> None:
    folder, _ = small_disk
    (tmp_path / "config.yaml").write_text(to_yaml(small_config))
    assert_refused(invoke("prune", "--config", tmp_path / "config.yaml", "--out", folder / "run"), "has room for")
    assert not (folder / "run").exists()


def test_a_full_disk_is_said_in_one_line_and_the_run_goes_on(
    invoke: Invoke, small_config: RunConfig, finished: Finished, tmp_path: Path, small_disk
) -> None:
    folder, mount = small_disk
    assert mount("remount,size=320k")
    (tmp_path / "config.yaml").write_text(to_yaml(small_config))
    outcome = invoke("prune", "--config", tmp_path / "config.yaml", "--out", folder / "run", "--quiet")
    assert outcome.exit_code == 1, outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert "the disk is full; what was finished is kept" in outcome.stderr
    assert mount("remount,size=1g")
    report = resume_pipeline(folder / "run")
    assert report.choice == finished.report.choice
