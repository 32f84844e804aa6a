"""A computation-aware Gaussian process: for thousands of pairs, and honest about what it did not compute."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from secateur.predictor.gaussian_process import LENGTH, VARIANCE

PROJECTION = 256
# Pairs per action. Kernel entries are pairs x projection x entries, so time is linear in the pairs only while this is
# fixed. On synthetic pairs more entries are better and slower (benchmarks/results/computation-aware.json).
ENTRIES = 8
# Of L-BFGS. On 300 recorded pairs Adam was behind after five times as many evaluations; 150 steps moved no figure.
STEPS = 60
NOISE = (1e-5, 1.0)
START = {"variance": 1.0, "length": 1.0, "noise": 1e-2}
JITTER = 1e-8
# Kernel entries that are in memory at once.
CHUNK = 2**17


@dataclass(frozen=True)
class Hyperparameters:
    """Of the kernel and the noise, as in `gaussian_process.py`: of standardised targets."""

    variance: Float[Tensor, ""]
    length: Float[Tensor, ""]
    noise: Float[Tensor, ""]


@dataclass(frozen=True)
class Blocks:
    """Standardised pairs, shuffled, and which of them each action combines.

    `slots[j]` are the pairs of action `j`; no pair is in two actions, so S^T S is diagonal. Where an action has fewer
    entries than the longest, `mask` is 0 and the slot is any pair.
    """

    inputs: Float[Tensor, "pairs features"]
    targets: Float[Tensor, " pairs"]
    slots: Int[Tensor, "actions entries"]
    mask: Float[Tensor, "actions entries"]

    def unit(self, actions: Float[Tensor, "actions entries"]) -> Float[Tensor, "actions entries"]:
        """Give actions of length 1 without padding: their lengths change no posterior and no bound."""
        masked = actions * self.mask
        return masked / masked.norm(dim=1, keepdim=True)


@dataclass(frozen=True)
class Evidence:
    """The bound, and what the posterior consists of.

    With orthonormal actions the bound is log p(S^T y), exact as in a process of its own, plus the expected likelihood
    of the other n - i combinations of the targets. Noise that maximises the latter is their mean square residual PLUS
    what q does not know of f there: `unresolved`, a variance per pair, which the variance of a prediction has in it
    already. It is 0 where every pair has an action of its own.

    Attributes:
        bound: In nats over all pairs.
        factor: Cholesky factor of S^T K' S.
        weights: (S^T K' S)^-1 S^T y.
    """

    bound: Float[Tensor, ""]
    factor: Float[Tensor, "actions actions"]
    weights: Float[Tensor, " actions"]
    unresolved: Float[Tensor, ""]


@dataclass(frozen=True)
class ComputationAwareProcess:
    """Posterior given what was computed of the targets: S^T y, one number per action.

    With K' = K + noise I, the mean is k(x) S (S^T K' S)^-1 S^T y and the variance of what is measured at x
    k(x, x) + noise - k(x) S (S^T K' S)^-1 S^T k(x)^T: what S leaves out widens it. The noise added here is
    `prediction_noise`, which leaves out what the bound's noise counts twice (`Evidence.unresolved`).

    Attributes:
        inputs: Scaled features of the pairs in `actions`, row by row.
        actions: Entries of S other than 0.
        factor: Cholesky factor of S^T K' S.
        weights: (S^T K' S)^-1 S^T y.
        bound: ELBO at the end, in nats over all pairs, of standardised targets.
    """

    middle: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    target_middle: float
    target_scale: float
    hyperparameters: Hyperparameters
    inputs: Float[Tensor, "slots features"]
    actions: Float[Tensor, "actions entries"]
    factor: Float[Tensor, "actions actions"]
    weights: Float[Tensor, " actions"]
    prediction_noise: float
    bound: float

    def predict(
        self, features: Float[np.ndarray, "candidates features"]
    ) -> tuple[Float[np.ndarray, " candidates"], Float[np.ndarray, " candidates"]]:
        """Predict the target of candidates: mean and standard deviation, noise of a measurement included."""
        rows = torch.from_numpy((features - self.middle) / self.scale)
        hyper = self.hyperparameters
        cross = hyper.variance * _ProjectedMatern.apply(rows, self.inputs, self.actions, hyper.length)
        known = torch.linalg.solve_triangular(self.factor, cross.T, upper=False).square().sum(0)
        # Never below the noise, which rounding could do where all is known.
        variance = (hyper.variance - known).clamp_min(0) + self.prediction_noise
        mean = (cross @ self.weights).numpy() * self.target_scale + self.target_middle
        return mean, variance.sqrt().numpy() * self.target_scale


class _ProjectedMatern(torch.autograd.Function):
    """K(rows, columns) S of a Matern 5/2 kernel of variance 1, differentiable in the actions S and the length.

    Kernel entries are made in chunks of rows and made again for the gradient: memory is rows x actions. The derivative
    by the length is written out because that of a distance has a pole at 0: with r = sqrt(5) d / length,
    dk / d length = r^2 (1 + r) exp(-r) / (3 length).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "rows features"],
        columns: Float[Tensor, "slots features"],
        actions: Float[Tensor, "actions entries"],
        length: Float[Tensor, ""],
    ) -> Float[Tensor, "rows actions"]:
        product = rows.new_empty(len(rows), len(actions))
        slope = torch.empty_like(product)
        for chunk in _chunks(rows, columns):
            distance = _distances(rows[chunk], columns, length)
            decayed = torch.exp(-distance).mul_(actions.flatten())
            squared = distance.square().div_(3)
            linear = distance.add_(1)
            product[chunk] = torch.addcmul(decayed * linear, decayed, squared).unflatten(1, actions.shape).sum(-1)
            slope[chunk] = decayed.mul_(squared).mul_(linear).unflatten(1, actions.shape).sum(-1)
        ctx.save_for_backward(rows, columns, actions, length, slope)
        return product

    @staticmethod
    def backward(ctx: Any, *gradients: Float[Tensor, "rows actions"]) -> tuple[None, None, Tensor, Tensor]:
        (gradient,) = gradients
        rows, columns, actions, length, slope = ctx.saved_tensors
        by_action = torch.zeros_like(actions)
        for chunk in _chunks(rows, columns):
            distance = _distances(rows[chunk], columns, length)
            kernel = torch.exp(-distance).mul_(1 + distance + distance.square() / 3).unflatten(1, actions.shape)
            by_action += torch.einsum("rae,ra->ae", kernel, gradient[chunk])
        return None, None, by_action, (gradient * slope).sum() / length


