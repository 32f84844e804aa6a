import io
import math

import pytest
from rich.console import Console

from planted import BUDGET, SHAPE, SPACE, Problem
from secateur.report.front import Front, front_of, front_table
from secateur.report.record import MadePoint
from secateur.search.objectives import Objectives
from secateur.search.task import Found
from secateur.space.sampling import sample_architectures

DENSE = {"a": 1.0, "b": 2.0}
# Log ratios per group: the front over mean and spread is the first three; the fourth is behind the second.
RATIOS = [(0.1, 0.5), (0.3, 0.4), (0.4, 0.4), (0.3, 0.5)]


@pytest.fixture(scope="module")
def measured():
    drawn = sample_architectures(SPACE, BUDGET, 5, seed=0)
    ratios = dict(zip((each.key for each in drawn), RATIOS, strict=False))

    def targets(architecture):
        a, b = ratios.get(architecture.key, (9, 9))
        return {"loss a": 1 + a, "loss b": 2 + b}

    problem = Problem(lambda each: 0.7 if each.key in ratios else None, targets_of=targets)
    return problem.measure([problem.task().candidate(SPACE.levels(each), "sampled") for each in drawn])


def front(measured, chosen, objectives=None):
    wanted = objectives or Objectives(("quality", "disparity"), DENSE)
    return front_of(Found(measured, [measured[chosen]], objectives=wanted), SHAPE, measured[chosen].architecture)


def test_points_are_the_front_best_quality_first_and_failures_are_left_out(measured):
    found = front(measured, 1)
    assert [point.architecture for point in found.points] == [m.architecture for m in measured[:3]]
    assert [point.number for point in found.points] == [1, 2, 3]
    assert found.num_measurements == 4
    first = found.points[0]
    assert first.objectives == pytest.approx({"quality": 0.3, "disparity": 0.4})
    assert first.log_ratios == pytest.approx({"a": 0.1, "b": 0.5})
    assert first.cost.decoder_parameters == SPACE.decoder_parameters(SPACE.levels(first.architecture))


def test_the_chosen_is_listed_even_if_another_measured_better(measured):
    found = front(measured, 3)
    assert [point.chosen for point in found.points].count(True) == 1
    assert len(found.points) == 4


def test_what_was_traded_is_between_the_best_quality_and_the_chosen(measured):
    traded = front(measured, 1).traded()
    assert traded.best_quality_disparity == pytest.approx(0.4)
    assert traded.disparity == pytest.approx(0.1)
    assert traded.mean_perplexity_ratio == pytest.approx(math.exp(0.05))


def test_of_points_that_were_made_is_said_what_was_traded_as_they_are(measured):
    made = [
        MadePoint(architecture=measured[index].architecture, objectives={"quality": quality, "disparity": disparity})
        for index, quality, disparity in ((0, 0.25, 0.5), (1, 0.28, 0.2))
    ]
    found = Found(measured, [measured[1]], objectives=Objectives(("quality", "disparity"), DENSE))
    with_made = front_of(found, SHAPE, measured[1].architecture, made)
    assert [point.made for point in with_made.points] == [made[0].objectives, made[1].objectives, None]
    traded = with_made.traded()
    assert (traded.best_quality_disparity, traded.disparity) == (0.5, 0.2)
    assert traded.mean_perplexity_ratio == pytest.approx(math.exp(0.03))


def test_one_objective_is_weighed_against_parameters_and_trades_nothing(measured):
    found = front(measured, 0, Objectives())
    assert list(found.objectives) == ["quality", "decoder_parameters"]
    assert found.traded() is None


def test_groups_that_are_only_measured_have_their_disparity_on_the_front(measured):
    assert list(front(measured, 0, Objectives(dense_losses=DENSE)).objectives) == ["quality", "disparity"]


def test_it_survives_the_disk(measured):
    found = front(measured, 0)
    assert Front.model_validate_json(found.model_dump_json()) == found


def test_the_table_has_a_line_per_point_with_its_number(measured):
    console = Console(file=io.StringIO(), width=200)
    console.print(front_table(front(measured, 1)))
    text = console.file.getvalue()
    lines = [line.split() for line in text.splitlines()]
    chosen = next(line for line in lines if "chosen" in line)
    assert chosen[:5] == ["2", "0.3500", "0.1000", "0.3000", "0.4000"]
    assert "max - min over groups" in text
