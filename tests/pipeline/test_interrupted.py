"""Interrupted equals uninterrupted: killed with SIGKILL at any moment, a run goes on and ends the same."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import Finished, Moment, assert_same, kill_at, run_until, stored_measurements

from secateur.config import RunConfig, to_yaml
from secateur.errors import RunFolderError
from secateur.pipeline import resume_pipeline, run_pipeline
from secateur.predictor.choice import fit_predictor
from secateur.predictor.protocol import Pairs
from secateur.report.recorded import SPEEDS
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Event, StageAdvanced, StageEnded, StageStarted
from secateur.runs.store import RunStore
from secateur.search import one_round, rounds
from secateur.stages.expected import SpeedsOf, stored_speeds


@pytest.mark.parametrize(
    ("stage", "kind", "done"),
    [
        ("calibrate", "advanced", 7),
        pytest.param("calibrate", "ended", 1, marks=pytest.mark.slow),
        pytest.param("search", "advanced", 7, marks=pytest.mark.slow),
        ("search", "advanced", 30),
        pytest.param("prune", "advanced", 2, marks=pytest.mark.slow),
        pytest.param("export", "started", 1, marks=pytest.mark.slow),
        pytest.param("export", "ended", 1, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_and_chooses_the_same(
    small_config: RunConfig, finished: Finished, tmp_path: Path, stage: str, kind: str, done: int
) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment(kind, done, stage))
    assert not (root / "report.json").exists()
    before = stored_measurements(root)
    if stage == "search":
        assert len(before) == done, "each measurement is on disk before the next one begins"
    resumed = resume_pipeline(root)
    after = stored_measurements(root)
    assert len(after) == 34
    assert after[: len(before)] == before, "nothing is measured twice"
    assert resumed.choice == finished.report.choice
    assert resumed.rounds == finished.report.rounds
    assert [row.perplexity for row in resumed.rows] == [row.perplexity for row in finished.report.rows]


def test_finished_stages_come_from_the_folder(small_config: RunConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("ended", 1, "calibrate"))
    # The stage's last event comes just before its end is stored; a second kill lies safely behind it.
    kill_at(small_config, root, Moment("advanced", 1, "search"))
    events: list[Event] = []
    resume_pipeline(root, events.append)
    reused = [event.stage for event in events if isinstance(event, StageEnded) and event.reused]
    assert reused == ["calibrate"]
    assert not [event for event in events if isinstance(event, StageAdvanced) and event.stage == "calibrate"]


def test_rounds_that_are_over_are_not_fitted_again(
    small_config: RunConfig, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of measurements a fit takes longer than all that else is to be read again."""
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("started", 1, "prune"))
    fits: list[int] = []

    def counted(name: str, pairs: Pairs, *rest: Any) -> Any:
        fits.append(len(pairs))
        return fit_predictor(name, pairs, *rest)

    monkeypatch.setattr(one_round, "fit_predictor", counted)
    resumed = resume_pipeline(root)
    assert resumed.rounds == finished.report.rounds
    assert len(resumed.rounds) == 2
    assert fits == [resumed.rounds[-1].quality.num_pairs], "only what the search ended with"
    assert resumed.explanation == finished.report.explanation


def test_a_round_that_has_begun_goes_on_with_what_it_set_out_with(
    small_config: RunConfig, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is fitted and nothing proposed between the start and the first new measurement."""
    root = tmp_path / "run"
    last = finished.report.rounds[-1].quality.num_pairs
    run_until(small_config, root, Moment("advanced", last + 2, "search"))
    new: list[Event] = []

    def refuse_at_first(*given: Any) -> Any:
        assert new, "the round's plan is in the database"
        return fit_predictor(*given)

    def hear(event: Event) -> None:
        if isinstance(event, StageAdvanced) and event.stage == "search" and event.seconds:
            new.append(event)

    monkeypatch.setattr(one_round, "fit_predictor", refuse_at_first)
    report = resume_pipeline(root, hear)
    assert len(new) == 34 - last - 2
    assert report.rounds == finished.report.rounds
    assert_same(finished, Finished(report, root, []))


def test_a_first_set_that_was_proposed_is_not_made_again(
    small_config: RunConfig, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_until(small_config, tmp_path / "run", Moment("advanced", 3, "search"))

    def refuse(*_: object) -> None:
        raise AssertionError("the first set is in the database")

    monkeypatch.setattr(rounds, "initial_candidates", refuse)
    report = resume_pipeline(tmp_path / "run")
    assert_same(finished, Finished(report, tmp_path / "run", []))


def test_a_machine_is_timed_once(small_config: RunConfig, tmp_path: Path) -> None:
    """No two probes see the same times; those of another machine are of no use here."""
    root = tmp_path / "run"

    def timed_by(stage: str) -> SpeedsOf:
        run_until(small_config, root, Moment("started", 1, stage))
        found = stored_speeds(RunFolder(root))
        assert found is not None, "somebody listens"
        return found

    first = timed_by("calibrate")
    assert timed_by("search") == first
    with RunStore(root / "run.db") as store:
        store.end_stage(SPEEDS, 0.0, first.model_copy(update={"machine": "another"}).model_dump(mode="json"))
    again = timed_by("search")
    assert again.machine == first.machine
    assert again.speeds != first.speeds


@pytest.mark.parametrize("done", [pytest.param(1, marks=pytest.mark.slow), 4], ids=["forwards", "backwards"])
def test_an_interrupted_calibration_goes_on_where_it_was(
    small_config: RunConfig, finished: Finished, tmp_path: Path, done: int
) -> None:
    root = tmp_path / "run"
    kill_at(small_config, root, Moment("advanced", done, "calibrate"))
    assert any((root / "calibration").iterdir())
    events: list[Event] = []
    resumed = resume_pipeline(root, events.append)
    steps = [event.done for event in events if isinstance(event, StageAdvanced) and event.stage == "calibrate"]
    assert steps[0] == done + 1, "what has been put aside is not made again"
    assert resumed.choice == finished.report.choice
    assert resumed.rows[1].perplexity == finished.report.rows[1].perplexity, "so is the baseline's order"
    assert not (root / "calibration").exists()


def test_changed_text_is_noticed_on_resume(small_config: RunConfig, tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text(Path(small_config.data.sources[0]).read_text())
    data = small_config.data.model_copy(update={"sources": (str(text),)})
    config = small_config.model_copy(update={"data": data})
    kill_at(config, tmp_path / "run", Moment("started", 1, "search"))
    text.write_text(text.read_text().replace("the", "a"))
    with pytest.raises(RunFolderError, match=r"calibration, selection, evaluation changed since"):
        resume_pipeline(tmp_path / "run")


def test_a_folder_in_use_names_the_process_that_holds_it(small_config: RunConfig, tmp_path: Path) -> None:
    root = tmp_path / "run"

    def start_another(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage == "calibrate":
            run_pipeline(small_config, root)

    with pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        run_pipeline(small_config, root, start_another)


def test_ctrl_c_says_how_to_go_on(small_config: RunConfig, tmp_path: Path) -> None:
    path, root = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(to_yaml(small_config.model_copy(update={"seed": 2})))
    command = [sys.executable, "-m", "secateur", "prune", small_config.model.name, "--config", str(path)]
    process = subprocess.Popen(
        [*command, "--out", str(root), "--set", "search.measurements=400", "--set", "seed=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads are needed for it
    )
    deadline = time.monotonic() + 120
    while not (root / "run.db").exists() or len(stored_measurements(root)) < 3:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == f"interrupted; go on with: secateur resume {root}"
    # What the line says works: the database is whole.
    assert len(stored_measurements(root)) >= 3
