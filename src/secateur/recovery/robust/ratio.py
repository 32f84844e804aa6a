"""A likelihood ratio as the adversary: a small network that reads what the dense model makes of a window."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.recovery.robust.learned import Learned
from secateur.recovery.robust.seen import SeenWindows
from secateur.schema import derive_seed

WIDTH = 64
LEARNING_RATE = 1e-3


class LikelihoodRatio:
    """r(x) = exp f(x) / (mean over the batch of exp f), which raises mean r * excess - tau * mean r log r.

    f is a network of one hidden layer on the dense model's mean hidden state over the window, each channel brought to
    mean 0 and variance 1 over the recovery set; it begins at 0, where every window counts the same. Without limits on
    f the optimum is r proportional to exp(excess / tau).

    Source:
        Michel, Hashimoto and Neubig, "Distributionally Robust Models with Parametric Likelihood Ratios"
        (arXiv 2204.06340): the min-max problem, normalised within the batch. Its adversary is a network as large as
        the model and reads the text; ours is small, and reads it through the dense model, which has run already.
    """

    def __init__(self, windows: SeenWindows, tau: float, learning_rate: float | None, seed: int) -> None:
        """Begin where every window counts the same.

        Args:
            windows: The recovery set.
            tau: Price of leaving the given text, nats per token.
        """
        self._tau = tau
        self._mean = windows.states.mean(0)
        self._deviation = windows.states.std(0, unbiased=False).clamp(min=1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "likelihood ratio"))
            last = nn.Linear(WIDTH, 1)
            network = nn.Sequential(nn.Linear(windows.states.shape[1], WIDTH), nn.Tanh(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self._learned = Learned(network, learning_rate or LEARNING_RATE)

    def _score(self, windows: SeenWindows) -> Float[Tensor, " windows"]:
        scores: Tensor = self._learned.network((windows.states - self._mean) / self._deviation)
        return scores.squeeze(-1)

    @torch.no_grad()
    def log_ratio(self, windows: SeenWindows) -> Float[Tensor, " windows"]:
        return self._score(windows)

    def learn(self, windows: SeenWindows, excess: Float[Tensor, " windows"]) -> None:
        self._learned.lower(lambda: self._regret(windows, excess))

    def _regret(self, windows: SeenWindows, excess: Float[Tensor, " windows"]) -> Tensor:
        log_shares = self._score(windows).log_softmax(0)
        shares = log_shares.exp()
        # r = windows * share: means of r * x over the batch are sums of share * x.
        entropy = (shares * (log_shares + torch.tensor(float(len(windows))).log())).sum()
        return self._tau * entropy - (shares * excess.float()).sum()

    def state(self) -> dict[str, Tensor]:
        return self._learned.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self._learned.restore(state)
