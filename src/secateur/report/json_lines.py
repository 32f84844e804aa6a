"""Progress for programs: one JSON object per line."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import Field

from secateur.report.progress_state import ProgressState
from secateur.runs.progress import Event, PredictorFitted, RunFinished, StageAdvanced, StageEnded, StageStarted
from secateur.schema import Record


class PredictorSeen(Record):
    """The predictor that decides what is measured next."""

    name: str = Field(description="which one")
    kendall_tau: float = Field(description="rank correlation with unseen pairs at the budget")
    num_pairs: int = Field(description="measured architectures that it knows")
    trusted: bool = Field(description="whether it ranks better than noise would")


class ProgressLine(Record):
    """What has just happened, and where the run stands."""

    event: Literal["expected", "started", "advanced", "fitted", "ended"] = Field(description="what has happened")
    stage: str | None = Field(description="of the run; null where it is none's")
    done: int = Field(description="steps of the stage that are done")
    total: int | None = Field(description="steps of the stage; null where they are not known")
    metric: str = Field(
        description="of `value`: KL(dense || candidate), or the loss of a training's step; nats per token"
    )
    value: float | None = Field(description="of the last step that had one")
    lowest: float | None = Field(description="best value of the stage so far")
    predictor: PredictorSeen | None = Field(description="the last one that was fitted")
    seconds: float = Field(description="since the command began to work")
    seconds_left: float | None = Field(description="of the whole run, as expected now; null where it is not known")
    reused: bool = Field(False, description="the stage, or the step, came from the run folder")
    note: str = Field("", description="what an ended stage says of itself")


class ResultLine(Record):
    """The last line of a command that has succeeded."""

    event: Literal["result"] = "result"
    result: str = Field(description="folder or file that was made")
    report: str | None = Field(None, description="report.json or comparison.json, where there is one")
    seconds: float = Field(description="since the command began to work")


class JsonLines:
    """Writes a line per event."""

    def __init__(self, write: Callable[[str], None], state: ProgressState) -> None:
        self._write = write
        self._state = state

    def listen(self, event: Event) -> None:
        state = self._state
        state.listen(event)
        if isinstance(event, RunFinished):
            return  # the result's own line follows
        fitted = state.predictor
        left = state.seconds_left
        line = ProgressLine(
            event=_kind(event),
            stage=getattr(event, "stage", None),
            done=state.done,
            total=state.total,
            metric=state.metric,
            value=state.value,
            lowest=state.lowest[-1] if state.lowest else None,
            predictor=fitted
            and PredictorSeen(
                name=fitted.predictor,
                kendall_tau=round(fitted.kendall_tau, 4),
                num_pairs=fitted.num_pairs,
                trusted=fitted.trusted,
            ),
            seconds=round(state.seconds, 3),
            seconds_left=None if left is None else round(left, 1),
            reused=getattr(event, "reused", False) or (isinstance(event, StageAdvanced) and event.seconds == 0),
            note=event.note if isinstance(event, StageEnded) else "",
        )
        self._write(line.model_dump_json())

    def result(self, made: Path, report: Path | None) -> None:
        """Write the last line."""
        written = str(report) if report is not None and report.is_file() else None
        line = ResultLine(result=str(made), report=written, seconds=round(self._state.seconds, 3))
        self._write(line.model_dump_json())


def _kind(event: Event) -> Literal["expected", "started", "advanced", "fitted", "ended"]:
    if isinstance(event, StageStarted):
        return "started"
    if isinstance(event, StageAdvanced):
        return "advanced"
    if isinstance(event, PredictorFitted):
        return "fitted"
    return "ended" if isinstance(event, StageEnded) else "expected"
