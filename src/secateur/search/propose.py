"""Propose candidates: before there are measurements, and from a predictor afterwards.

Both are functions of what has been measured and of a seed, never of how or in what order it was measured: an
interrupted run proposes again what it had proposed.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np
from jaxtyping import Bool, Int

from secateur.predictor.shapley import Score
from secateur.schema import derive_seed
from secateur.search.additive import additive_optimum
from secateur.search.task import SearchTask
from secateur.search.uniform import nearest_levels, uniform_architectures
from secateur.space.candidate import Candidate
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import Levels
from secateur.space.stems import stem_filling

Reorder = Callable[[list[Levels]], list[Levels]]
Admitted = Callable[[Int[np.ndarray, "candidates modules"]], Bool[np.ndarray, " candidates"]]

# Of the initial candidates: heuristics and their neighbours, the rest fills the whole band.
NEIGHBOUR_SHARE = 0.3
GENERATIONS = 16
OFFSPRING = 192
SURVIVORS = 48
# Of a round's batch: what is left is the best predicted among architectures far from all measured ones.
GREEDY_SHARE = 0.75
FAR = 0.35
SHORTLIST = 3


def heuristics(task: SearchTask) -> dict[Levels, str]:
    """Give what can be said without a measurement: uniform, the additive optimum, and what the task brings along."""
    space, budget = task.space, task.budget
    rng = np.random.default_rng(derive_seed(task.seed, "initial"))
    found: dict[Levels, str] = {}
    for architecture in uniform_architectures(space.shape, budget):
        levels = repair(space, nearest_levels(space, architecture), budget, rng)
        if levels is not None:
            found.setdefault(levels, "uniform")
    optimum = additive_optimum(space, budget, task.errors)
    if optimum is not None:
        found.setdefault(optimum, "additive")
    for name, architecture in task.heuristics.items():
        levels = repair(space, nearest_levels(space, architecture), budget, rng)
        if levels is not None:
            found.setdefault(levels, name)
    return found


def initial_candidates(task: SearchTask, count: int, known: Collection[Levels] = ()) -> list[Candidate]:
    """Propose the first candidates: the heuristics, neighbours of them, and pairs that fill the band.

    Args:
        known: What has been measured already; it counts as there, and is not proposed again.
    """
    space, budget = task.space, task.budget
    rng = np.random.default_rng(derive_seed(task.seed, "neighbours"))
    found = heuristics(task)
    parents = list(found)
    nearest = [levels for levels, name in found.items() if name == "additive"] or parents[-1:]
    attempts = 0
    while parents and len(found) < int(count * NEIGHBOUR_SHARE) and attempts < 50 * count:
        parent = nearest[0] if rng.random() < 0.7 else parents[rng.integers(len(parents))]
        child = mutate(space, parent, budget, int(rng.integers(1, 4)), rng)
        if child is not None:
            found.setdefault(child, "neighbour")
        attempts += 1
    new = {levels: origin for levels, origin in found.items() if levels not in known}
    missing = count - len(new)
    if missing > 0:
        filling = stem_filling(space, budget, missing, [*found, *known], derive_seed(task.seed, "sample"))
        new |= dict.fromkeys(filling, "sampled")
    return [task.candidate(levels, origin) for levels, origin in list(new.items())[:count]]


def neighbours_of_best(
    task: SearchTask, measured: Sequence[Levels], count: int, round_number: int, out: Sequence[Levels] = ()
) -> list[Candidate]:
    """Propose offspring of the best measured: what is left to do where no predictor can be trusted.

    Args:
        measured: Best first.
        out: What is being measured.
    """
    rng = np.random.default_rng(derive_seed(task.seed, "offspring", round_number))
    found: dict[Levels, None] = {}
    already = {*measured, *out}
    for attempt in range(50 * count):
        if len(found) == count:
            break
        # The best first, others the more the longer it takes to find something new.
        parent = measured[int(rng.integers(1 + min(len(measured) - 1, attempt // (5 * count))))]
        child = mutate(task.space, parent, task.budget, int(rng.integers(1, 4)), rng)
        if child is not None and child not in already:
            found.setdefault(child)
    return [task.candidate(levels, "offspring", round_number) for levels in found]


def predicted_candidates(
    task: SearchTask,
    score: Score,
    measured: Sequence[Levels],
    count: int,
    round_number: int,
    admitted: Admitted = lambda rows: np.ones(len(rows), dtype=bool),
    second_opinion: Reorder = lambda shortlist: shortlist,
) -> list[Candidate]:
    """Propose the candidates of one round by evolutionary search on predictions.

    Args:
        score: What candidates promise, lower is better.
        measured: What has been measured, best first, failures last; it is not proposed again.
        admitted: Says which candidates are left in a space that has been shrunk.
        second_opinion: Orders a shortlist, three times as long as what is taken from it, anew.

    Source:
        Level-switch mutation after EvoPress (arXiv 2410.14649); scores are predictions, so a generation is free.
    """
    space, budget, seed = task.space, task.budget, task.seed
    rng = np.random.default_rng(derive_seed(seed, "propose", round_number))
    seen: dict[Levels, float] = {}

    def add(candidates: list[Levels]) -> None:
        new = [levels for levels in dict.fromkeys(candidates) if levels not in seen]
        if new:
            new = [levels for levels, left in zip(new, admitted(np.array(new)), strict=True) if left]
        if new:
            seen.update(zip(new, score(np.array(new)).tolist(), strict=True))

    drawn = sample_architectures(space, budget, OFFSPRING, derive_seed(seed, "draw", round_number))
    add(list(measured[:SURVIVORS]) + [space.levels(architecture) for architecture in drawn])
    if not seen:
        return []
    for _ in range(GENERATIONS):
        parents = sorted(seen, key=lambda levels: (seen[levels], levels))[:SURVIVORS]
        children = [
            mutate(
                space, parents[int(SURVIVORS * rng.random() ** 2) % len(parents)], budget, int(rng.integers(1, 4)), rng
            )
            for _ in range(OFFSPRING)
        ]
        add([child for child in children if child is not None])
    already = set(measured)
    ranked = sorted((levels for levels in seen if levels not in already), key=lambda levels: (seen[levels], levels))
    greedy = int(count * GREEDY_SHARE)
    shortlist = second_opinion(ranked[: SHORTLIST * greedy]) if greedy else []
    chosen = dict.fromkeys(shortlist[:greedy], "predicted")
    known = np.array([*measured, *chosen])
    for levels in ranked:
        if len(chosen) >= count:
            break
        if levels not in chosen and (known != np.array(levels)).mean(1).min() >= FAR:
            chosen[levels] = "explored"
            known = np.vstack([known, levels])
    for levels in ranked:
        if len(chosen) >= count:
            break
        chosen.setdefault(levels, "predicted")
    return [task.candidate(levels, origin, round_number) for levels, origin in chosen.items()]