def _chunks(rows: Tensor, columns: Tensor) -> list[slice]:
    step = max(1, CHUNK // len(columns))
    return [slice(first, first + step) for first in range(0, len(rows), step)]


def _distances(
    rows: Float[Tensor, "rows features"], columns: Float[Tensor, "slots features"], length: Float[Tensor, ""]
) -> Float[Tensor, "rows slots"]:
    """sqrt(5) d / length. In float64 the product form loses 1e-8 of a distance, and Matern 5/2 is flat at 0."""
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)
    return torch.addmm(norms, rows, columns.T, alpha=-2).clamp_min_(0).sqrt_().mul_(math.sqrt(5) / length)


def evidence_lower_bound(blocks: Blocks, actions: Float[Tensor, "actions entries"], hyper: Hyperparameters) -> Evidence:
    """Bound the log marginal likelihood of all targets from below by what the actions know of them.

    The bound is E_q log p(y | f) - KL(q || p) with q(f) = p(f | S^T y). Where every pair has an action of its own it is
    the marginal likelihood itself.

    Args:
        actions: Of length 1 each (`Blocks.unit`).

    Source:
        Wenger et al., arXiv 2411.01036, section 3: S = `actions`, K' = K-hat, v = `weights`. KL(q || p) is
        E_q log p(S^T y | S^T f) - log p(S^T y), which is where their determinants and traces come from.
    """
    num_pairs, num_actions = len(blocks.targets), len(actions)
    columns = blocks.inputs[blocks.slots.flatten()]
    cross = hyper.variance * _ProjectedMatern.apply(blocks.inputs, columns, actions, hyper.length)  # K S
    prior = (cross[blocks.slots] * actions[..., None]).sum(1)  # S^T K S
    factor = torch.linalg.cholesky(prior + (hyper.noise + JITTER) * torch.eye(num_actions, dtype=prior.dtype))
    projected = (blocks.targets[blocks.slots] * actions).sum(1)  # S^T y
    weights = torch.cholesky_solve(projected[:, None], factor)[:, 0]
    residual = (blocks.targets - cross @ weights).square().sum()
    unknown = num_pairs * hyper.variance - torch.cholesky_solve(cross.T @ cross, factor).trace()
    fit = -(num_pairs * torch.log(2 * math.pi * hyper.noise) + (residual + unknown) / hyper.noise) / 2
    known = torch.cholesky_solve(prior, factor).trace()
    volume = 2 * factor.diagonal().log().sum() - num_actions * torch.log(hyper.noise)
    return Evidence(
        bound=fit - (weights @ prior @ weights - known + volume) / 2,
        factor=factor,
        weights=weights,
        # Of f along the actions q does not know tr(S^T K S - S^T K S (S^T K' S)^-1 S^T K S) = noise x known.
        unresolved=(unknown - hyper.noise * known) / num_pairs,
    )


