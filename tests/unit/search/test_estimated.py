"""The optimum of estimated losses, on losses that are planted."""

import pytest

from planted import BUDGET, SPACE, Problem
from secateur.pruning.single_changes import SingleChanges
from secateur.search.additive import additive_optimum
from secateur.search.estimated import ESTIMATED, ROUNDS, estimated_optimum
from secateur.search.propose import initial_candidates

WEIGHTS = (1.0, 0.2, 3.0, 0.5, 2.0, 0.1, 0.7, 1.5)
LOSSES = [
    {width: weight * (1 - width / options[-1]) ** 2 for width in options}
    for weight, options in zip(WEIGHTS, SPACE.options, strict=True)
]


class Estimates:
    """Estimates of losses that add up, and around which architectures they were asked for."""

    def __init__(self, sure_of_itself=0.0):
        self.sure_of_itself = sure_of_itself
        self.centres = []

    def __call__(self, architecture):
        self.centres.append(architecture)
        own = architecture.widths
        loss = sum(map(dict.__getitem__, LOSSES, own))
        # What is far away looks better than it is.
        changes = [
            {
                width: module[width] - module[at] - self.sure_of_itself * ((width - at) / max(module)) ** 2
                for width in module
            }
            for at, module in zip(own, LOSSES, strict=True)
        ]
        return SingleChanges(loss, tuple(changes))


def loss(architecture):
    return sum(map(dict.__getitem__, LOSSES, architecture.widths))


def test_estimates_that_are_right_lead_to_the_optimum():
    estimates = Estimates()
    found = estimated_optimum(SPACE, BUDGET, estimates)
    assert loss(found) == pytest.approx(loss(SPACE.architecture(additive_optimum(SPACE, BUDGET, LOSSES))), rel=1e-3)
    assert estimates.centres[-1] == found, "the round in which nothing is new is the last"


def test_estimates_that_promise_too_much_are_put_right_by_those_around_what_they_led_to():
    estimates = Estimates(sure_of_itself=1.0)
    found = estimated_optimum(SPACE, BUDGET, estimates)
    misled = additive_optimum(SPACE, BUDGET, estimates(estimates.centres[0]).changes)
    assert loss(found) < loss(SPACE.architecture(misled))


def test_the_one_with_the_least_loss_is_taken():
    estimates = Estimates(sure_of_itself=1.0)
    found = estimated_optimum(SPACE, BUDGET, estimates)
    tried = estimates.centres[-ROUNDS:]
    assert loss(found) == min(map(loss, tried)) < max(map(loss, tried))


def test_a_model_without_estimates_has_no_such_optimum():
    assert estimated_optimum(SPACE, BUDGET, lambda _architecture: None) is None


def test_the_first_candidates_are_it_and_its_neighbours():
    optimum = estimated_optimum(SPACE, BUDGET, Estimates())
    task = Problem(loss).task(heuristics={ESTIMATED: optimum})
    candidates = initial_candidates(task, 60)
    assert ESTIMATED in {candidate.origin for candidate in candidates}
    neighbours = [candidate.architecture for candidate in candidates if candidate.origin == "neighbour"]
    of_errors = SPACE.architecture(additive_optimum(SPACE, BUDGET, task.errors))
    near = [changed(each, optimum) < changed(each, of_errors) for each in neighbours]
    assert sum(near) > len(near) / 2


def changed(one, other):
    """Count the modules that differ."""
    return sum(a != b for a, b in zip(one.widths, other.widths, strict=True))
