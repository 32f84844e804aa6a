"""One run from a checkpoint and a text file to a smaller checkpoint, and what it leaves behind."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_runs import Finished, Moment, assert_counted, run_until, stored_measurements
from transformers import PreTrainedModel

from secateur.config import RunConfig, build_config
from secateur.data import Role
from secateur.inputs import load_inputs
from secateur.model.loading import DenseModel
from secateur.model.walk import DecoderWalk
from secateur.pipeline import resume_pipeline, run_pipeline
from secateur.pruning.sequence import reconstruct_in_sequence
from secateur.report.record import Choice, ModelRow, Report
from secateur.runs.progress import Event, StageAdvanced, StageEnded
from secateur.runs.store import RunStore
from secateur.search.task import ranked
from secateur.space.architecture import Architecture


@pytest.fixture(scope="module")
def searched(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its measurements and nothing cut yet."""
    root = tmp_path_factory.mktemp("searched") / "run"
    run_until(small_config, root, Moment("started", stage="prune"))
    return root


def cut_and_evaluate(config: RunConfig, root: Path) -> tuple[Choice, ModelRow]:
    """Begin or go on with a run, up to its export; give what was chosen and how it does on unseen text."""
    run_until(config, root, Moment("started", stage="export"))
    with RunStore(root / "run.db") as store:
        choice, rows = store.stage("prune"), store.stage("evaluate")
        assert choice is not None
        assert rows is not None
        return Choice.model_validate(choice.payload), ModelRow.model_validate(rows.payload[-1])


def test_the_folder_holds_what_the_readme_promises(finished: Finished, small_config: RunConfig) -> None:
    report, root = finished.report, finished.root
    assert build_config([yaml.safe_load((root / "config.yaml").read_text())]) == small_config
    assert Report.model_validate_json((root / "report.json").read_text()) == report
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        path.name for path in (root / "exported").iterdir()
    }
    assert not list(root.glob(".*.partial"))


def test_the_chosen_architecture_is_one_of_the_best_that_were_measured(finished: Finished) -> None:
    report = finished.report
    measured = finished.measurements
    assert len(measured) == report.num_measurements == 34
    finalists = ranked(measured)[: report.choice.num_finalists]
    assert len(finalists) == 3
    assert (report.choice.architecture, report.choice.kl) in [(m.architecture, m.kl) for m in finalists]


def test_every_measurement_is_spent_inside_the_budget_band(finished: Finished) -> None:
    report, root = finished.report, finished.root
    dense = report.row("dense").cost.decoder_parameters
    with RunStore(root / "run.db") as store:
        kept = [1 - json.loads(record)["parameter_reduction"] for record in store.candidates()]
    assert all(0.97 * 0.70 <= share <= 0.70 for share in kept)
    assert report.row("secateur").cost.decoder_parameters <= 0.70 * dense


def test_it_beats_the_uniform_baseline_at_no_more_parameters(finished: Finished) -> None:
    report = finished.report
    secateur, uniform = report.row("secateur"), report.row("uniform")
    assert secateur.kl < uniform.kl
    assert secateur.cost.decoder_parameters <= 1.03 * uniform.cost.decoder_parameters
    assert report.row("dense").kl == pytest.approx(0, abs=1e-6)


def test_the_result_is_compared_with_each_row_window_by_window(finished: Finished) -> None:
    report = finished.report
    result = report.row("secateur")
    assert [each.second for each in report.comparisons] == [row.name for row in report.rows[:-1]]
    for comparison in report.comparisons:
        other = report.row(comparison.second)
        assert comparison.num_windows == result.perplexity.num_windows
        log_ratio = math.log(result.perplexity.value / other.perplexity.value)
        assert comparison.difference == pytest.approx(log_ratio, abs=1e-5)
        assert comparison.low <= comparison.difference <= comparison.high


