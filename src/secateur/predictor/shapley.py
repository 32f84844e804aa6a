"""What each module of an architecture adds to its predicted loss: Shapley values, for any predictor."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Score = Callable[[Int[np.ndarray, "candidates modules"]], Float[np.ndarray, " candidates"]]
Predict = Callable[[Float[np.ndarray, "candidates features"]], Float[np.ndarray, " candidates"]]
AnyScore = Callable[[Shaped[np.ndarray, "candidates players"]], Float[np.ndarray, " candidates"]]

# Rows that are scored in one call: enough for a predictor to be busy, few enough for memory.
ROWS_PER_CALL = 2**16


def module_shapley(
    score: Score,
    levels: Int[np.ndarray, "candidates modules"],
    background: Int[np.ndarray, "backgrounds modules"],
    num_permutations: int,
    seed: int,
) -> Float[np.ndarray, "candidates modules"]:
    """Share a candidate's score out among its modules.

    An absent module is at the level of an architecture of the background, of the same budget band. So the values of a
    row sum to score(candidate) less the mean score of the backgrounds it was compared with, exactly. Every candidate is
    compared with all of the background where `num_permutations` is a multiple of its size; otherwise with rows drawn
    for it alone, none twice as long as there are others, so that errors of different candidates are independent.

    Args:
        score: Lower is better; positive values are then harm.
        num_permutations: Orders in which modules come in. Each is walked forwards and backwards, from one background:
            what a module gains by coming early it loses by coming late.

    Source:
        Shapley values by permutation sampling (Castro et al., 2009); antithetic pairs after Mitchell et al.
        (arXiv 2104.12199); absent players from a background as in SHAP (Lundberg and Lee, arXiv 1705.07874).
    """
    return _shapley(score, levels, background, num_permutations, seed)


def feature_shapley(
    predict: Predict,
    features: Float[np.ndarray, "candidates features"],
    background: Float[np.ndarray, "backgrounds features"],
    num_permutations: int,
    seed: int,
) -> Float[np.ndarray, "candidates features"]:
    """Share a prediction out among features, as `module_shapley` does among modules.

    It is for predictors whose features are no modules. Features that are sums of others are players like any other:
    combinations that no architecture has are asked for too.
    """
    return _shapley(predict, features, background, num_permutations, seed)


def module_interactions(
    score: Score,
    levels: Int[np.ndarray, "candidates modules"],
    background: Int[np.ndarray, "backgrounds modules"],
    num_permutations: int,
    seed: int,
) -> Float[np.ndarray, "candidates modules modules"]:
    """Give what pairs of modules add beyond what each adds alone; symmetric, 0 on the diagonal.

    Args:
        num_permutations: How often each pair is looked at, in both directions; each time costs 2 modules^2 rows.

    Source:
        Shapley interaction index (Grabisch and Roubens, 1999): the mean over orders of
        v(S + a + b) - v(S + a) - v(S + b) + v(S), S being what comes before a and b where they are neighbours. A walk
        through an order gives it for all neighbours at once. The orders are the Hamiltonian paths into which a
        complete graph falls apart (Walecki), relabelled at random: every pair is neighbours in exactly one of them.
    """
    num_modules = levels.shape[1]
    # With an odd number, one who changes nothing joins, as the construction is for even ones.
    paths = _hamiltonian_paths(num_modules + num_modules % 2)
    rng = np.random.default_rng(seed)
    totals = np.zeros((len(levels), num_modules, num_modules))
    for row, candidate in enumerate(levels):
        names = np.stack([rng.permutation(paths.shape[1]) for _ in range(num_permutations)])
        orders = names[:, paths].reshape(-1, paths.shape[1])
        starts = background[_draw(len(background), len(orders), rng)]
        both_ways, doubled = np.concatenate([orders, orders[:, ::-1]]), np.concatenate([starts, starts])
        present, skipping = _present(both_ways)
        masks = np.concatenate([present, skipping], axis=1)[..., :num_modules]
        values = _scores(score, np.where(masks, candidate, doubled[:, None, :]))
        walk, skipped = values[:, : present.shape[1]], values[:, present.shape[1] :]
        beyond = walk[:, 2:] - walk[:, 1:-1] - skipped + walk[:, :-2]
        known = (both_ways < num_modules)[:, 1:] & (both_ways < num_modules)[:, :-1]
        np.add.at(totals[row], (both_ways[:, :-1][known], both_ways[:, 1:][known]), beyond[known])
    # Each pair was met once per permutation and direction, and was counted as (a, b) or as (b, a).
    return np.asarray((totals + totals.transpose(0, 2, 1)) / (2 * num_permutations))


def _shapley(
    score: AnyScore,
    rows: Shaped[np.ndarray, "candidates players"],
    background: Shaped[np.ndarray, "backgrounds players"],
    num_permutations: int,
    seed: int,
) -> Float[np.ndarray, "candidates players"]:
    num_players = rows.shape[1]
    rng = np.random.default_rng(seed)
    found = np.zeros(rows.shape, dtype=float)
    at_once = max(1, ROWS_PER_CALL // (2 * num_permutations * (num_players + 1)))
    for first in range(0, len(rows), at_once):
        chunk = rows[first : first + at_once]
        shape = (len(chunk) * num_permutations, num_players)
        orders = rng.permuted(np.broadcast_to(np.arange(num_players), shape), axis=1)
        starts = background[np.concatenate([_draw(len(background), num_permutations, rng) for _ in chunk])]
        ends = np.repeat(chunk, num_permutations, axis=0)
        values = np.zeros((len(chunk), num_permutations, num_players))
        for each in (orders, orders[:, ::-1]):
            present, _ = _present(each)
            steps = np.diff(_scores(score, np.where(present, ends[:, None, :], starts[:, None, :])), axis=1)
            values += np.take_along_axis(steps, np.argsort(each, axis=1), axis=1).reshape(values.shape)
        found[first : first + at_once] = values.mean(1) / 2
    return found


def _draw(count: int, num: int, rng: np.random.Generator) -> Int[np.ndarray, " num"]:
    """Draw indices below `count`, each as often as any other but for one."""
    repeats = -(-num // count)
    return np.concatenate([rng.permutation(count) for _ in range(repeats)])[:num]


def _present(
    orders: Int[np.ndarray, "orders players"],
) -> tuple[Bool[np.ndarray, "orders states players"], Bool[np.ndarray, "orders neighbours players"]]:
    """Say who is present after 0, 1, ... steps of each order; and with the next left out and the one after it in."""
    places = np.argsort(orders, axis=1)[:, None, :]
    steps = np.arange(orders.shape[1] + 1)[None, :, None]
    neighbours = steps[:, :-2]
    return places < steps, (places < neighbours) | (places == neighbours + 1)


def _scores(score: AnyScore, rows: Shaped[np.ndarray, "orders states players"]) -> Float[np.ndarray, "orders states"]:
    flat = rows.reshape(-1, rows.shape[-1])
    parts = [score(flat[first : first + ROWS_PER_CALL]) for first in range(0, len(flat), ROWS_PER_CALL)]
    return np.concatenate(parts).reshape(rows.shape[:2]).astype(float)


def _hamiltonian_paths(count: int) -> Int[np.ndarray, "paths players"]:
    """Give `count` / 2 paths through all of an even number of players in which every two are neighbours once.

    The first goes 0, 1, -1, 2, -2, ... modulo `count`; the others add 1, 2, ... to it.
    """
    steps = np.arange(count)
    zigzag = np.where(steps % 2 == 1, (steps + 1) // 2, -(steps // 2))
    return np.asarray((zigzag[None, :] + np.arange(count // 2)[:, None]) % count)
