"""Progress on a terminal: one live line per stage, or plain lines where the output is a file."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from secateur.runs.progress import Event, Listener, StageAdvanced, StageEnded, StageStarted

# A line every this many steps where there is no terminal to redraw.
PLAIN_EVERY = 20


@contextmanager
def drawn_progress(console: Console) -> Iterator[Listener]:
    """Give a listener that draws events on `console`."""
    if not console.is_terminal:
        yield PlainLines(console).listen
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveLine(progress, console).listen


def ended_line(event: StageEnded) -> str:
    reused = " (from the run folder)" if event.reused else ""
    return f"{event.stage:<10} {event.seconds:7.1f} s{reused}  {event.note}".rstrip()


def step_note(event: StageAdvanced) -> str:
    if event.value is None:
        return ""
    return f"KL {event.value:.4f}, best {event.lowest:.4f}"


class LiveLine:
    """Redraws the running stage; leaves one line when it ends."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._task: TaskID | None = None

    def listen(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._task = self._progress.add_task(event.stage, total=event.total, note="")
        elif isinstance(event, StageAdvanced) and self._task is not None:
            self._progress.update(self._task, completed=event.done, note=step_note(event))
        elif isinstance(event, StageEnded):
            if self._task is not None:
                self._progress.remove_task(self._task)
                self._task = None
            self._console.print(ended_line(event), highlight=False)


class PlainLines:
    """Prints a line when a stage begins, every few steps, and when it ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._total: int | None = None

    def listen(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._total = event.total
            return
        if isinstance(event, StageEnded):
            line = ended_line(event)
        elif event.done % PLAIN_EVERY == 0:
            line = f"{event.stage:<10} {event.done} of {self._total or '?'}  {step_note(event)}".rstrip()
        else:
            return
        self._console.print(line, highlight=False, soft_wrap=True)