def test_bits_per_byte_are_of_the_bytes_that_are_predicted(finished: Finished, small_config: RunConfig) -> None:
    """The text is generated, its tokenizer loses nothing: rows differ as their losses do."""
    report = finished.report
    first = report.rows[0]
    assert first.bits_per_byte is not None
    per_nat = first.bits_per_byte / math.log(first.perplexity.value)
    for row in report.rows:
        assert row.bits_per_byte == pytest.approx(per_nat * math.log(row.perplexity.value), rel=1e-5)
    evaluation = load_inputs(small_config).sets[Role.EVALUATION]
    assert evaluation.window_bytes is not None
    assert per_nat == pytest.approx(first.perplexity.num_tokens / math.log(2) / int(evaluation.window_bytes.sum()))


def test_finalists_that_were_measured_by_slices_are_reconstructed_and_compared(finished: Finished) -> None:
    report = finished.report
    best = ranked(finished.measurements)[0]
    assert report.choice.kl_after_sequential is not None
    assert report.choice.kl_after_sequential < (best.kl or 0), "else the best measured would stay as it was"


def test_gains_that_harm_are_taken_back(
    small_config: RunConfig, searched: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harm(_walk: object, pruned: DecoderWalk, *_rest: object) -> dict[torch.nn.Module, float]:
        return {module: 3.0 for module in pruned.model.modules() if isinstance(module, torch.nn.Linear)}

    monkeypatch.setattr("secateur.stages.prune.match_gains", harm)
    choice, row = cut_and_evaluate(small_config, Path(shutil.copytree(searched, tmp_path / "run")))
    unharmed = finished.report.choice
    assert choice.kl_after_gains is None
    assert row.kl == pytest.approx(choice.kl_after_sequential, rel=0.3)
    assert unharmed.kl_after_gains is not None
    assert unharmed.kl_after_gains < unharmed.kl_after_sequential == choice.kl_after_sequential


@pytest.mark.slow
def test_finalists_that_begin_alike_are_made_one_after_another(
    small_config: RunConfig, searched: Path, tmp_path: Path, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def watch(dense: DenseModel, walk: DecoderWalk, pruned: PreTrainedModel, cut: Architecture, *rest: Any) -> None:
        made.append(cut.widths)
        reconstruct_in_sequence(dense, walk, pruned, cut, *rest)

    monkeypatch.setattr("secateur.stages.prune.reconstruct_in_sequence", watch)
    choice, _ = cut_and_evaluate(small_config, Path(shutil.copytree(searched, tmp_path / "run")))
    best = [measurement.architecture.widths for measurement in ranked(finished.measurements)[:3]]
    assert made == sorted(best) != best
    assert choice == finished.report.choice


@pytest.mark.slow
def test_candidates_that_were_reconstructed_on_all_tokens_are_chosen_as_measured(
    small_config: RunConfig, tmp_path: Path
) -> None:
    update = {"measurements": 50, "rounds": 1, "reconstructed_share": 0.5}
    search = small_config.search.model_copy(update=update)
    report = run_pipeline(small_config.model_copy(update={"search": search}), tmp_path / "run")
    assert search.reconstructed_tokens >= report.num_tokens["calibration"]
    measured = stored_measurements(tmp_path / "run")
    assert len(measured) == report.num_measurements == 50
    assert [record.reconstructed for record in report.rounds] == [False, True]
    protocols = list(dict.fromkeys(measurement.protocol for measurement in measured))
    assert len(protocols) == 2, "what was measured by slices and after reconstruction is not compared"
    best = ranked([measurement for measurement in measured if measurement.protocol == protocols[1]])[0]
    assert report.choice.architecture == best.architecture
    assert report.choice.kl == report.rounds[1].best_kl == best.kl
    assert report.choice.kl_after_sequential == pytest.approx(best.kl, rel=1e-5)


def test_a_stranger_loads_and_generates_with_the_lines_on_the_card(
    finished: Finished, capfd: pytest.CaptureFixture[str]
) -> None:
    report, root = finished.report, finished.root
    exported = root / "exported"
    card = (exported / "README.md").read_text()
    assert report.export.remote_code
    assert str(root) not in card, "a card is published; it must not tell how somebody's disk is laid out"
    lines = card.split("```python\n")[1].split("```")[0].replace("path/to/this/folder", str(exported))
    names: dict[str, Any] = {}
    exec(lines, names)
    model, tokenizer = names["model"], names["tokenizer"]
    assert "Do you wish to run the custom code" not in capfd.readouterr().out
    assert sum(p.numel() for p in model.parameters()) == report.row("secateur").cost.total_parameters
    prompt = tokenizer("The red key", return_tensors="pt")
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(
        model.generate(**prompt, use_cache=True, **settings), model.generate(**prompt, use_cache=False, **settings)
    )


def test_a_finished_run_is_not_done_again(finished: Finished) -> None:
    report, root = finished.report, finished.root
    events: list[Event] = []
    assert resume_pipeline(root, events.append) == report
    assert events == []


def test_progress_counts_every_measurement_and_ends_every_stage(finished: Finished) -> None:
    steps = [event.done for event in finished.events if isinstance(event, StageAdvanced) and event.stage == "search"]
    assert steps == list(range(1, 35))
    ended = [event.stage for event in finished.events if isinstance(event, StageEnded)]
    assert ended == ["load", "calibrate", "search", "prune", "evaluate", "samples", "explain", "export"]


def test_no_stage_counts_further_than_it_said(finished: Finished) -> None:
    assert_counted(finished)


def test_the_same_seed_finds_the_same(finished: Finished, searched: Path) -> None:
    first, second = (
        [(m.architecture, m.kl) for m in of] for of in (finished.measurements, stored_measurements(searched))
    )
    assert first == second


def test_another_seed_searches_elsewhere_on_the_same_text(
    small_config: RunConfig, finished: Finished, tmp_path: Path
) -> None:
    other = small_config.model_copy(update={"seed": 1})
    run_until(other, tmp_path / "run", Moment("started", stage="prune"))
    first, second = ({m.architecture for m in stored_measurements(root)} for root in (finished.root, tmp_path / "run"))
    assert first != second
    with RunStore(tmp_path / "run" / "run.db") as store:
        loaded = store.stage("load")
    assert loaded is not None
    assert loaded.payload == finished.report.fingerprints


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["measured by slices", "measured after it"])
def test_a_sequential_reconstruction_that_harms_is_taken_back(
    small_config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    def harm(_dense: object, _walk: object, pruned: torch.nn.Module, *_rest: object) -> None:
        for parameter in pruned.get_submodule("model.layers").parameters():
            parameter.mul_(3)

    monkeypatch.setattr("secateur.stages.prune.reconstruct_in_sequence", torch.no_grad()(harm))
    update = {"measurements": 50, "rounds": 1, "reconstructed_share": share}
    search = small_config.search.model_copy(update=update)
    choice, row = cut_and_evaluate(small_config.model_copy(update={"search": search}), tmp_path / "run")
    assert choice.kl_after_sequential is None
    assert choice.kl_after_gains is None
    # What is evaluated and exported is the bank's solution: as good on unseen text as on the selection set, roughly.
    assert row.kl == pytest.approx(choice.kl, rel=0.3)


@pytest.mark.parametrize(("importance", "reconstruction"), [("taylor", "none"), ("wanda", "least_squares")])
def test_without_sequential_reconstruction_the_best_measured_is_taken(
    small_config: RunConfig, tmp_path: Path, importance: str, reconstruction: str
) -> None:
    pruning = small_config.pruning.model_copy(update={"importance": importance, "reconstruction": reconstruction})
    config = small_config.model_copy(update={"pruning": pruning})
    run_until(config, tmp_path / "run", Moment("started", stage="evaluate"))
    with RunStore(tmp_path / "run" / "run.db") as store:
        pruned = store.stage("prune")
    assert pruned is not None
    choice = Choice.model_validate(pruned.payload)
    assert choice.kl_after_sequential is None
    assert choice.num_finalists == 1
    best = ranked(stored_measurements(tmp_path / "run"))[0]
    assert (choice.architecture, choice.kl) == (best.architecture, best.kl)
