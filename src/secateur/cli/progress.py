"""How a verb shows progress: the live view or plain lines, nothing at all, or lines for programs."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.errors import ConfigError

QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print the path of the result, and errors.")]
JsonProgressOption = Annotated[
    bool, typer.Option("--json-progress", help="Print a JSON object per line instead; docs/progress.md says which.")
]
TrackOption = Annotated[
    list[str] | None,
    typer.Option("--track", help="tensorboard, mlflow, trackio or wandb, beside the run; may be given several times."),
]


@dataclass(frozen=True)
class Shown:
    """What a verb prints.

    Attributes:
        console: For tables and closing lines.
        talks: Whether those are wanted; else the result's path is all, or its line of JSON.
        lines: Prints lines of JSON, where those were asked for.
    """

    console: Any
    talks: bool
    lines: Any = None

    def result(self, made: Path, report: Path | None = None) -> None:
        """Say where the result lies: the last line, whatever else is printed."""
        if self.lines is not None:
            self.lines.result(made, report)
        elif self.talks:
            self.console.print(f"result: {made}", highlight=False, soft_wrap=True, markup=False)
        else:
            typer.echo(str(made))


@dataclass(frozen=True)
class Showing:
    """How progress was asked to be shown.

    Raises:
        ConfigError: Nothing and JSON were both asked for.
    """

    quiet: bool = False
    json_progress: bool = False
    track: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.quiet and self.json_progress:
            raise ConfigError("--quiet and --json-progress were both given; leave one of the two out")

    @contextlib.contextmanager
    def progress(self, root: Path) -> Iterator[tuple[Shown, Callable[[Any], None]]]:
        """Give what a verb prints with, and the listener that shows its progress and tells trackers.

        Args:
            root: Folder beside whose files trackers lay theirs.
        """
        if not self.track:
            with self._drawn() as drawn:
                yield drawn
            return
        from secateur.runs.progress import heard_by
        from secateur.runs.trackers import tracked

        # Refused before anything is drawn.
        with tracked(self.track, root) as tell, self._drawn() as (shown, listener):
            yield shown, heard_by(listener, tell)

    @contextlib.contextmanager
    def _drawn(self) -> Iterator[tuple[Shown, Callable[[Any], None]]]:
        from rich.console import Console

        console = Console()
        if self.json_progress:
            from secateur.report.json_lines import JsonLines
            from secateur.report.progress_state import ProgressState

            lines = JsonLines(typer.echo, ProgressState())
            yield Shown(console, talks=False, lines=lines), lines.listen
        elif self.quiet:
            from secateur.runs.progress import silent

            yield Shown(console, talks=False), silent
        else:
            from secateur.report.live import drawn_progress

            with drawn_progress(console) as listener:
                yield Shown(console, talks=True), listener
