import io

from rich.console import Console

from secateur.report.live import drawn_progress
from secateur.report.plain_lines import ended_line
from secateur.runs.progress import StageEnded, stage_clock


def run(console):
    with drawn_progress(console) as listener:
        with stage_clock("calibrate", listener) as clock:
            clock.reused = True
        with stage_clock("search", listener, total=45) as clock:
            for number in range(45):
                clock.advance(100.0 - number)
            clock.note = "best KL 0.5"
    return console.file.getvalue()


def test_a_file_gets_plain_lines_every_few_steps():
    lines = run(Console(file=io.StringIO(), width=100)).splitlines()
    assert [line.split("  ")[0].split()[0] for line in lines] == ["calibrate", "search", "search", "search"]
    assert "(from the run folder)" in lines[0]
    assert "20 of 45  KL 81.0000, best 81.0000" in lines[1]
    assert "40 of 45  KL 61.0000, best 61.0000" in lines[2]
    assert lines[3].endswith("best KL 0.5")
    assert all("\x1b" not in line for line in lines)


def test_a_terminal_keeps_one_line_per_stage():
    output = run(Console(file=io.StringIO(), width=100, force_terminal=True))
    assert ended_line(StageEnded("calibrate", 0.0, reused=True)).split()[0] in output
    assert "best KL 0.5" in output


def test_the_closing_line_has_no_trailing_blanks():
    assert ended_line(StageEnded("load", 1.25)) == "load           1.2 s"
