"""The live view draws what events say, in as many columns as there are."""

import io

import pytest
from rich.console import Console

from secateur.report.live import LiveView, drawn_progress, sparkline
from secateur.report.progress_state import ProgressState, about, duration
from secateur.runs.progress import (
    Part,
    PredictorFitted,
    StageAdvanced,
    StageStarted,
    StageWork,
    WorkExpected,
)

EVENTS = (
    WorkExpected((StageWork("search", (Part("sliced", 60.0, 60),)), StageWork("prune", (Part("module", 30.0, 10),)))),
    StageStarted("search", 60),
    StageAdvanced("search", 37, 0.0300, 0.0200, seconds=1.0),
    StageAdvanced("search", 38, 0.0219, 0.0070, seconds=1.0),
    PredictorFitted("search", "gaussian_process", 0.78, 34, trusted=True),
)


def drawn(width: int, events: tuple = EVENTS, **options) -> str:
    now = 0.0
    state = ProgressState(lambda: now)
    view = LiveView(state)
    for event in events:
        now += 1.0
        state.listen(event)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, **options)
    console.print(view)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_everything_that_is_known_is_there(width: int) -> None:
    text = drawn(width, no_color=True, color_system=None)
    lines = text.rstrip("\n").split("\n")
    assert len(lines) == 4
    assert all(len(line) <= width for line in lines)
    for words in ("search", "candidate 38 of 60", "now 0.0219", "best 0.0070", "gaussian process, Kendall tau 0.78 at"):
        assert words in text
    assert "34 pairs" in text
    assert "5 s elapsed" in text
    assert "about 50 s left" in text, "22 candidates and the pruning"
    assert "stage 1 of 2" in text


def test_bars_fill_what_is_left_of_their_line_and_no_more() -> None:
    steps = [StageAdvanced("search", done, 1.0, 1.0 / done, seconds=1.0) for done in range(1, 60)]
    text = drawn(80, (*EVENTS[:2], *steps), color_system=None)
    assert "…" not in text


def test_a_predictor_that_is_not_trusted_is_said_to_be() -> None:
    doubted = PredictorFitted("search", "trees", 0.1, 25, trusted=False)
    assert "not trusted" in drawn(80, (*EVENTS[:-1], doubted), color_system=None)


def test_a_narrow_window_is_never_wrapped() -> None:
    assert all(len(line) <= 46 for line in drawn(46, color_system=None).split("\n"))


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" in drawn(80, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in drawn(80, color_system="standard")


def test_an_interruption_leaves_a_visible_cursor_and_no_view() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)

    def interrupted() -> None:
        with drawn_progress(console) as listener:
            for event in EVENTS:
                listener(event)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    output = console.file.getvalue()
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor is shown again"
    # What is below is wiped, line by line: cursor up, erase.
    assert output.rstrip("\r").endswith("\x1b[1A\x1b[2K")


def test_bars_go_from_high_to_low() -> None:
    assert sparkline([3.0, 2.0, 1.0], 10) == "█▅▁"
    assert len(sparkline([float(value) for value in range(100)], 12)) == 12


def test_times_are_written_as_people_say_them() -> None:
    assert [duration(seconds) for seconds in (4.0, 65.0, 7384.0)] == ["4 s", "1:05", "2:03:04"]
    assert [about(seconds) for seconds in (1.0, 42.0, 95.0, 1500.0, 7800.0)] == [
        "1 s",
        "40 s",
        "1.5 min",
        "25 min",
        "2 h 10 min",
    ]
