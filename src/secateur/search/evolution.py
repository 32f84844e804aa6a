"""EvoPress: evolutionary search by level switches."""

import math

import numpy as np

from secateur.schema import derive_seed
from secateur.search.halving import whole_measurements
from secateur.search.task import Found, SearchTask, ranked
from secateur.search.uniform import nearest_levels, uniform_architectures
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import Levels

# Chosen for the few hundred measurements at hand, on stories260K (docs/log.md); the paper has 64 and more.
OFFSPRING = 8
# Where the field is halved: four times as many, of which two are measured on all tokens, for the work of ten.
HALVED_OFFSPRING, SURVIVORS = 32, 2
MAX_SWITCHES = 3
MAX_ATTEMPTS = 1_000


def evolutionary_search(task: SearchTask) -> Found:
    """Let the best architecture so far have offspring, measure them, go on from the best of all, and so on.

    Source:
        EvoPress (arXiv 2410.14649): one parent, mutation by `min(a, b)` level switches with a and b uniform in 1..3,
        elitist selection by KL to the dense model, on growing token counts where the task halves the field. It
        starts from the uniform architecture. Departure: a switch may join modules of different cost, what it leaves
        over is repaired (`mutate`).
    """
    rng = np.random.default_rng(derive_seed(task.seed, "evolution"))
    seen = dict.fromkeys(_start(task, rng))
    measured = task.measure([task.candidate(levels, "uniform") for levels in seen])
    generation, spent = 0, float(len(measured))
    while spent < task.num_measurements and ranked(measured):
        generation += 1
        parent = task.space.levels(ranked(measured)[0].architecture)
        left = math.ceil(task.num_measurements - spent)
        count = min(OFFSPRING, left) if task.measure_best is None else min(HALVED_OFFSPRING, 3 * left)
        offspring = _offspring(task, parent, count, seen, rng)
        if not offspring:
            break
        seen |= dict.fromkeys(offspring)
        batch = [task.candidate(each, "offspring", generation) for each in offspring]
        if task.measure_best is None:
            measured, spent = measured + task.measure(batch), spent + len(batch)
        else:
            measured = measured + task.measure_best(batch, SURVIVORS)
            spent += whole_measurements(len(batch), SURVIVORS)
    return Found(measured, ranked(measured))


def _start(task: SearchTask, rng: np.random.Generator) -> list[Levels]:
    """Give the uniform architectures of the space, or a random one where none can be moved into the band."""
    found = []
    for architecture in uniform_architectures(task.space.shape, task.budget):
        levels = repair(task.space, nearest_levels(task.space, architecture), task.budget, rng)
        if levels is not None and levels not in found:
            found.append(levels)
    if found:
        return found
    drawn = sample_architectures(task.space, task.budget, 1, derive_seed(task.seed, "start"))
    return [task.space.levels(architecture) for architecture in drawn]


def _offspring(
    task: SearchTask, parent: Levels, count: int, seen: dict[Levels, None], rng: np.random.Generator
) -> list[Levels]:
    found: dict[Levels, None] = {}
    for _ in range(MAX_ATTEMPTS):
        if len(found) == count:
            break
        switches = int(rng.integers(1, MAX_SWITCHES + 1, size=2).min())
        child = mutate(task.space, parent, task.budget, switches, rng)
        if child is not None and child not in seen:
            found[child] = None
    return list(found)