def fit_computation_aware(
    features: Float[np.ndarray, "pairs features"],
    target: Float[np.ndarray, " pairs"],
    seed: int,
    projection: int = PROJECTION,
    steps: int = STEPS,
    entries: int = ENTRIES,
) -> ComputationAwareProcess:
    """Fit on measured pairs; hyper-parameters and actions together, by the evidence lower bound.

    Memory is pairs x projection and time pairs x projection x max(projection, entries) a step. Up to `projection` pairs
    it is the exact Gaussian process. Beyond `projection` x `entries` pairs the posterior is given the targets of so
    many, drawn at random; the others count in the bound.

    Args:
        target: Any real numbers; standardised inside, as the features are.
        seed: Of the order in which pairs are dealt to actions, and of the actions at the start.
        projection: Number of actions: rank of what is learned from the targets.
        steps: Of the optimiser, each one evaluation of the bound and its gradient or little more.
        entries: Pairs per action at most.

    Raises:
        ValueError: `projection`, `steps` or `entries` is below 1.

    Source:
        CaGP-Opt (Wenger et al., arXiv 2411.01036): block-sparse learned actions. Departures: L-BFGS instead of Adam,
        blocks that differ by one pair at most, a number of entries that does not grow with the pairs (with theirs,
        pairs / projection, the kernel entries grow with the square of the pairs), and predictions that leave out the
        part of the noise that is doubt counted twice: with it 90 % intervals covered 94 to 96 % of recorded pairs. The
        hyper-parameters begin where the exact process of the first `projection` pairs has them.
    """
    if min(projection, steps, entries) < 1:
        raise ValueError(
            f"projection, steps and entries must be at least 1, got {projection}, {steps} and {entries} "
            f"(defaults: {PROJECTION}, {STEPS}, {ENTRIES})"
        )
    middle, spread = features.mean(0), features.std(0)
    scale = np.where(spread > 0, spread, 1.0) * np.sqrt(features.shape[1])
    target_middle, target_scale = float(target.mean()), float(target.std()) or 1.0
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(target), generator=generator)
    inputs = torch.from_numpy((features - middle) / scale)[order]
    targets = torch.from_numpy((target - target_middle) / target_scale)[order]
    blocks = deal(inputs, targets, projection, entries)
    actions = torch.randn(blocks.slots.shape, generator=generator, dtype=torch.float64)
    logits = _logits(START)
    if len(targets) > projection:
        # Of as many pairs as there are actions the bound is exact and cheap: what they say is where to begin.
        few = deal(inputs[:projection], targets[:projection], projection, entries)
        logits, _ = _maximise(few, logits, torch.ones(few.slots.shape, dtype=torch.float64), steps)
    logits, actions = _maximise(blocks, logits, actions, steps)
    with torch.no_grad():
        hyper, unit = _hyperparameters(logits), blocks.unit(actions)
        evidence = evidence_lower_bound(blocks, unit, hyper)
    return ComputationAwareProcess(
        middle=middle,
        scale=scale,
        target_middle=target_middle,
        target_scale=target_scale,
        hyperparameters=hyper,
        inputs=blocks.inputs[blocks.slots.flatten()],
        actions=unit,
        factor=evidence.factor,
        weights=evidence.weights,
        prediction_noise=max(float(hyper.noise - evidence.unresolved), NOISE[0]),
        bound=float(evidence.bound),
    )


def _maximise(
    blocks: Blocks, logits: Float[Tensor, " numbers"], actions: Float[Tensor, "actions entries"], steps: int
) -> tuple[Float[Tensor, " numbers"], Float[Tensor, "actions entries"]]:
    """Raise the bound from a start, in hyper-parameters and actions together."""
    logits, actions = logits.clone().requires_grad_(), actions.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits, actions],
        max_iter=steps,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        evidence = evidence_lower_bound(blocks, blocks.unit(actions), _hyperparameters(logits))
        negative = -evidence.bound / len(blocks.targets)
        negative.backward()
        return negative

    optimiser.step(loss)
    return logits.detach(), actions.detach()


def deal(
    inputs: Float[Tensor, "pairs features"], targets: Float[Tensor, " pairs"], projection: int, entries: int
) -> Blocks:
    """Deal pairs to actions like cards, so that no action has two more than another."""
    num_actions = min(projection, len(targets))
    num_entries = min(entries, math.ceil(len(targets) / num_actions))
    slots = torch.arange(num_actions * num_entries).reshape(num_entries, num_actions).T
    mask = (slots < len(targets)).to(inputs.dtype)
    return Blocks(inputs, targets, slots.clamp_max(len(targets) - 1), mask)


def _bounds() -> tuple[Float[Tensor, " numbers"], Float[Tensor, " numbers"]]:
    low, high = torch.tensor([VARIANCE, LENGTH, NOISE], dtype=torch.float64).log().unbind(1)
    return low, high


def _logits(start: dict[str, float]) -> Float[Tensor, " numbers"]:
    """Where hyper-parameters stand between their bounds, as numbers without bounds."""
    low, high = _bounds()
    values = torch.tensor([start["variance"], start["length"], start["noise"]], dtype=torch.float64)
    return ((values.log() - low) / (high - low)).logit()


def _hyperparameters(logits: Float[Tensor, " numbers"]) -> Hyperparameters:
    low, high = _bounds()
    variance, length, noise = (low + (high - low) * logits.sigmoid()).exp().unbind()
    return Hyperparameters(variance, length, noise)
