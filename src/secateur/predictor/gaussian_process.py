"""An exact Gaussian process: what ranks best where there are few pairs."""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

# Of standardised features and targets, lengths in units of the root of the number of features: two architectures drawn
# at random are about 1.4 apart. A process much shorter than that would learn noise by heart and call it signal.
VARIANCE = (1e-2, 1e3)
LENGTH = (0.7, 100.0)
NOISE = (1e-5, 1.0)
SMALLEST_KL = 1e-9
BOUND_DEVIATIONS = 1.5


@dataclass(frozen=True)
class GaussianProcess:
    """Predicts log KL(dense || candidate), the posterior mean."""

    middle: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    process: GaussianProcessRegressor

    def predict(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Predict log KL in log nats per token; lower is better."""
        return np.asarray(self.process.predict((features - self.middle) / self.scale))

    def lower_bound(self, features: Float[np.ndarray, "candidates features"]) -> Float[np.ndarray, " candidates"]:
        """Give the mean less `BOUND_DEVIATIONS` standard deviations of the posterior, in log nats per token.

        Source:
            GP-UCB (Srinivas et al., arXiv 0912.3995), for a minimum.
        """
        mean, deviation = self.process.predict((features - self.middle) / self.scale, return_std=True)
        return np.asarray(mean - BOUND_DEVIATIONS * deviation)


def fit_gaussian_process(
    features: Float[np.ndarray, "pairs features"],
    kl: Float[np.ndarray, " pairs"],
) -> GaussianProcess:
    """Fit on measured pairs; variance, length scale and noise by marginal likelihood.

    One length scale for all standardised features: one for each has as many to learn as there are modules, and ranked
    worse from as many pairs as a search has.

    Args:
        kl: Measured KL divergence in nats, positive.

    Source:
        Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4 and 5.
    """
    middle, spread = features.mean(0), features.std(0)
    scale = np.where(spread > 0, spread, 1.0) * np.sqrt(features.shape[1])
    kernel = ConstantKernel(1.0, VARIANCE) * Matern(1.0, LENGTH, nu=2.5) + WhiteKernel(1e-2, NOISE)
    process = GaussianProcessRegressor(kernel, normalize_y=True)
    with warnings.catch_warnings():
        # A hyper-parameter at its bound is an answer: noise of a measurement that has none, for one.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit((features - middle) / scale, np.log(np.maximum(kl, SMALLEST_KL)))
    return GaussianProcess(middle, scale, process)
