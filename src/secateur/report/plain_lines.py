"""Progress where nothing can be redrawn: a line when a stage ends, and now and then while it runs."""

from rich.console import Console

from secateur.report.progress_state import ProgressState, about, predictor_line
from secateur.runs.progress import Event, PredictorFitted, StageAdvanced, StageEnded

# A line every this many steps, or after so many seconds.
PLAIN_EVERY = 20
PLAIN_SECONDS = 10.0


def ended_line(event: StageEnded) -> str:
    reused = " (from the run folder)" if event.reused else ""
    return f"{event.stage:<10} {event.seconds:7.1f} s{reused}  {event.note}".rstrip()


class PlainLines:
    """Prints what happens, with the time that is left."""

    def __init__(self, console: Console, state: ProgressState) -> None:
        self._console = console
        self._state = state
        self._printed = state.seconds

    def listen(self, event: Event) -> None:
        state = self._state
        state.listen(event)
        if isinstance(event, StageEnded):
            self._print(ended_line(event))
        elif isinstance(event, PredictorFitted):
            self._print(f"{event.stage:<10} predictor {predictor_line(event)}")
        elif isinstance(event, StageAdvanced) and self._is_due(event):
            left = state.seconds_left
            parts = (f"{event.done} of {state.total or '?'}", state.values, f"{about(left)} left" if left else "")
            self._print(f"{event.stage:<10} {'  '.join(filter(None, parts))}".rstrip())

    def _is_due(self, event: StageAdvanced) -> bool:
        return event.done % PLAIN_EVERY == 0 or self._state.seconds - self._printed >= PLAIN_SECONDS

    def _print(self, line: str) -> None:
        self._printed = self._state.seconds
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)
