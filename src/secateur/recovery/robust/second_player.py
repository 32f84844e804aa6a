"""A language model as the adversary: it learns to write what the model loses most on."""

import copy
import math
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from secateur.recovery.objective import counted_mean, token_losses
from secateur.recovery.robust.learned import Learned
from secateur.recovery.robust.seen import SeenWindows
from secateur.recovery.text import Batch
from secateur.recovery.weighting import Evenly
from secateur.runs.shelf import Shelf
from secateur.schema import derive_seed

HIDDEN, LAYERS, HEADS = 64, 2, 4
# Of the training by maximum likelihood that comes first.
FIRST_STEPS, FIRST_RATE = 300, 3e-3
LEARNING_RATE = 1e-4
# Minibatches that the normaliser is averaged over.
REMEMBERED = 10


class SecondPlayer:
    """A small decoder q, first trained on the recovery set (q0), then on that set tilted towards what is lost on.

    A window counts q(x) / q0(x) times. After a step of the model the adversary takes one of weighted maximum
    likelihood, - mean of exp(excess / tau) / Z * log q(x), towards the worst distribution at the price tau, which is
    proportional to p(x) exp(excess / tau); Z is the mean of exp(excess / tau) over the last minibatches.

    Source:
        Michel, Hashimoto and Neubig, "Modeling the Second Player in Distributionally Robust Optimization"
        (arXiv 2103.10282): the relaxed adversary's forward KL, the normaliser over minibatches, and importance weights
        against a q0 that is fitted first. Ours differs in three things. The loss is the excess over the dense model.
        q0 goes on learning the given text beside q: where it stood still, q was soon the better model of every window,
        and the mean of q / q0 over the given text, 1 by rights, came to 28 in twelve steps. In the adversary's own loss
        log q(x) is a mean over tokens, a matter of scale, which Adam does not see.
    """

    def __init__(
        self,
        windows: SeenWindows,
        vocabulary: int,
        tau: float,
        learning_rate: float | None,
        pass_windows: int,
        batch_windows: int,
        seed: int,
        device: torch.device,
        shelf: Shelf,
        name: str,
    ) -> None:
        """Train q0 on the recovery set, or take it from a shelf, where it has a name.

        Args:
            windows: The recovery set.
            tau: Price of leaving the given text, nats per token.
            pass_windows: Per forward pass.
        """
        self._tau, self._pass_windows = tau, pass_windows
        config = LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=HIDDEN,
            intermediate_size=4 * HIDDEN,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=windows.tokens.shape[1],
            tie_word_embeddings=True,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "second player"))
            first = LlamaForCausalLM(config)
        first.to(device)  # type: ignore[arg-type]  # wrapped without types
        if name in shelf:
            first.load_state_dict(shelf.take(name), strict=False)
        else:
            self._fit(first, windows, Evenly(len(windows), batch_windows, derive_seed(seed, "second player's text")))
            shelf.put(name, {path: each.detach().clone() for path, each in first.named_parameters()})
        rate = learning_rate or LEARNING_RATE
        self._given, self._own = Learned(first, rate), Learned(copy.deepcopy(first), rate)
        self._normalisers = torch.zeros(0, dtype=torch.float64)

    def _fit(self, decoder: LlamaForCausalLM, windows: SeenWindows, order: Evenly) -> None:
        fitted = Learned(decoder, FIRST_RATE)
        for step in range(FIRST_STEPS):
            own = windows.at(order.places(step))
            self._take(fitted, own, torch.ones(len(own)))

    @torch.no_grad()
    def log_ratio(self, windows: SeenWindows) -> Float[Tensor, " windows"]:
        parts = windows.batch.split(self._pass_windows)
        own, given = self._own.network, self._given.network
        return torch.cat([_log_likelihood(own, part) - _log_likelihood(given, part) for part in parts])

    def learn(self, windows: SeenWindows, excess: Float[Tensor, " windows"]) -> None:
        tilt = excess.double() / self._tau
        own = tilt.logsumexp(0) - math.log(len(tilt))
        self._normalisers = torch.cat([self._normalisers, own.view(1)])[-REMEMBERED:]
        normaliser = self._normalisers.logsumexp(0) - math.log(len(self._normalisers))
        factors = (tilt - normaliser).exp().float()
        self._take(self._own, windows, factors)
        self._take(self._given, windows, torch.ones_like(factors))

    def _take(self, player: Learned, windows: SeenWindows, factors: Float[Tensor, " windows"]) -> None:
        """Take a step towards windows that count so much."""
        parts = windows.batch.split(self._pass_windows)
        pieces = zip(parts, factors.split(self._pass_windows), strict=True)
        player.lower(*(partial(_loss, player.network, part, each, len(windows)) for part, each in pieces))

    def state(self) -> dict[str, Tensor]:
        players = {f"own {name}": each for name, each in self._own.state().items()}
        players |= {f"given {name}": each for name, each in self._given.state().items()}
        return players | {"normalisers": self._normalisers}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._normalisers = state["normalisers"]
        for name, player in (("own ", self._own), ("given ", self._given)):
            player.restore({key.removeprefix(name): each for key, each in state.items() if key.startswith(name)})


def _token_losses(decoder: nn.Module, part: Batch) -> Float[Tensor, "windows predictions"]:
    device = next(decoder.parameters()).device
    logits = decoder(input_ids=part.tokens.to(device), use_cache=False).logits[:, :-1]
    return token_losses(logits.float(), part)


def _loss(decoder: nn.Module, part: Batch, factors: Float[Tensor, " windows"], total: int) -> Tensor:
    """Give a part's share of a batch's mean over windows of factor times loss per token."""
    own = counted_mean(_token_losses(decoder, part), part)
    return (factors.to(own.device) * own).sum() / total


def _log_likelihood(decoder: nn.Module, part: Batch) -> Float[Tensor, " windows"]:
    """Give log q of what counts in each window: a sum over its tokens."""
    losses = _token_losses(decoder, part).double().cpu()
    return -(losses * part.counted).sum(1)
