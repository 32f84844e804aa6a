"""The live view of a run: finished stages above as a line each, below them what is going on, redrawn in place."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import torch
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from secateur.report.plain_lines import PlainLines
from secateur.report.progress_state import ProgressState, about, duration, predictor_line
from secateur.runs.progress import KL, Event, Listener, StageEnded

REFRESH_PER_SECOND = 5
LABEL = 10
# However wide the terminal is: what is drawn in no more columns than most windows have survives their being narrowed.
WIDEST = 79
BARS = "▁▂▃▄▅▆▇█"


@contextmanager
def drawn_progress(console: Console) -> Iterator[Listener]:
    """Give a listener that draws events on `console`: a live view on a terminal, else plain lines."""
    if not console.is_terminal:
        yield PlainLines(console, ProgressState()).listen
        return
    view = LiveView(ProgressState())
    with Live(view, console=console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as live:

        def listen(event: Event) -> None:
            view.state.listen(event)
            if isinstance(event, StageEnded):
                live.console.print(ended_text(event, live.console.width))

        yield listen


def ended_text(event: StageEnded, width: int) -> Text:
    """Give the line that a finished stage leaves, cut to the width of the terminal."""
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("✓ ", style="green")
    line.append(f"{event.stage:<{LABEL}} ", style="bold")
    line.append(f"{duration(event.seconds):>8}  ", style="cyan")
    if event.reused:
        line.append("from the run folder  ", style="dim")
    line.append(event.note)
    line.truncate(width, overflow="ellipsis")
    return line


class LiveView:
    """Draws where a run stands, in a few lines of the same places every time."""

    def __init__(self, state: ProgressState) -> None:
        self.state = state
        self._spinner = Spinner("dots", style="green")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Group]:
        width = min(options.max_width, WIDEST)
        rows: list[RenderableType] = [self._stage_row(console, width), *self._rows(width), self._run_row(width)]
        yield Group(*rows)

    def _stage_row(self, console: Console, width: int) -> Table:
        """The running stage: how far it is, and at which step."""
        state = self.state
        share = min(state.done / state.total, 1.0) if state.total else None
        room = max(width - LABEL - 5 - 3 - len(state.step), 8)
        bar = ProgressBar(
            total=1.0 if share is not None else None,  # without a total it moves to and fro
            completed=share or 0.0,
            width=room,
            pulse=share is None,
            complete_style="green",
            finished_style="green",
        )
        row = Table.grid()
        row.add_column(width=2)
        row.add_column(width=LABEL + 3, no_wrap=True, overflow="ellipsis")
        row.add_column(width=room)
        row.add_column(no_wrap=True)
        spin = self._spinner.render(console.get_time())
        row.add_row(spin, Text(state.stage or "...", style="bold"), bar, Text(f"   {state.step}"))
        return row

    def _rows(self, width: int) -> Sequence[Text]:
        state, rows = self.state, []
        if state.value is not None:
            values = Text(f"now {state.value:.4f}")
            if state.lowest:
                values.append("   best ")
                values.append(f"{state.lowest[-1]:.4f}", style="bold green")
            room = width - LABEL - 5 - len(values) - 3
            if len(state.lowest) > 1 and room >= 8:
                values.append(
                    "   " + sparkline([math.log(max(value, 1e-9)) for value in state.lowest], min(room, 40)),
                    style="green",
                )
            rows.append(self._labelled("KL to dense" if state.metric == KL else state.metric, values, width))
        if state.predictor is not None:
            rows.append(self._labelled("predictor", Text(predictor_line(state.predictor)), width))
        return rows

    def _run_row(self, width: int) -> Text:
        state, left = self.state, self.state.seconds_left
        line = Text(f"{duration(state.seconds)} elapsed")
        if left is not None:
            line.append("   about ")
            line.append(f"{about(left)} left", style="bold cyan")
            line.append(f"   {100 * (state.share_done or 0):.0f} %")
        if state.stage_place:
            line.append(f"   {state.stage_place}", style="dim")
        line.append(f"   {memory_in_use() / 1e9:.1f} GB", style="dim")
        return self._labelled("whole run", line, width)

    @staticmethod
    def _labelled(label: str, value: Text, width: int) -> Text:
        line = Text("  ", no_wrap=True, overflow="ellipsis")
        line.append(f"{label:<{LABEL + 2}} ", style="dim")
        line.append_text(value)
        line.truncate(width, overflow="ellipsis")
        return line


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values as bars, the last at the right; as many of them as fit, evenly taken."""
    count = min(width, len(values))
    chosen = [values[round(place * (len(values) - 1) / max(count - 1, 1))] for place in range(count)]
    low, high = min(chosen), max(chosen)
    span = (high - low) or 1.0
    return "".join(BARS[round((value - low) / span * (len(BARS) - 1))] for value in chosen)


def memory_in_use() -> int:
    """Give the bytes that the process has in memory, what a GPU holds for it included."""
    on_gpu = torch.cuda.memory_reserved() if torch.cuda.is_initialized() else 0
    return psutil.Process().memory_info().rss + int(on_gpu)
