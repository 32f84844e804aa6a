"""report.html of real runs, of every kind, and by the command line."""

import json
import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
from small_runs import Finished, Invoke, Moment, assert_refused, run_until

from secateur.assignments import parse_assignment, written_command
from secateur.config import RunConfig, build_config
from secateur.report.record import Report, report_schema
from secateur.report.recorded import read_recorded
from secateur.search.task import ranked


def figures(path: Path) -> set[str]:
    return set(re.findall(r'data-figure="([a-z-]+)"', path.read_text()))


def test_a_run_leaves_its_report_whole(finished: Finished) -> None:
    shown = figures(finished.root / "report.html")
    assert shown >= {"trade-off", "cuts", "predicted", "ranks", "importance", "contributions", "progress", "perplexity"}
    html = (finished.root / "report.html").read_text()
    assert finished.report.fingerprints["calibration"] in html
    assert str(Path(finished.report.model).parent) == "."
    jsonschema.validate(json.loads((finished.root / "report.json").read_text()), json.loads(report_schema()))


def test_what_is_recorded_is_what_was_measured(finished: Finished) -> None:
    run = read_recorded(finished.root)
    measured = {m.architecture.key: m.kl for m in finished.measurements}
    told = [each for record in finished.report.rounds for each in record.foretold]
    assert told
    assert all(
        each.low <= each.predicted <= each.high and measured[each.architecture] == each.measured for each in told
    )
    [fit] = run.fits
    assert [pair.measured for pair in fit.pairs] == pytest.approx([measured[pair.architecture] for pair in fit.pairs])
    assert run.errors is not None
    assert all(by_width[max(by_width)] == pytest.approx(0, abs=1e-6) for by_width in run.errors.by_width)
    assert run.best == ranked(finished.measurements)[0]


def test_the_explanation_adds_up_to_the_prediction(finished: Finished) -> None:
    """From the mean of the architectures that it is compared with, half of which are drawn."""
    explanation = finished.report.explanation
    assert explanation is not None
    assert len(explanation.chosen) == len(explanation.mean_absolute) == 6
    assert min(explanation.mean_absolute) >= 0
    assert explanation.predicted < explanation.base


def test_samples_are_continued_by_every_model(finished: Finished) -> None:
    samples = finished.report.samples
    assert len(samples) == 3
    assert all(list(sample.continuations) == ["dense", "uniform", "secateur"] for sample in samples)
    assert all(sample.prompt for sample in samples)


def test_an_unfinished_run_is_drawn_and_says_how_to_go_on(
    invoke: Invoke, small_config: RunConfig, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    run_until(small_config, root, Moment("started", stage="prune"))
    result = invoke("report", root, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text()
    assert "secateur resume run" in html
    assert {"trade-off", "cuts", "predicted", "progress"} <= figures(tmp_path / "page.html")
    assert not (root / "report.html").exists()


def test_what_has_no_run_is_refused(invoke: Invoke, tmp_path: Path, finished: Finished) -> None:
    assert_refused(invoke("report", tmp_path), "holds no run")
    (tmp_path / "comparison.yaml").write_text("")
    assert_refused(invoke("report", tmp_path), "holds a comparison", "cells")
    assert_refused(invoke("report", finished.root, "--out", tmp_path / "no" / "page.html"), "make it first")


def test_a_run_of_an_earlier_version_is_drawn_with_what_it_has(
    invoke: Invoke, finished: Finished, tmp_path: Path
) -> None:
    import sqlite3

    root = Path(shutil.copytree(finished.root, tmp_path / "run"))
    with sqlite3.connect(root / "run.db") as database:
        database.execute("DELETE FROM stages WHERE name IN ('begun', 'errors', 'explanation', 'samples')")
        database.execute("DELETE FROM stages WHERE name LIKE 'fit %'")
    old = json.loads((root / "report.json").read_text())
    for name in ("explanation", "samples"):
        del old[name]
    (root / "report.json").write_text(json.dumps(old))
    assert invoke("report", root).exit_code == 0
    assert {"trade-off", "cuts", "progress"} <= figures(root / "report.html")
    assert Report.model_validate(old).samples == ()


def test_the_command_makes_the_same_configuration(small_config: RunConfig) -> None:
    words = shlex.split(written_command(small_config, "out"))
    assert words[:3] == ["secateur", "prune", small_config.model.name]
    assert words[-2:] == ["--out", "out"]
    assignments = [parse_assignment(word) for flag, word in pairwise(words) if flag == "--set"]
    assert build_config([{"model": {"name": words[2]}}, *assignments]) == small_config


@pytest.mark.parametrize("settings", [{"search": {"method": "random"}}, {"search": {"method": "uniform"}}])
def test_methods_without_a_predictor_say_so(small_config: RunConfig, tmp_path: Path, settings: dict) -> None:
    from small_runs import finish

    search = small_config.search.model_copy(update=settings["search"])
    root = finish(small_config.model_copy(update={"search": search}), tmp_path / "run").root
    assert "has no predictor that can be judged here" in (root / "report.html").read_text()
    assert "predicted" not in figures(root / "report.html")
