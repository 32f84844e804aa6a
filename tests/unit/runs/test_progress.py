import pytest

from secateur.runs.progress import StageAdvanced, StageEnded, StageStarted, stage_clock


def test_a_stage_tells_its_beginning_every_step_and_its_end():
    events = []
    with stage_clock("search", events.append, total=3) as clock:
        clock.advance(0.5)
        clock.advance(0.75)
        clock.advance()
        clock.note = "done"
    started, one, two, three, ended = events
    assert started == StageStarted("search", 3)
    assert one == StageAdvanced("search", 1, value=0.5, lowest=0.5)
    assert two == StageAdvanced("search", 2, value=0.75, lowest=0.5)
    assert three == StageAdvanced("search", 3, value=None, lowest=0.5)
    assert isinstance(ended, StageEnded)
    assert (ended.stage, ended.note, ended.reused, ended.seconds) == ("search", "done", False, clock.seconds)


def test_a_stage_that_failed_has_not_ended():
    events = []
    with pytest.raises(KeyError), stage_clock("search", events.append):
        raise KeyError
    assert events == [StageStarted("search")]


def test_a_stage_may_come_from_the_run_folder():
    events = []
    with stage_clock("calibrate", events.append) as clock:
        clock.reused = True
    assert events[-1].reused
