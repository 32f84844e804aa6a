"""A model of the hub is pinned: a run goes on with the commit that it was begun with, whatever is pushed since."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from secateur.config import RunConfig, build_config, read_yaml
from secateur.errors import RunFolderError
from secateur.pipeline import run_pipeline

NAME = "somebody/small"
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def hub(decoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub that holds a model, as a download leaves it; no network is needed."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--somebody--small"
    push(folder, FIRST, decoder_folder)
    return folder


def push(folder: Path, commit: str, files: Path) -> None:
    shutil.copytree(files, folder / "snapshots" / commit)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)


def of_hub(config: RunConfig, revision: str | None = None) -> RunConfig:
    settings = {"model": {"name": NAME, "revision": revision}, "search": {"method": "uniform"}}
    return build_config([config.model_dump(mode="json"), settings])


def test_a_run_pins_the_commit_and_goes_on_with_it(
    hub: Path, decoder_folder: Path, small_config: RunConfig, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    first = run_pipeline(of_hub(small_config), root)
    assert build_config([read_yaml(root / "config.yaml")]).model.revision == FIRST
    (root / "report.json").unlink()
    push(hub, SECOND, decoder_folder)
    again = run_pipeline(of_hub(small_config), root)
    assert again.fingerprints == first.fingerprints
    assert build_config([read_yaml(root / "config.yaml")]).model.revision == FIRST
    with pytest.raises(RunFolderError, match=r"belongs to another run: model.revision"):
        run_pipeline(of_hub(small_config, SECOND), root)
