"""Propose candidates of any size: at narrow bands of sizes, where predictions meet a limit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.predictor.shapley import Score
from secateur.schema import derive_seed
from secateur.search.sizes import SizeAxis
from secateur.space.repair import mutate, repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import Levels

# Bands at which the best predicted is looked for, to see where it meets the limit; then once more there, for longer.
NUM_BANDS = 6
FIRST_GENERATIONS = 4
GENERATIONS = 10
ZOOMS = 2
OFFSPRING = 64
SURVIVORS = 24
MAX_SWITCHES = 3
# Modules in which the proposals of a batch differ from each other, where there are such.
APART = 2
# Of what is measured before there is a predictor: neighbours of the optima of a rule; the rest is drawn.
NEIGHBOUR_SHARE = 0.7


@dataclass(frozen=True)
class Aim:
    """A score that is to be at most `limit` at the smallest size possible; `weight` is its share of a batch."""

    name: str
    score: Score
    limit: float
    weight: float


def propose(
    axis: SizeAxis,
    aims: Sequence[Aim],
    sizes: tuple[float, float],
    start: Sequence[Levels],
    known: Collection[Levels],
    count: int,
    seed: int,
) -> dict[Levels, str]:
    """Propose, for each aim in turn, the smallest architectures that meet it.

    Evolution at a few bands gives the best score by size; it goes on where that meets the aim, and again where that
    meets it then.

    Args:
        sizes: Range of shares.
        start: Architectures that evolution may start from, moved to the band at hand.
        known: Not proposed again.

    Returns:
        Levels with the name of their aim; fewer than `count` where no more were found.
    """
    shared: dict[Levels, None] = {}
    batch: dict[Levels, str] = {}
    curves: dict[Score, dict[float, float]] = {}
    for place, aim in enumerate(aims):

        def look(share: float, generations: int, *parts: int, aim: Aim = aim) -> None:
            near = sorted(shared, key=lambda levels: (abs(axis.share(levels) - share), levels))[:SURVIVORS]
            found = evolve(axis, share, aim.score, [*near, *start], generations, derive_seed(seed, aim.name, *parts))
            shared.update(dict.fromkeys(found))
            best = min(found.values(), default=np.inf)
            curves[aim.score][share] = min(best, curves[aim.score].get(share, np.inf))

        if aim.score not in curves:
            curves[aim.score] = {}
            for number, share in enumerate(np.linspace(*sizes, NUM_BANDS).tolist()):
                look(share, FIRST_GENERATIONS, number)
        for zoom in range(ZOOMS):
            look(_smallest_share(curves[aim.score], aim.limit), GENERATIONS, zoom)
        wanted = round(count * sum(each.weight for each in aims[: place + 1])) - len(batch)
        batch |= dict.fromkeys(_smallest(axis, aim, list(shared), {*known, *batch}, list(batch), wanted), aim.name)
    return batch


def _smallest_share(scores: Mapping[float, float], limit: float) -> float:
    """Give the smallest share at which a falling curve is at most the limit; the largest where it never is."""
    shares = np.array(sorted(share for share, score in scores.items() if np.isfinite(score)) or sorted(scores))
    # Less of a model is never better: the best from each share up.
    curve = np.minimum.accumulate(np.array([scores[share] for share in shares]))
    if curve[-1] > limit:
        return float(shares[-1])
    if curve[0] <= limit:
        return float(shares[0])
    return float(np.interp(-limit, -curve, shares))


def _smallest(
    axis: SizeAxis, aim: Aim, seen: list[Levels], known: Collection[Levels], chosen: Sequence[Levels], count: int
) -> list[Levels]:
    """Choose the smallest that meet an aim, apart from each other; then the nearest to meeting it."""
    new = [levels for levels in seen if levels not in known]
    if not new or count <= 0:
        return []
    scores = aim.score(np.array(new))
    missed = np.maximum(scores - aim.limit, 0)
    order = sorted(range(len(new)), key=lambda index: (missed[index], axis.share(new[index]), new[index]))
    picked: list[Levels] = []
    for apart in (APART, 1):
        for index in order:
            if len(picked) == count:
                return picked
            others = np.array([*chosen, *picked])
            if len(others) == 0 or (others != np.array(new[index])).sum(1).min() >= apart:
                picked.append(new[index])
    return picked


def evolve(
    axis: SizeAxis, share: float, score: Score, start: Sequence[Levels], generations: int, seed: int
) -> dict[Levels, float]:
    """Search one band for low scores by level switches; give all that was seen.

    Source:
        Level-switch mutation after EvoPress (arXiv 2410.14649); scores are predictions, so a generation is free.
    """
    space, band, rng = axis.space, axis.band(share), np.random.default_rng(seed)
    seen: dict[Levels, float] = {}

    def add(candidates: Sequence[Levels | None]) -> None:
        new = [each for each in dict.fromkeys(candidates) if each is not None and each not in seen]
        if new:
            seen.update(zip(new, score(np.array(new)).tolist(), strict=True))

    nearest = sorted(start, key=lambda levels: (abs(axis.share(levels) - share), levels))[: 2 * SURVIVORS]
    drawn = sample_architectures(space, band, SURVIVORS // 4, derive_seed(seed, "draw"))
    add([*(repair(space, levels, band, rng) for levels in nearest), *map(space.levels, drawn)])
    for _ in range(generations if seen else 0):
        parents = sorted(seen, key=lambda levels: (seen[levels], levels))[:SURVIVORS]
        places = (len(parents) * rng.random(OFFSPRING) ** 2).astype(int)
        add([mutate(space, parents[p], band, int(rng.integers(1, MAX_SWITCHES + 1)), rng) for p in places.tolist()])
    return seen


def variations(
    axis: SizeAxis,
    parents: Sequence[Levels],
    sizes: tuple[float, float],
    count: int,
    known: Collection[Levels],
    seed: int,
) -> dict[Levels, str]:
    """Give what can be proposed without a predictor: neighbours of parents all over a range of sizes, and draws."""
    rng = np.random.default_rng(seed)
    found: dict[Levels, str] = {}
    for attempt in range(20 * count):
        if len(found) == count:
            break
        share = float(rng.uniform(*sizes))
        levels: Levels | None = None
        if parents and len(found) < count * NEIGHBOUR_SHARE:
            # A parent of about that size, most of the time.
            near = sorted(parents, key=lambda each: (abs(axis.share(each) - share), each))
            parent = near[min(int(rng.geometric(0.7)) - 1, len(near) - 1)]
            levels, origin = mutate(axis.space, parent, axis.band(share), int(rng.integers(1, 5)), rng), "neighbour"
        else:
            drawn = sample_architectures(axis.space, axis.band(share), 1, derive_seed(seed, attempt))
            levels, origin = axis.space.levels(drawn[0]) if drawn else None, "sampled"
        if levels is not None and levels not in known:
            found.setdefault(levels, origin)
    return found
