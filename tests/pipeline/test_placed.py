"""A whole run on a model that accelerate has placed, which on this machine can only be on the CPU or the disk."""

from pathlib import Path

import pytest
from small_runs import Finished, Invoke, assert_refused, stored_measurements

from secateur.config import RunConfig, build_config, read_yaml
from secateur.pipeline import run_pipeline


@pytest.mark.slow
def test_layers_on_the_disk_are_measured_and_calibrated_as_any_others(
    small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    places: dict[str, int | str] = {"model.layers.1": "disk", "": "cpu"}
    config = small_config.model_copy(update={"model": small_config.model.model_copy(update={"device_map": places})})
    report = run_pipeline(config, tmp_path / "run")
    assert build_config([read_yaml(tmp_path / "run" / "config.yaml")]).model.device_map == places
    kls = [measurement.kl for measurement in stored_measurements(tmp_path / "run")]
    assert kls == [measurement.kl for measurement in finished.measurements]
    assert report.choice == finished.report.choice


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("model.device_map=automatic", ("'automatic' is unknown", "balanced")),
        ("model.device_map={model.layers.0: 0, '': cpu}", ("on the CPU beside GPUs", "give GPUs")),
    ],
)
def test_a_map_that_cannot_be_used_is_one_line(
    invoke: Invoke, decoder_folder: Path, text_file: Path, tmp_path: Path, assignment: str, words: tuple[str, ...]
) -> None:
    arguments = ("prune", decoder_folder, "--data", text_file, "--out", tmp_path / "run", "--set", assignment)
    assert_refused(invoke(*arguments), *words)
    assert not (tmp_path / "run").exists()
