"""The front of a finished run, recovered once for all of its points, and a point exported with what that gave it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import Finished, Invoke, Moment, StoppedError
from transformers import AutoModelForCausalLM

from secateur.config import RunConfig
from secateur.data import Role
from secateur.errors import ConfigError, RunFolderError
from secateur.inputs import load_inputs
from secateur.recipe import Recipe
from secateur.recovery.objective import mean_loss
from secateur.report.front_recovery import FrontRecovery, read_front_recovery, record_file
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Event
from secateur.stages.front import read_front
from secateur.stages.recover_front import recover_front

RECIPE = Recipe(method="lora", tokens=1_024, epochs=4, batch_windows=8, judgements=4, learning_rate=1e-2)
# Architectures that take turns besides.
BETWEEN = 1


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    """A run folder of one's own."""
    return Path(shutil.copytree(finished.root, tmp_path / "run"))


@pytest.fixture(scope="module")
def recovered(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FrontRecovery]:
    """A recovery of the whole front that nothing disturbed. Shared between tests, so none may change it."""
    root = Path(shutil.copytree(finished.root, tmp_path_factory.mktemp("recovered") / "run"))
    return root, recover_front(root, RECIPE, between=BETWEEN)


def test_every_point_is_better_or_left_as_it_was(recovered: tuple[Path, FrontRecovery]) -> None:
    root, record = recovered
    front = read_front(root)
    assert [point.number for point in record.points] == [point.number for point in front.points]
    assert [point.architecture for point in record.points] == [point.architecture for point in front.points]
    assert all(point.loss.recovered == (point.loss.after < point.loss.before) for point in record.points)
    assert sum(point.loss.recovered for point in record.points) > len(record.points) / 2
    assert read_front_recovery(RunFolder(root)) == record
    kept = {path.name for path in (root / "recovery-front").iterdir()}
    assert kept == {"request.json", "record.json", "adapters.safetensors"}, "nothing of the training is left"
    assert record.shared.between == BETWEEN


def test_asking_again_gives_what_is_there_and_asking_for_something_else_is_refused(
    recovered: tuple[Path, FrontRecovery],
) -> None:
    root, record = recovered
    assert recover_front(root, RECIPE, between=BETWEEN) == record
    with pytest.raises(RunFolderError, match=r"recovery\.rank was 32, is 4; .*remove that folder"):
        recover_front(root, RECIPE.model_copy(update={"rank": 4}), between=BETWEEN)
    with pytest.raises(RunFolderError, match="points was"):
        recover_front(root, RECIPE, points=(1,), between=BETWEEN)


def test_a_point_is_exported_recovered(
    recovered: tuple[Path, FrontRecovery], small_config: RunConfig, invoke: Invoke, stranger: None
) -> None:
    root, record = recovered
    point = next(point for point in record.points if point.loss.recovered)
    result = invoke("export", root, "--point", point.number, "--out", "point")
    assert result.exit_code == 0, result.output
    assert f"point {point.number}, recovered: perplexity" in result.output
    # The modelling file is the one that this run has just written.
    model = AutoModelForCausalLM.from_pretrained("point", trust_remote_code=True)  # its own file
    selection = load_inputs(small_config).sets[Role.SELECTION].tokens
    assert mean_loss(model, selection, 8) == pytest.approx(point.loss.after, abs=1e-4)
    card = Path("point/README.md").read_text()
    assert "recovered by a short training" in card
    assert "| secateur |" in card
    assert "| recovered |" in card


def test_a_point_that_did_not_gain_is_exported_as_it_was(
    recovered: tuple[Path, FrontRecovery], finished: Finished, tmp_path: Path, invoke: Invoke
) -> None:
    root, record = Path(shutil.copytree(recovered[0], tmp_path / "run")), recovered[1]
    chosen = next(point for point in read_front(root).points if point.chosen)
    lost = record.model_dump(mode="json")
    lost["points"][chosen.number - 1]["loss"]["recovered"] = False
    record_file(RunFolder(root)).write_text(json.dumps(lost))
    result = invoke("export", root, "--point", chosen.number, "--out", "point")
    assert result.exit_code == 0, result.output
    assert "recovered" not in Path("point/README.md").read_text()
    weights, known = (load_file(path / "model.safetensors") for path in (Path("point"), finished.root / "exported"))
    assert all(torch.equal(weights[name], tensor) for name, tensor in known.items())


@pytest.mark.slow
def test_an_interrupted_recovery_goes_on_alike(copied: Path, recovered: tuple[Path, FrontRecovery]) -> None:
    moment = Moment("advanced", 6, "recover")

    def stop(event: Event) -> None:
        if moment.reached(event):
            raise StoppedError

    with pytest.raises(StoppedError):
        recover_front(copied, RECIPE, stop, between=BETWEEN)
    assert read_front_recovery(RunFolder(copied)) is None
    resumed, whole = recover_front(copied, RECIPE, between=BETWEEN).shared, recovered[1].shared
    assert resumed.training.losses == pytest.approx(whole.training.losses, abs=1e-4)
    assert [loss.after for loss in resumed.losses] == pytest.approx([loss.after for loss in whole.losses], abs=1e-4)


def test_full_fine_tuning_of_a_front_is_refused(copied: Path) -> None:
    with pytest.raises(ConfigError, match="use lora"):
        recover_front(copied, RECIPE.model_copy(update={"method": "full"}))
    assert not (copied / "recovery-front").exists()
