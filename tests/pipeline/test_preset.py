"""Published methods through the command line: one with a predictor of its own, one that measures nothing."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from typer.testing import CliRunner, Result

from secateur.cli import app
from secateur.config import RunConfig, build_config, read_yaml
from secateur.report.record import Report
from secateur.stages import search

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def invoke() -> Invoke:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prune(
    invoke: Invoke,
    small_config: RunConfig,
    small_settings: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., tuple[Report, Path]]:
    """Prune with a preset, settings of the small run that are not the method's, and further arguments."""

    def prune(preset: str, *arguments: Any) -> tuple[Report, Path]:
        folder = tmp_path_factory.mktemp(preset)
        shared = {name: section for name, section in small_settings.items() if name != "search"}
        (folder / "shared.yaml").write_text(yaml.safe_dump(shared))
        given = ("--data", small_config.data.sources[0], "--config", folder / "shared.yaml", "--out", folder / "run")
        result = invoke("prune", small_config.model.name, "--preset", preset, *given, *arguments)
        assert result.exit_code == 0, result.output
        return Report.model_validate_json((folder / "run" / "report.json").read_text()), folder / "run"

    return prune


@pytest.fixture(scope="module")
def ji2023(prune: Callable[..., tuple[Report, Path]]) -> Iterator[tuple[Report, Path]]:
    """With fewer random vectors than the paper's 10,000, whose shapes would all be checked here."""
    whole = search.paper_sizes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "paper_sizes", lambda run: dataclasses.replace(whole(run), predicted=500))
        yield prune("ji2023", "--set", "paper.scale=0.06")


@pytest.fixture(scope="module")
def flap(prune: Callable[..., tuple[Report, Path]]) -> tuple[Report, Path]:
    return prune("flap")


@pytest.fixture(params=["ji2023", "flap"])
def finished(request: pytest.FixtureRequest) -> tuple[Report, Path]:
    return request.getfixturevalue(request.param)


def test_the_folder_says_which_method_it_was(finished: tuple[Report, Path]) -> None:
    report, root = finished
    assert build_config([read_yaml(root / "config.yaml")]).search.method == report.method
    assert report.choice.kl_after_sequential is None, "published methods have no reconstruction of ours"
    assert report.rounds == ()


def test_the_budget_is_kept(finished: tuple[Report, Path]) -> None:
    report, _ = finished
    dense = report.row("dense").cost.decoder_parameters
    assert 0.97 * 0.7 * dense <= report.row("secateur").cost.decoder_parameters <= 0.7 * dense
    assert report.row("secateur").architecture == report.choice.architecture


def test_a_finished_run_is_resumed_and_shown_as_it_is(invoke: Invoke, finished: tuple[Report, Path]) -> None:
    report, root = finished
    before = (root / "report.json").stat().st_mtime_ns
    resumed = invoke("resume", root)
    assert resumed.exit_code == 0, resumed.output
    assert (root / "report.json").stat().st_mtime_ns == before
    assert f"{report.num_measurements} architectures measured" in resumed.stdout
    shown = invoke("show", root)
    assert shown.exit_code == 0, shown.output
    assert "measured candidates" in shown.stdout


def test_the_papers_predictor_is_in_the_report(invoke: Invoke, ji2023: tuple[Report, Path]) -> None:
    report, root = ji2023
    assert report.method == "ji2023"
    assert report.choice.origin == "predicted"
    assert report.paper is not None
    assert report.paper.targets == ("perplexity selection",)
    pairs = report.paper.quality.num_fitted + report.paper.quality.num_validation
    # 24 tied and 8 free ones were drawn; on three layers all of them are tied, and some are drawn twice.
    assert 20 <= pairs <= 32
    assert report.num_measurements == pairs + 18
    assert "the paper's predictor" in invoke("resume", root).stdout
    assert json.loads((root / "report.json").read_text())["paper"]["importance"]


def test_what_measures_nothing_measures_its_one_architecture(flap: tuple[Report, Path]) -> None:
    report, _ = flap
    assert report.method == "global_threshold"
    assert report.num_measurements == 1
    assert report.choice.origin == "allocated"
    assert report.paper is None


def test_flaps_biases_are_in_the_export(flap: tuple[Report, Path]) -> None:
    report, root = flap
    with safe_open(root / "exported" / "model.safetensors", framework="pt") as weights:
        biases = {name for name in weights.keys() if name.endswith(".bias")}  # noqa: SIM118  it is no dict
    narrowed = [
        f"model.layers.{index}.{place}.bias"
        for index, layer in enumerate(report.choice.architecture.layers)
        for place, width, whole in (("self_attn.o_proj", layer.kv_heads, 4), ("mlp.down_proj", layer.ffn_width, 48))
        if 0 < width < whole
    ]
    assert narrowed
    assert biases == set(narrowed)


def test_an_unknown_preset_gets_one_line_and_leaves_nothing(
    invoke: Invoke, small_config: RunConfig, tmp_path: Path
) -> None:
    result = invoke("prune", small_config.model.name, "--preset", "nonsense", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("secateur: preset 'nonsense' is unknown; known: evopress, flap, ")
    assert not (tmp_path / "out").exists()


def test_a_configuration_file_wins_over_the_preset(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    """What it says is refused, so it was heard."""
    (tmp_path / "own.yaml").write_text("pruning: {importance: wandaa}")
    arguments = ("--preset", "l1", "--config", tmp_path / "own.yaml", "--data", small_config.data.sources[0])
    result = invoke("prune", small_config.model.name, *arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "did you mean 'wanda'?" in result.stderr
