"""What a verb prints while it works, and that `secateur plan` says what the run then does."""

import json
from pathlib import Path

import pytest
from small_runs import Finished, Invoke, Moment, assert_refused, kill_at

from secateur.config import RunConfig, build_config, resolve, to_yaml
from secateur.pipeline import resume_pipeline
from secateur.plan import plan_run
from secateur.runs.progress import Event, PredictorFitted, StageEnded, WorkExpected
from secateur.runs.time_left import TimeLeft


@pytest.fixture
def finished_folder(finished: Finished, small_config: RunConfig) -> Path:
    return finished.root


def test_quiet_prints_the_path_of_the_result_and_nothing_else(invoke: Invoke, finished_folder: Path) -> None:
    result = invoke("resume", finished_folder, "--quiet")
    assert result.exit_code == 0
    assert result.stdout == f"{finished_folder / 'exported'}\n"
    assert result.stderr == ""


def test_json_progress_is_a_json_object_per_line(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(to_yaml(small_config))
    root = tmp_path / "out"
    arguments = ("--config", config, "--out", root, "--json-progress", "--track", "tensorboard")
    result = invoke("prune", small_config.model.name, *arguments)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    *progress, last = lines
    assert last["event"] == "result"
    assert last["result"] == str(root / "exported")
    assert json.loads(Path(last["report"]).read_text())["num_measurements"] == 34
    assert {line["event"] for line in progress} == {"expected", "started", "advanced", "fitted", "ended"}
    searched = [line for line in progress if line["stage"] == "search" and line["event"] == "advanced"]
    assert [line["done"] for line in searched] == list(range(1, 35))
    assert all(line["total"] == 34 and line["metric"] == "KL" and line["lowest"] <= line["value"] for line in searched)
    assert searched[-1]["predictor"]["num_pairs"] >= 25
    known = [line["seconds_left"] for line in progress if line["seconds_left"] is not None]
    assert len(known) > 30
    assert known[-1] < 1, "at the end nothing is left"
    assert list((root / "tensorboard").iterdir()), "trackers listen too"


def test_nothing_and_json_exclude_each_other(invoke: Invoke, finished_folder: Path) -> None:
    assert_refused(invoke("resume", finished_folder, "--quiet", "--json-progress"), "leave one of the two out")


def test_an_unknown_tracker_is_refused_before_anything(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    arguments = ("--data", small_config.data.sources[0], "--out", tmp_path / "out", "--track", "tensorbord")
    assert_refused(invoke("prune", small_config.model.name, *arguments), "'tensorbord'", "'tensorboard'")
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_the_run_does(finished: Finished, small_config: RunConfig) -> None:
    plan, report = plan_run(small_config), finished.report
    assert plan.num_measurements == report.num_measurements
    assert plan.rounds == len(report.rounds)
    assert {role: own.tokens for role, own in plan.sets.items()} == report.num_tokens
    assert plan.decoder_parameters == report.row("dense").cost.decoder_parameters
    limited = {cost.name: cost.ceiling for cost in plan.costs if cost.ceiling is not None}
    assert limited == {limit.name: limit.ceiling for limit in report.budget}
    stages = [event.stage for event in finished.events if isinstance(event, StageEnded)]
    assert ["load", *plan.stage_seconds] == stages
    # Five widths of each of six modules: 4 KV heads in five steps, FFNs in five levels.
    assert 10**plan.log10_space == pytest.approx(5**6)
    assert plan.log10_in_band is not None
    assert 25 < 10**plan.log10_in_band < 5**6
    # How right the times are is what benchmarks/time_left.py is for: here the machine may be busy with anything.
    assert all(seconds > 0 for seconds in plan.stage_seconds.values())


def test_the_plan_counts_what_can_be_counted_by_hand(small_config: RunConfig) -> None:
    from itertools import product

    from secateur.inputs import load_inputs
    from secateur.plan import log10_inside

    inputs = load_inputs(small_config)
    tables = inputs.space.parameters
    sizes = [sum(each) for each in product(*tables)]
    inside = sum(inputs.budget.floor <= size <= inputs.budget.ceiling for size in sizes)
    counted = log10_inside(inputs.space, inputs.budget)
    assert counted is not None
    assert 10**counted == pytest.approx(inside, rel=0.1)


def test_the_plan_leaves_nothing_and_does_without_text(invoke: Invoke, decoder_folder: Path, tmp_path: Path) -> None:
    settings = ("--set", "data.sequence_length=64", "--set", "search.measurements=50")
    result = invoke("plan", decoder_folder, "--keep", 0.7, "--set", "budget.band=0.03", *settings)
    assert result.exit_code == 0, result.output
    for words in ("llama, 3 layers", "no text was given", "65,536 tokens", "50 architectures at most", "at the budget"):
        assert words in result.stdout
    assert "per-layer (asked for): open" in result.stdout
    assert "gguf: not open: " in result.stdout, "the tokenizer has no name there"
    assert list(tmp_path.iterdir()) == []


def test_the_plan_refuses_what_the_run_refuses(invoke: Invoke, small_config: RunConfig) -> None:
    length = ("--set", "data.sequence_length=32")
    assert_refused(invoke("plan", small_config.model.name, "--keep", "0", *length), "(0, 1]")
    assert_refused(invoke("plan", "./nowhere", "--keep", "0.8"), "'./nowhere' does not exist")


@pytest.mark.slow
def test_a_killed_run_knows_what_is_left(small_config: RunConfig, finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("advanced", 30, "search"))
    events: list[Event] = []
    resume_pipeline(root, events.append)
    [expected] = [event for event in events if isinstance(event, WorkExpected)]
    [whole] = [event for event in finished.events if isinstance(event, WorkExpected)]
    assert [work.stage for work in expected.stages] == [
        work.stage for work in whole.stages if work.stage != "calibrate"
    ]
    steps = {work.stage: sum(part.steps for part in work.parts) for work in expected.stages}
    assert steps["search"] == 34, "what was measured is among the steps"
    free = sum(part.steps for work in expected.stages for part in work.parts if part.steps and not part.seconds)
    assert free == 30, "and costs nothing"
    time_left = TimeLeft(lambda: 0.0)
    for event in events:
        time_left.listen(event)
    assert time_left.seconds == 0
    assert [event for event in events if isinstance(event, PredictorFitted)], "tau is told again"


def test_work_is_counted_for_every_kind_of_run(small_config: RunConfig) -> None:
    """Counting must not fail where a run would not, whatever the method."""
    model, source = small_config.model.name, small_config.data.sources[0]
    base = small_config.model_dump(mode="json")
    for change in (
        {"search": base["search"] | {"method": "evolutionary"}},
        {"search": base["search"] | {"method": "uniform"}},
        {"search": base["search"] | {"measurements": 60, "reconstructed_share": 0.6, "alternative_measurements": 30}},
        {"pruning": base["pruning"] | {"reconstruction": "none"}},
        {"export": base["export"] | {"target": "uniform"}},
        {"data": base["data"] | {"groups": {"one": source, "two": source}}},
    ):
        plan = plan_run(resolve(build_config([base | change])))
        assert plan.seconds > 0, (model, change)
        assert all(seconds >= 0 for seconds in plan.stage_seconds.values())
