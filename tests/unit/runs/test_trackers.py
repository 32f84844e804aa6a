"""Trackers hold what a run said; nothing needs a network."""

import importlib.util
from pathlib import Path

import pytest

from secateur.errors import ConfigError
from secateur.runs import trackers
from secateur.runs.progress import PredictorFitted, RunFinished, StageAdvanced, StageEnded, WorkExpected
from secateur.runs.trackers import tracked

EVENTS = (
    StageEnded("load", 1.5),
    WorkExpected(()),
    StageAdvanced("search", 1, 0.5, 0.5, 1.0),
    StageAdvanced("search", 2, None, 0.5, 1.0),
    PredictorFitted("search", "trees", 0.75, 25, trusted=True),
    StageAdvanced("search", 3, 0.25, 0.25, 1.0),
    StageEnded("search", 12.0),
    RunFinished({"search.rounds": "8"}, {"secateur/perplexity": 7.5}),
)


def play(name: str, root: Path) -> None:
    with tracked([name], root) as listener:
        for event in EVENTS:
            listener(event)


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install 'secateur[{name}]'")


def test_tensorboard_reads_back_what_was_said(tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    play("tensorboard", tmp_path)
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(each.step, each.value) for each in read.Scalars("search/kl")] == [(1, 0.5), (2, 0.25)]
    assert [each.value for each in read.Scalars("search/best_kl")] == [0.5, 0.25]
    assert [(each.step, each.value) for each in read.Scalars("predictor/kendall_tau")] == [(1, 0.75)]
    assert read.Scalars("seconds/search")[0].value == 12.0
    assert read.Scalars("secateur/perplexity")[0].value == 7.5


def test_mlflow_keeps_a_run_in_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("mlflow")
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    play("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("secateur")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"search.rounds": "8"}
    assert run.data.metrics["secateur/perplexity"] == 7.5
    assert [each.value for each in client.get_metric_history(run.info.run_id, "search/kl")] == [0.5, 0.25]


def test_trackio_keeps_a_run_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    play("trackio", tmp_path / "mine")
    assert any(path.suffix == ".db" for path in (tmp_path / "trackio").rglob("*"))


def test_a_run_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    with tracked(["tensorboard"], tmp_path) as listener:
        listener(StageEnded("load", 1.0))
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"--track 'tensorbord' is unknown; .*did you mean 'tensorboard'"),
        tracked(["tensorbord"], tmp_path),
    ):
        pass


def test_a_missing_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'secateur\[wandb\]'"), tracked(["wandb"], tmp_path):
        pass
