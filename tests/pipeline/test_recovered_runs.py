"""A run that recovers: better than it was pruned, resumed alike, exported with what was trained merged in."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Finished, Invoke, Moment, assert_refused, finish, kill_at
from transformers import AutoModelForCausalLM

from secateur.config import RunConfig, build_config
from secateur.data import Role
from secateur.inputs import load_inputs
from secateur.pipeline import resume_pipeline
from secateur.recovering import load, recover_folder
from secateur.recovery_folder import RecoveryOutcome, recovery_request
from secateur.runs.progress import StageAdvanced, StageStarted

# Nothing is searched for: what is trained is the uniform model.
RECIPE = {"method": "lora", "tokens": 4096, "batch_windows": 8, "judgements": 4}


def recovering(config: RunConfig, **recipe: Any) -> RunConfig:
    plain = config.model_dump(mode="json")
    plain["search"]["method"] = "uniform"
    plain["recovery"] |= RECIPE | recipe
    return build_config([plain])


@pytest.fixture(scope="module")
def recovered(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(recovering(small_config), tmp_path_factory.mktemp("runs") / "recovered")


def test_the_recovered_model_is_better_than_the_pruned_one_and_is_what_is_exported(recovered: Finished) -> None:
    report = recovered.report
    pruned, result = report.row("secateur"), report.row("recovered")
    assert report.result == result
    assert result.perplexity.value < pruned.perplexity.value
    assert result.cost == pruned.cost
    assert report.recovery is not None
    training = report.recovery.training
    assert training.best.loss < training.judgements[0].loss
    assert report.comparisons[-1].second == "secateur"
    assert report.comparisons[-1].difference < 0
    assert report.export.max_logit_difference is not None
    assert report.export.max_logit_difference < 1e-3
    loaded = AutoModelForCausalLM.from_pretrained(recovered.root / "exported")
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]
    assert not (recovered.root / "recovery").exists(), "what was put aside is of no use to anybody"
    card = (recovered.root / "exported" / "README.md").read_text()
    assert "and recovered by a short training" in card
    assert "without any training" not in card
    assert "Training brings the loss" in (recovered.root / "report.html").read_text()


def test_what_is_trained_on_is_neither_selected_by_nor_evaluated_on(small_config: RunConfig, text_file: Path) -> None:
    # The same text by name: what is in the other sets is left out, not trained on a second time.
    config = recovering(small_config, tokens=10**6)
    data = config.data.model_copy(update={"recovery": (str(text_file),)})
    inputs = load_inputs(config.model_copy(update={"data": data}))
    assert inputs.recovery is not None

    def runs_of(tokens: torch.Tensor, length: int = 12) -> set[Sequence[int]]:
        return {tuple(row) for row in tokens.unfold(1, length, 1).flatten(0, 1).tolist()}

    def documents(tokens: torch.Tensor) -> set[Sequence[int]]:
        """Beginnings of documents, which are told by their BOS."""
        bos = inputs.dense.tokenizer.bos_token_id
        return {run for run in runs_of(tokens) if run[0] == bos}

    trained = documents(inputs.recovery.tokens)
    calibrated = documents(inputs.sets[Role.CALIBRATION].tokens)
    assert len(calibrated & trained) > 0.5 * len(calibrated), "runs of documents can be told"
    for role in (Role.SELECTION, Role.EVALUATION):
        own = documents(inputs.sets[role].tokens)
        # Generated documents may begin alike.
        assert len(own & trained) <= 0.2 * len(own)


def test_a_recovery_that_was_killed_goes_on_alike(small_config: RunConfig, recovered: Finished, tmp_path: Path) -> None:
    root = tmp_path / "run"
    kill_at(recovering(small_config), root, Moment("advanced", 20, "recover"))
    resumed = resume_pipeline(root)
    assert resumed.recovery is not None
    assert recovered.report.recovery is not None
    own, whole = resumed.recovery.training, recovered.report.recovery.training
    assert own.losses == pytest.approx(whole.losses, abs=1e-4)
    assert resumed.result.perplexity.value == pytest.approx(recovered.report.result.perplexity.value, rel=1e-4)


def test_full_fine_tuning_with_a_teacher(small_config: RunConfig, tmp_path: Path) -> None:
    """The dense model is a random one: what it says is no better than the text, and keeps the result near to it."""
    own = [
        finish(recovering(small_config, method="full", distill=distill, epochs=1.5), tmp_path / f"{distill}").report
        for distill in (0.0, 0.7)
    ]
    assert all(report.result.perplexity.value < report.row("secateur").perplexity.value for report in own)
    assert own[1].result.kl < own[0].result.kl


def test_a_run_may_try_recipes_and_average_recoveries(small_config: RunConfig, tmp_path: Path) -> None:
    config = recovering(small_config, trials=7, finalists=2, soup=2, batch_windows=4)
    run = finish(config, tmp_path / "run")
    record = run.report.recovery
    assert record is not None
    assert record.tuning is not None
    assert record.soup is not None
    assert len(record.tuning.attempts) == 7
    assert record.soup.loss <= min(record.soup.losses)
    assert run.report.result.perplexity.value < run.report.row("secateur").perplexity.value
    steps = [event.done for event in run.events if isinstance(event, StageAdvanced) and event.stage == "recover"]
    total = next(event.total for event in run.events if isinstance(event, StageStarted) and event.stage == "recover")
    assert total is not None
    assert steps == list(range(1, len(steps) + 1))
    # The chosen recipe may have larger or smaller steps than the given one.
    assert 0.5 * total < len(steps) < 2 * total


def test_the_result_of_a_run_is_recovered_afterwards(finished: Finished, tmp_path: Path, invoke: Invoke) -> None:
    out = tmp_path / "later"
    sets = [
        item for name, value in RECIPE.items() if name != "method" for item in ("--set", f"recovery.{name}={value}")
    ]
    result = invoke("recover", finished.root, "--out", out, *sets)
    assert result.exit_code == 0, result.output
    outcome = RecoveryOutcome.model_validate_json((out / "recovery.json").read_text())
    assert [row.name for row in outcome.rows] == ["dense", "pruned", "recovered"]
    assert outcome.comparison.difference < 0
    pruned = finished.report.row("secateur").perplexity
    assert outcome.rows[1].perplexity.value == pytest.approx(pruned.value, rel=1e-4), "the run's windows, all of them"
    loaded = AutoModelForCausalLM.from_pretrained(out / "exported")
    assert sum(each.numel() for each in loaded.parameters()) == outcome.rows[-1].num_parameters
    assert "parameters trained on" in result.output
    again = invoke("recover", finished.root, "--out", out, *sets)
    assert again.exit_code == 0, "a recovery that is finished is told again"
    assert_refused(invoke("recover", finished.root, "--out", out, "--method", "full"), "belongs to another recovery")


def test_a_model_that_somebody_else_pruned(decoder_folder: Path, text_file: Path, tmp_path: Path) -> None:
    layers = [
        {"recovery": RECIPE},
        {"data": {"sequence_length": 32, "selection_tokens": 512, "evaluation_tokens": 512}},
    ]
    request = recovery_request(str(decoder_folder), (str(text_file),), None, layers)
    outcome = recover_folder(request, tmp_path / "out")
    assert [row.name for row in outcome.rows] == ["pruned", "recovered"]
    assert outcome.rows[1].perplexity.value < outcome.rows[0].perplexity.value


def test_groups_of_text_are_domains_that_are_judged(decoder_folder: Path, text_file: Path, tmp_path: Path) -> None:
    halves = {name: tmp_path / f"{name}.txt" for name in ("odd", "even")}
    lines = text_file.read_text().splitlines()
    for path, first in zip(halves.values(), (0, 1), strict=True):
        path.write_text("\n".join(lines[first::2]))
    data = {"sequence_length": 12, "selection_tokens": 96, "evaluation_tokens": 96, "group_tokens": 48}
    layers = [
        {"recovery": RECIPE | {"robust": "groups"}},
        {"data": data | {"groups": {"odd": str(halves["odd"])}}},
    ]
    loaded = load(recovery_request(str(decoder_folder), (str(halves["even"]),), str(decoder_folder), layers))
    texts = loaded.texts
    assert texts.recovery.domain_names == ("odd", "text")
    assert {name: each.shape[1] for name, each in texts.domain_selection.items()} == {"odd": 12, "text": 12}
    assert torch.equal(texts.domain_selection["text"], loaded.sets[Role.SELECTION].tokens)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("MODEL", "--distill", "0.5"), ("none was given", "--dense")),
        (("MODEL", "--method", "prayer"), ("recovery.method", "lora")),
        (("MODEL", "--set", "recovery.robust=ratio"), ("compares with the dense model", "not there")),
        (("MODEL", "--dense", "MODEL", "--set", "recovery.robust=groups"), ("two named domains at least, got 1",)),
        (("missing/folder/there",), ("does not exist",)),
        (("MODEL", "--method", "none"), ("trains nothing",)),
    ],
)
def test_what_cannot_be_recovered_is_refused(
    decoder_folder: Path,
    text_file: Path,
    tmp_path: Path,
    invoke: Invoke,
    arguments: tuple[str, ...],
    words: Sequence[str],
) -> None:
    given = [str(decoder_folder) if each == "MODEL" else each for each in arguments]
    out = tmp_path / "out"
    assert_refused(invoke("recover", *given, "--data", text_file, "--out", out), *words)
    assert not out.exists()


def test_an_unfinished_run_is_not_recovered(small_config: RunConfig, tmp_path: Path, invoke: Invoke) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("advanced", 1, "search"))
    assert_refused(invoke("recover", root), "not finished", f"secateur resume {root}")
