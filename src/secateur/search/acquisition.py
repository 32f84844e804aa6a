"""How much a measurement promises: what is proposed is what promises most."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import erfcx, log_ndtr

from secateur.predictor.protocol import Predictor

Values = Float[np.ndarray, " candidates"]

BOUND_DEVIATIONS = 1.5
# Below it the improvement is a difference of numbers that are nearly the same; the scaled error function takes over.
FAR_BELOW = -1.0


def log_expected_improvement(mean: Values, deviation: Values, best: float) -> Values:
    """Give the logarithm of how far below `best` a normal variable falls on average, falling short counting nothing.

    With u = (best - mean) / deviation it is log deviation + log(u Phi(u) + phi(u)): of log losses, the log of an
    expected relative improvement.

    Source:
        Expected improvement (Mockus 1975) for a minimum; the stable logarithm after Ament et al. (arXiv 2310.20708,
        eq. 9): below -1 as log phi(u) + log(1 + u sqrt(pi / 2) erfcx(-u / sqrt 2)), and by its series 1 / u^2 where
        even that cancels.
    """
    u = (best - mean) / deviation
    log_density = -(u**2) / 2 - np.log(2 * np.pi) / 2
    near = np.maximum(u, FAR_BELOW)
    direct = np.log(near * np.exp(log_ndtr(near)) + np.exp(-(near**2) / 2) / np.sqrt(2 * np.pi))
    far = np.minimum(u, FAR_BELOW)
    lost = 1 + far * np.sqrt(np.pi / 2) * erfcx(-far / np.sqrt(2))
    series = 1 / far**2
    tail = log_density + np.log(np.where(far < -1e4, series, np.maximum(lost, series * 1e-3)))
    return np.asarray(np.log(deviation) + np.where(u > FAR_BELOW, direct, tail))


def _improvement(predictor: Predictor, features: Float[np.ndarray, "candidates features"], best: float) -> Values:
    return -log_expected_improvement(*predictor.posterior(features), best)


def _bound(predictor: Predictor, features: Float[np.ndarray, "candidates features"], _best: float) -> Values:
    """The mean less some standard deviations: GP-UCB (Srinivas et al., arXiv 0912.3995), for a minimum."""
    mean, deviation = predictor.posterior(features)
    return mean - BOUND_DEVIATIONS * deviation


def _mean(predictor: Predictor, features: Float[np.ndarray, "candidates features"], _best: float) -> Values:
    return predictor.predict(features)


# Predictor, features, lowest log loss so far -> what is to be made small.
ACQUISITIONS: dict[str, Callable[[Predictor, Float[np.ndarray, "candidates features"], float], Values]] = {
    "improvement": _improvement,
    "bound": _bound,
    "mean": _mean,
}
