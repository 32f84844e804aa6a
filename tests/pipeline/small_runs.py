"""Runs for tests to look at: whole ones, and ones stopped at an event, by SIGKILL or by an exception."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from secateur.comparison import run_comparison
from secateur.comparison_plan import ComparisonConfig
from secateur.config import RunConfig
from secateur.execution.settings import LOCAL, Execution
from secateur.pipeline import run_pipeline
from secateur.report.record import Report
from secateur.runs.progress import Event, StageAdvanced, StageEnded, StageStarted
from secateur.runs.store import RunStore
from secateur.space.candidate import Measurement

# What transformers imports when a model is loaded and not before: seconds, in every process.
LAZY = ("transformers.models.llama.modeling_llama", "transformers.models.auto.tokenization_auto")
# The command line, called with arguments.
Invoke = Callable[..., Result]
KINDS = {"started": StageStarted, "advanced": StageAdvanced, "ended": StageEnded}


@dataclass
class Moment:
    """The `count`-th event of one kind; of one stage if named."""

    kind: str
    count: int = 1
    stage: str | None = None
    seen: int = field(default=0, init=False)

    def reached(self, event: Event) -> bool:
        self.seen += isinstance(event, KINDS[self.kind]) and self.stage in (None, event.stage)
        return self.seen == self.count


@dataclass(frozen=True)
class Finished:
    """A whole run, where it lies, and all it said on its way."""

    report: Report
    root: Path
    events: list[Event]

    @property
    def measurements(self) -> list[Measurement]:
        return stored_measurements(self.root)


def finish(config: RunConfig, root: Path, execution: Execution = LOCAL) -> Finished:
    events: list[Event] = []
    return Finished(run_pipeline(config, root, events.append, execution=execution), root, events)


def stored_measurements(root: Path) -> list[Measurement]:
    with RunStore(root / "run.db") as store:
        return [Measurement.model_validate_json(record) for record in store.all_measurements()]


def assert_same(one: Finished, other: Finished) -> None:
    """Hold what another run has measured and chosen to what one has."""
    expected = {each.architecture.key: each for each in one.measurements}
    found = {each.architecture.key: each for each in other.measurements}
    assert found.keys() == expected.keys()
    for key, measurement in found.items():
        assert measurement.kl == pytest.approx(expected[key].kl, rel=1e-6, abs=1e-6)
        assert measurement.loss == pytest.approx(expected[key].loss, rel=1e-6)
        assert measurement.protocol == expected[key].protocol
        assert measurement.targets == pytest.approx(expected[key].targets, rel=1e-6)
    assert other.report.choice.architecture == one.report.choice.architecture


def assert_counted(run: Finished) -> None:
    """No stage counts further than it said it would."""
    totals = {event.stage: event.total for event in run.events if isinstance(event, StageStarted)}
    for event in run.events:
        if isinstance(event, StageAdvanced) and (total := totals[event.stage]) is not None:
            assert event.done <= total, f"{event.stage}: {event.done} of {total}"


class StoppedError(Exception):
    """Raised by the listener of `run_until`."""


def run_until(config: RunConfig, root: Path, moment: Moment) -> None:
    """Run in this process up to a moment, and leave the folder as it is then."""

    def stop(event: Event) -> None:
        if moment.reached(event):
            raise StoppedError

    with pytest.raises(StoppedError):
        run_pipeline(config, root, stop)


def _run_and_die(config: RunConfig | ComparisonConfig, root: Path, moment: Moment) -> None:
    def kill(event: Event) -> None:
        if moment.reached(event):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    run: Callable[..., object] = run_pipeline if isinstance(config, RunConfig) else run_comparison
    run(config, root, kill)


def kill_at(config: RunConfig | ComparisonConfig, root: Path, moment: Moment) -> None:
    """Run or compare in another process until it kills itself at a moment."""
    # Forked from a server that has done nothing but import, so that a dozen of these do not import torch each.
    # A GPU cannot be used in a fork of a process that has looked for it, as some of these do when they are imported.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "forkserver")
    if not torch.cuda.is_available():
        context.set_forkserver_preload(["small_runs", *LAZY])
    process = context.Process(target=_run_and_die, args=(config, root, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def assert_refused(result: Result, *words: str) -> None:
    """Bad input gets one line with these words in it, and exit code 2."""
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stderr.startswith("secateur: ")
    for word in words:
        assert word in result.stderr
