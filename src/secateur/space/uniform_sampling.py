"""Draw, repair and change architectures whose layers are all alike."""

import numpy as np

from secateur.space.cost import Budget
from secateur.space.search_space import Levels
from secateur.space.uniform_space import UniformSpace

# Of the changes to an architecture that lacks layers: another layer goes. The others change the size.
SWAP_SHARE = 0.5
# The nearest other size is taken with this probability, else the next, and so on.
NEAREST = 0.4


def draw_alike(space: UniformSpace, budget: Budget, count: int, attempts: int, seed: int) -> list[Levels]:
    """Draw up to `count` distinct architectures of the band, of every size alike."""
    rng, sizes = np.random.default_rng(seed), space.sizes(budget)
    found: dict[Levels, None] = {}
    for _ in range(attempts if sizes else 0):
        if len(found) == count:
            break
        size = sizes[rng.integers(len(sizes))]
        found.setdefault(space.put_together(size, space.worth_most(size, rng.random(space.shape.num_layers))))
    return list(found)


def repair_alike(space: UniformSpace, levels: Levels, budget: Budget, rng: np.random.Generator) -> Levels | None:
    """Give the architecture of the band that is nearest: of about as many layers, heads and channels.

    The layers that stay are those that keep most.
    """
    sizes = space.sizes(budget)
    if not sizes:
        return None
    kept = np.array([space.kept(pair) for pair in zip(levels[::2], levels[1::2], strict=True)])
    present = kept.any(axis=1)
    mean = kept[present].mean(axis=0) if present.any() else np.zeros(2)
    places = space.places(budget)
    distance = np.abs(places - np.array([present.mean(), *mean])).sum(axis=1)
    nearest = np.flatnonzero(distance <= distance.min() + 1e-9)
    size = sizes[nearest[rng.integers(len(nearest))]]
    return space.put_together(size, space.worth_most(size, kept.sum(axis=1) + 1e-6 * rng.random(len(kept))))


def mutate_alike(
    space: UniformSpace, levels: Levels, budget: Budget, num_changes: int, rng: np.random.Generator
) -> Levels | None:
    """Let another layer go, or take a size near by, so many times."""
    start = repair_alike(space, levels, budget, rng)
    taken = space.taken_apart(start) if start is not None else None
    if taken is None:
        return None
    size, kept = taken
    sizes = space.sizes(budget)
    places = space.places(budget)
    layers = set(kept)
    for _ in range(num_changes):
        gone = [layer for layer in range(space.shape.num_layers) if layer not in layers]
        free = sorted(layers - space.protected)
        if gone and free and (rng.random() < SWAP_SHARE or len(sizes) == 1):
            layers.remove(free[rng.integers(len(free))])
            layers.add(gone[rng.integers(len(gone))])
            continue
        distance = np.abs(places - places[sizes.index(size)]).sum(axis=1)
        others = np.argsort(distance, kind="stable")[1:]
        if len(others):
            size = sizes[others[min(int(rng.geometric(NEAREST)) - 1, len(others) - 1)]]
        stays = np.array([layer in layers for layer in range(space.shape.num_layers)])
        layers = set(space.worth_most(size, stays + rng.random(len(stays))))
    return space.put_together(size, layers)
