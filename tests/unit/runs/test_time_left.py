"""The time left, on streams of events whose cost is known."""

import random

import pytest

from secateur.runs.progress import (
    Part,
    PredictorFitted,
    StageAdvanced,
    StageEnded,
    StageStarted,
    StageWork,
    WorkExpected,
)
from secateur.runs.time_left import TimeLeft

WORK = (
    StageWork("calibrate", (Part("gather", 10.0, 10), Part("backwards", 30.0, 10))),
    StageWork(
        "search",
        (
            Part("sliced", 20.0, 20),
            Part("fit", 4.0),
            Part("reconstructed", 60.0, 20),
            Part("fit", 4.0),
            Part("reconstructed", 60.0, 20),
        ),
    ),
    StageWork("prune", (Part("module", 20.0, 10), Part("gains", 8.0, 8))),
    StageWork("export", (Part("export", 8.0),)),
)


class Run:
    """A run whose kinds of work take other times than were expected, on a clock of its own."""

    def __init__(self, paces, group=1, jitter=0.0):
        self.now = 0.0
        self.paces, self.group, self.jitter = paces, group, random.Random(0).uniform if jitter else None
        self.spread = jitter
        self.time_left = TimeLeft(lambda: self.now)
        self.said = []

    def pace(self, kind):
        noise = self.jitter(1 - self.spread, 1 + self.spread) if self.jitter else 1.0
        return self.paces.get(kind, 1.0) * noise

    def pass_time(self, seconds):
        steps = max(1, round(seconds / 0.25))
        for _ in range(steps):
            self.now += seconds / steps
            self.said.append((self.now, self.time_left.seconds))

    def play(self, work=WORK):
        tell = self.time_left.listen
        tell(WorkExpected(work))
        for stage in work:
            tell(StageStarted(stage.stage, sum(part.steps for part in stage.parts)))
            begun, done = self.now, 0
            for part in stage.parts:
                if not part.steps:
                    self.pass_time(part.seconds * self.pace(part.kind))
                    if part.kind == "fit":
                        tell(PredictorFitted(stage.stage, "blend", 0.7, done, trusted=True))
                    continue
                left = part.steps
                while left:
                    size = min(self.group, left) if part.kind == "sliced" else 1
                    took = size * part.seconds / part.steps * self.pace(part.kind)
                    self.pass_time(took)
                    for _ in range(size):
                        done += 1
                        own = took / size if part.kind in ("sliced", "reconstructed") else None
                        tell(StageAdvanced(stage.stage, done, seconds=own))
                    left -= size
            tell(StageEnded(stage.stage, self.now - begun))
        return self

    def errors(self, beginning=0.1, end=0.95):
        whole = self.now
        times = [(at, left) for at, left in self.said if beginning * whole <= at <= end * whole]
        return [abs(left - (whole - at)) / (whole - at) for at, left in times]


def test_what_goes_as_expected_is_told_to_the_second():
    assert max(Run({}).play().errors()) < 0.12


@pytest.mark.parametrize("factor", [0.5, 3.0], ids=["faster", "slower"])
def test_a_machine_of_another_speed_is_noticed_from_a_tenth_on(factor):
    kinds = {part.kind for stage in WORK for part in stage.parts}
    run = Run(dict.fromkeys(kinds, factor))
    assert max(run.play().errors()) < 0.3


def test_slow_reconstruction_is_no_news_of_slices_measured_in_groups():
    """The first step of a group comes after the time of all of them."""
    run = Run({"sliced": 0.5, "reconstructed": 1.4}, group=16, jitter=0.2).play()
    errors = run.errors()
    assert sum(error <= 0.3 for error in errors) >= 0.9 * len(errors)


def test_stages_that_come_from_the_folder_cost_nothing():
    now = 0.0
    time_left = TimeLeft(lambda: now)
    time_left.listen(WorkExpected(WORK))
    whole = time_left.seconds
    time_left.listen(StageStarted("calibrate"))
    time_left.listen(StageEnded("calibrate", 0.01, reused=True))
    assert whole == pytest.approx(224.0)
    assert time_left.seconds == pytest.approx(184.0), "and its speed teaches nothing"
    time_left.listen(StageStarted("search", 60))
    for done in range(1, 21):
        time_left.listen(StageAdvanced("search", done, seconds=0.0))
    assert time_left.seconds == pytest.approx(164.0), "nor do candidates that were measured before"


def test_a_search_that_ends_early_takes_its_steps_along():
    now = 0.0
    time_left = TimeLeft(lambda: now)
    time_left.listen(WorkExpected(WORK[1:]))
    time_left.listen(StageStarted("search", 60))
    now = 20.0
    for done in range(1, 21):
        time_left.listen(StageAdvanced("search", done, seconds=1.0))
    time_left.listen(StageEnded("search", 20.0))
    assert time_left.seconds == pytest.approx(36.0, rel=0.01)


def test_nothing_is_said_where_nothing_is_known():
    time_left = TimeLeft()
    time_left.listen(StageStarted("load"))
    assert time_left.seconds is None
