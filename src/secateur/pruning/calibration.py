"""One pass over the calibration set, from which every architecture is served afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.mixture import ExpertLayout, every_expert
from secateur.model.shape import decoder_layers, group_tensors, module_of, projection_out
from secateur.pruning.importance import fisher_scores, taylor_scores, taylor_vector_scores
from secateur.pruning.mixture_statistics import MixtureStatistics, add_to_gram, zero_gram
from secateur.schema import derive_seed


@dataclass(frozen=True)
class ModuleStatistics:
    """What calibration knows of one module.

    With x the input of the output projection (`columns` = groups x group size), y the module's output and
    g the gradient of the log-likelihood of a sampled label with respect to y, summed over the window:

    Attributes:
        gram: H = mean over tokens of x x^T.
        gradient_moment: M = mean over tokens of g g^T; an output change dy then costs about 1/2 mean (g . dy)^2 nats.
        mean: Mean over tokens of x.
        taylor: LLM-Pruner's Element1 per group (see `taylor_scores`).
        taylor_vector: LLM-Pruner's Vector per group (see `taylor_vector_scores`).
        fisher: LLM-Pruner's Element2 per group (see `fisher_scores`); None unless it was asked for.
    """

    gram: Float[Tensor, "columns columns"]
    gradient_moment: Float[Tensor, "hidden hidden"]
    mean: Float[Tensor, " columns"]
    taylor: Float[Tensor, " groups"]
    taylor_vector: Float[Tensor, " groups"]
    fisher: Float[Tensor, " groups"] | None = None

    @property
    def square_mean(self) -> Float[Tensor, " columns"]:
        return self.gram.diagonal()


Statistics = ModuleStatistics | MixtureStatistics


@dataclass
class CalibrationSums:
    """Running sums of the pass over the calibration set, all in float32: what a checkpoint of it holds.

    Attributes:
        windows: Windows that have gone in.
        grams: Per module, sum of x x^T; of a mixture, per expert.
        means: Per module, sum of x.
        moments: Per module, sum of g g^T.
        gradients: Per projection of each module in turn, gradient of the summed next-token loss.
        squares: Per projection, sum over windows of the square of that window's gradient; empty unless asked for.
    """

    windows: int
    grams: list[Tensor]
    means: list[Tensor]
    moments: list[Tensor]
    gradients: list[Tensor]
    squares: list[Tensor]

    def save(self, path: Path) -> None:
        lists = {
            "gram": self.grams,
            "mean": self.means,
            "moment": self.moments,
            "gradient": self.gradients,
            "square": self.squares,
        }
        tensors = {f"{name}.{index}": tensor for name, items in lists.items() for index, tensor in enumerate(items)}
        save_file(tensors | {"windows": torch.tensor(self.windows)}, path)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> "CalibrationSums":
        tensors = load_file(path, device=str(device))
        windows = int(tensors.pop("windows"))

        def items(name: str) -> list[Tensor]:
            return [tensors[f"{name}.{index}"] for index in range(sum(key.startswith(f"{name}.") for key in tensors))]

        return cls(windows, items("gram"), items("mean"), items("moment"), items("gradient"), items("square"))


def calibrate(
    dense: DenseModel,
    calibration: TokenSet,
    batch_tokens: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
    begun: CalibrationSums | None = None,
    checkpoint: Callable[[CalibrationSums], None] = lambda _sums: None,
    fisher: bool = False,
) -> list[Statistics]:
    """Gather the statistics of every module in module order, in one streaming pass.

    Each batch takes one forward pass and two backward passes through the same graph: with sampled labels down to the
    modules' outputs (for M), and with the text's own labels down to the weights (for Taylor importance). Memory
    does not depend on the number of tokens. Sums are float32 whatever the model computes in.

    Args:
        batch_tokens: Tokens per pass; rounded down to whole windows, at least one.
        advance: Called after every batch.
        begun: Sums of an earlier, interrupted pass with the same arguments; it is gone on with, and changed.
        checkpoint: Called after every batch with the sums so far.
        fisher: Also gather Element2. It needs the gradient of every window by itself, which doubles the work.

    Source:
        Element1 is LLM-Pruner's first-order Taylor importance (arXiv 2305.11627, eq. 4), here summed over the whole
        calibration set instead of 10 texts. M is the Fisher block of a layer's output, as in K-FAC (arXiv 1503.05671).
    """
    tokens = calibration.expect(Role.CALIBRATION).tokens
    layers = decoder_layers(dense.model, dense.family)
    blocks = [module_of(index) for index in range(dense.shape.num_modules)]
    groups = [group_tensors(layers[layer], dense.family, kind) for layer, kind in blocks]
    outputs = [projection_out(tensors) for tensors in groups]
    layouts = [dense.shape.layout(kind) for _, kind in blocks]
    weights = [projection.weight for tensors in groups for projection, _ in tensors.values()]
    sums = begun or CalibrationSums(
        windows=0,
        grams=[zero_gram(p.in_features, layout, p.weight.device) for p, layout in zip(outputs, layouts, strict=True)],
        means=[torch.zeros(p.in_features, device=p.weight.device) for p in outputs],
        moments=[torch.zeros(p.out_features, p.out_features, device=p.weight.device) for p in outputs],
        gradients=[torch.zeros_like(weight, dtype=torch.float32) for weight in weights],
        squares=[torch.zeros_like(weight, dtype=torch.float32) for weight in weights] if fisher else [],
    )
    with every_expert(dense.model), _inputs_and_outputs(outputs) as seen, _differentiable(weights):
        size = max(1, batch_tokens // tokens.shape[1])
        for start in range(sums.windows, len(tokens), size):
            batch = tokens[start : start + size]
            _add_batch(dense, batch, seed, seen, weights, layouts, sums)
            advance()
            checkpoint(sums)
    gradients, squares = iter(sums.gradients), iter(sums.squares)
    statistics: list[Statistics] = []
    for index, (tensors, (_, kind)) in enumerate(zip(groups, blocks, strict=True)):
        layout = layouts[index]
        # The channels of every expert are ordered each by themselves.
        by_channel = layout is not None and not layout.whole
        num_groups = outputs[index].in_features if by_channel else dense.shape.block(kind).num_groups
        with_gradients = [(p.weight.detach(), next(gradients), axis) for p, axis in tensors.values()]
        with_squares = [(p.weight.detach(), next(squares), axis) for p, axis in tensors.values() if fisher]
        gathered: dict[str, Any] = {
            "gram": sums.grams[index] / tokens.numel(),
            "gradient_moment": sums.moments[index] / tokens.numel(),
            "mean": sums.means[index] / tokens.numel(),
            "taylor": taylor_scores(with_gradients, num_groups),
            "taylor_vector": taylor_vector_scores(with_gradients, num_groups),
            "fisher": fisher_scores(with_squares, num_groups) if fisher else None,
        }
        statistics.append(ModuleStatistics(**gathered) if layout is None else MixtureStatistics(layout, **gathered))
    return statistics


def _add_batch(
    dense: DenseModel,
    batch: Int[Tensor, "windows length"],
    seed: int,
    seen: dict[int, tuple[Tensor, Tensor]],
    weights: list[Tensor],
    layouts: list[ExpertLayout | None],
    sums: CalibrationSums,
) -> None:
    """One forward and two backward passes; `seen` is filled by the forward pass with (input, output) per module."""
    tokens = batch.to(dense.model.device)
    logits = dense.model(input_ids=tokens, use_cache=False).logits.float()
    labels = _sample_labels(logits.detach(), seed, sums.windows)
    sampled = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    modules = range(len(sums.grams))
    for index, gradient in enumerate(torch.autograd.grad(sampled, [seen[i][1] for i in modules], retain_graph=True)):
        rows, columns = gradient.flatten(0, -2).float(), seen[index][0].detach().flatten(0, -2).float()
        sums.moments[index] += rows.T @ rows
        add_to_gram(sums.grams[index], columns, layouts[index])
        sums.means[index] += columns.sum(0)
    own = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
    for index, gradient in enumerate(torch.autograd.grad(own, weights)):
        sums.gradients[index] += gradient
    for window in tokens if sums.squares else ():
        alone = dense.model(input_ids=window[None], use_cache=False).logits[0, :-1].float()
        loss = F.cross_entropy(alone, window[1:], reduction="sum")
        for index, gradient in enumerate(torch.autograd.grad(loss, weights)):
            sums.squares[index] += gradient.float().square()
    sums.windows += len(batch)
    seen.clear()


@contextmanager
def _inputs_and_outputs(projections: list[nn.Linear]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Record what goes into and comes out of each projection in the latest forward pass."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def record(index: int) -> Callable[..., None]:
        def hook(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[index] = (inputs[0], output)

        return hook

    handles = [projection.register_forward_hook(record(index)) for index, projection in enumerate(projections)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _differentiable(weights: list[Tensor]) -> Iterator[None]:
    """Let gradients reach the weights, and leave them as they were."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)


def _sample_labels(
    logits: Float[Tensor, "windows length vocabulary"], seed: int, first_window: int
) -> Int[Tensor, "windows length"]:
    """Draw one label per position from the model's own distribution.

    Seeded per window of the set, and by inverting the distribution function on numbers of the CPU's generator, so that
    neither the batch size nor an interruption nor the device changes what is drawn.
    """
    length = logits.shape[1]
    uniform = torch.stack(
        [
            torch.rand(length, 1, generator=torch.Generator().manual_seed(derive_seed(seed, first_window + window)))
            for window in range(len(logits))
        ]
    ).to(logits.device)
    cumulative = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[..., -1:]).squeeze(-1).clamp(max=logits.shape[-1] - 1)
