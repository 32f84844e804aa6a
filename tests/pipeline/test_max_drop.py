"""`--max-drop`: as small as quality allows, verified, resumed, reported, and refused where it cannot be had."""

import json
from pathlib import Path

import pytest
from small_runs import Finished, Invoke, Moment, assert_refused, finish, kill_at

from secateur.config import RunConfig, build_config, to_yaml
from secateur.errors import BudgetError
from secateur.pipeline import resume_pipeline
from secateur.report.table import budget_title, drop_lines

MOST = 0.2
DROP = {
    "budget": {"keep": None, "max_drop": f"kl={MOST}"},
    "search": {"measurements": 30, "rounds": 2, "predictor": "gaussian_process", "reconstructed_tokens": 1024},
}


def dropping(config: RunConfig, *changes: dict[str, object]) -> RunConfig:
    return build_config([config.model_dump(mode="json"), DROP, *changes])


@pytest.fixture(scope="module")
def dropped(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that nothing disturbed."""
    return finish(dropping(small_config), tmp_path_factory.mktemp("drop") / "run")


def test_the_result_is_smaller_and_what_was_promised_holds(dropped: Finished) -> None:
    report, drop = dropped.report, dropped.report.drop
    assert drop is not None
    assert drop.selection <= drop.selection_bound <= drop.limit == MOST
    assert drop.evaluation == pytest.approx(report.row("secateur").kl, abs=1e-5)
    assert drop.held == (drop.evaluation <= MOST)
    assert drop.share == pytest.approx(1 - report.row("secateur").parameter_reduction)
    assert 0.3 < drop.share < 1
    assert report.export.num_parameters == report.row("secateur").cost.total_parameters
    assert [row.name for row in report.rows] == ["dense", "secateur"]


def test_every_verification_is_in_the_report_and_the_smallest_that_held_is_the_result(dropped: Finished) -> None:
    drop = dropped.report.drop
    assert drop is not None
    assert 1 <= len(drop.verifications) <= 6
    held = [each for each in drop.verifications if each.held]
    assert all(each.held == (each.bound <= MOST) for each in drop.verifications)
    assert min(each.prospect.share for each in held) == drop.share
    best = min(held, key=lambda each: each.prospect.share)
    assert best.prospect.architecture == dropped.report.choice.architecture
    measured = {each.architecture.key: each for each in dropped.measurements}
    assert len(measured) == dropped.report.num_measurements == 30
    for each in drop.verifications:
        assert each.prospect.searched == pytest.approx(measured[each.prospect.architecture.key].targets["drop bound"])


def test_it_is_said_in_words(dropped: Finished) -> None:
    drop = dropped.report.drop
    assert drop is not None
    assert budget_title(dropped.report) == "as small as 0.2000 nats of drop in KL allows"
    first = drop_lines(drop)[0]
    assert f"KL to the dense model is {drop.evaluation:.4f} nats (limit 0.2000 nats)" in first
    assert f"{drop.share:.3f} of the decoder parameters kept" in first
    front = json.loads((dropped.root / "front.json").read_text())
    assert [point["chosen"] for point in front["points"]].count(True) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kind", "done"), [("search", "advanced", 20), ("prune", "ended", 1)])
def test_a_killed_run_goes_on_and_ends_the_same(
    small_config: RunConfig, dropped: Finished, tmp_path: Path, stage: str, kind: str, done: int
) -> None:
    root = tmp_path / "run"
    kill_at(dropping(small_config), root, Moment(kind, done, stage))
    assert not (root / "report.json").exists()
    report = resume_pipeline(root)
    assert report.drop == dropped.report.drop
    assert report.choice == dropped.report.choice
    assert [row.perplexity for row in report.rows] == [row.perplexity for row in dropped.report.rows]


def test_what_nothing_meets_is_an_error_that_says_how_near_it_came(small_config: RunConfig, tmp_path: Path) -> None:
    config = dropping(
        small_config, {"budget": {"max_drop": "kl=0.000001"}, "search": {"measurements": 25, "rounds": 1}}
    )
    with pytest.raises(BudgetError, match=r"nothing smaller than the dense model holds: of \d verified the nearest"):
        finish(config, tmp_path / "run")


def test_other_limits_are_met_besides_and_slices_do_without_reconstruction(
    small_config: RunConfig, tmp_path: Path
) -> None:
    changes = {"budget": {"max_kv_cache_bytes": 160}, "pruning": {"reconstruction": "least_squares"}}
    report = finish(
        dropping(small_config, changes, {"search": {"measurements": 25, "rounds": 1}}), tmp_path / "r"
    ).report
    assert report.drop is not None
    assert report.row("dense").cost.kv_cache_bytes_per_token > 160
    assert report.row("secateur").cost.kv_cache_bytes_per_token <= 160
    assert [each.bound for each in report.drop.verifications] == pytest.approx(
        [each.prospect.searched for each in report.drop.verifications], rel=1e-3
    )


BAD = {
    "a bare number": (("--max-drop", "5"), ("budget.max_drop='5'", "expected 5%")),
    "no such metric": (("--max-drop", "loss=5%"), ("expected 5%",)),
    "a KL in percent": (("--max-drop", "kl=5%"), ("expected 5%",)),
    "nothing": (("--max-drop", "0%"), ("above 0",)),
    "accuracy without questions": (("--max-drop", "accuracy=2%"), ("drop.multiple_choice",)),
    "another method": (("--max-drop", "5%", "--preset", "puzzle"), ("search.method=secateur",)),
    "objectives": (("--max-drop", "5%", "--set", "search.objectives=[quality,flops_per_token]"), ("one model",)),
    "minimised for nothing": (("--minimize", "flops"), ("add --max-drop",)),
    "no such size": (("--max-drop", "5%", "--minimize", "speed"), ("budget.minimize='speed'",)),
    "more verifications": (("--max-drop", "5%", "--set", "drop.verifications=7"), ("drop.verifications",)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line(invoke: Invoke, small_config: RunConfig, tmp_path: Path, name: str) -> None:
    arguments, words = BAD[name]
    data = ("--data", small_config.data.sources[0], "--set", "data.sequence_length=32", "--out", tmp_path / "out")
    assert_refused(invoke("prune", small_config.model.name, *arguments, *data), *words)
    assert not (tmp_path / "out").exists()


def test_the_command_line_ends_with_what_was_lost(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(dropping(small_config, {"search": {"measurements": 25, "rounds": 1}})))
    result = invoke("prune", small_config.model.name, "--config", config, "--max-drop", "60%", "--minimize", "flops")
    assert result.exit_code == 0, result.output
    assert "(limit 60 %) on the evaluation windows" in result.stdout
    assert "of the flops per token kept" in result.stdout
    (root,) = (tmp_path / "runs").iterdir()
    assert root.name.endswith("-drop-60pct-flops")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A subject of sixty questions in MMLU's format."""
    folder = tmp_path / "questions"
    (folder / "test").mkdir(parents=True)
    rows = [f"Which is number {n}?,one {n},two,three {n % 7},four,{'ABCD'[n % 4]}" for n in range(60)]
    (folder / "test" / "numbers_test.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.slow
def test_accuracy_is_lost_on_questions_and_reported_on_others(
    small_config: RunConfig, tmp_path: Path, questions: Path
) -> None:
    asked = {"multiple_choice": str(questions), "questions": 20, "shots": 0}
    changes = {"budget": {"max_drop": "accuracy=60%"}, "drop": asked, "search": {"measurements": 25, "rounds": 1}}
    finished = finish(dropping(small_config, changes), tmp_path / "run")
    drop = finished.report.drop
    assert drop is not None
    assert drop.selection <= drop.selection_bound <= 0.6
    assert drop.evaluation * 20 == pytest.approx(round(drop.evaluation * 20)), "a share of twenty questions"
    assert {"questions, selection", "questions, evaluation"} <= set(finished.report.fingerprints)
    assert "(limit 60 points) on the evaluation questions" in drop_lines(drop)[0]
