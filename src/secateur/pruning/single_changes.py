"""What every single change to an architecture would cost, estimated from gradients: no changed model is run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, block_names, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import ModuleBank, WeightBank, expand_groups, output_projection
from secateur.pruning.calibration import ROWS, sample_labels
from secateur.pruning.calibration_sums import through_layer
from secateur.runs.shelf import Shelf
from secateur.space.architecture import Architecture

# Tokens that gradients are taken of: twice as many moved no rank correlation of a sum by more than .02 on stories260K.
NUM_TOKENS = 8_192


@dataclass(frozen=True)
class SingleChanges:
    """What single changes do to one architecture, estimated.

    Attributes:
        loss: KL(dense || architecture) in nats per token, measured on the tokens of the estimate.
        changes: Per module, by width: what the KL gains when that module alone has that width; 0 at its own.
    """

    loss: float
    changes: tuple[Mapping[int, float], ...]


def estimate_single_changes(
    dense: DenseModel,
    bank: WeightBank,
    architecture: Architecture,
    calibration: TokenSet,
    batch_tokens: int,
    seed: int,
    shelf: Shelf | None = None,
    num_tokens: int = NUM_TOKENS,
) -> SingleChanges | None:
    """Estimate what the KL gains when one module of an architecture gets another width of the bank.

    With dy the change of the module's output, q the gradient of the KL to the dense model and g that of the
    log-likelihood of a label sampled from the architecture, both with respect to that output,

        KL gains about  mean over tokens of  q . dy + 1/2 (g . dy)^2.

    All widths of all modules come from one forward and two backward passes, whose states are put aside layer by layer
    as in `calibrate`. Around the dense architecture q is 0, and what is left is a module's loss by itself.

    Args:
        batch_tokens: Tokens per pass; rounded down to whole windows, at least one.
        seed: Labels are sampled with it.
        shelf: Where states and gradients are put; they are dropped when they are not needed any more.
        num_tokens: Tokens of the calibration set to take; rounded down to whole windows, at least one.

    Returns:
        None where a module with fewer groups is more than a part of the dense one: in mixtures of experts, whose router
        is cut too, and where a norm lies over all heads together.

    Source:
        The second-order expansion of Optimal Brain Damage, with the Gauss-Newton matrix for the Hessian, as its
        empirical mean over labels that the model samples (as in K-FAC, arXiv 1503.05671). Curvature between the tokens
        of a window is left out: kept, it made the estimate worse (docs/log.md).
    """
    if dense.shape.experts is not None or block_names(dense.family, BlockKind.ATTENTION).cut_norms:
        return None
    shelf = shelf or Shelf()
    tokens = calibration.expect(Role.CALIBRATION).tokens
    tokens = tokens[: max(1, num_tokens // tokens.shape[1])]
    batches = tokens.to(dense.model.device).split(max(1, batch_tokens // tokens.shape[1]))
    walk = DecoderWalk(dense.model, dense.family, release=dense.release)
    normed = walk.normed(batches)
    outputs = [
        CutOutput(output_projection(dense, index), bank.modules[index], width)
        for index, width in enumerate(architecture.widths)
    ]
    changes: list[Mapping[int, float]] = [{} for _ in outputs]
    with _in_place(outputs) as seen:
        last = _forwards(walk, batches, shelf)
        loss, gradients = _gradients_of_losses(walk, last, normed, seed)
        for layer in range(len(walk.layers) - 1, -1, -1):
            own = [index for index in range(len(outputs)) if module_of(index)[0] == layer]
            sums = [ChangeSums.zeros(outputs[index]) for index in own]
            for batch, state in shelf.take(_states(layer)).items():
                start = state.to(gradients[batch][0].device).requires_grad_(True)
                after = through_layer(walk, layer, start)
                ends = [seen[index][1] for index in own]
                *sampled, below = torch.autograd.grad(after, [*ends, start], gradients[batch][0], retain_graph=True)
                *steepest, below_too = torch.autograd.grad(after, [*ends, start], gradients[batch][1])
                gradients[batch] = (below, below_too)
                for place, index in enumerate(own):
                    sums[place].add(outputs[index], seen[index][0].detach(), sampled[place], steepest[place])
                seen.clear()
            for place, index in enumerate(own):
                changes[index] = sums[place].changes(outputs[index], tokens.numel())
            shelf.drop(_states(layer))
            dense.release(layer)
    return SingleChanges(loss, tuple(changes))


class CutOutput:
    """The output projection of a module of the bank, run on the input that the dense module gives it.

    Groups do not read each other, so this gives what the module would that has no other groups.
    """

    def __init__(self, projection: nn.Linear, bank: ModuleBank, width: int) -> None:
        self.projection = projection
        self.width = width
        self.widths = tuple(sorted(bank.errors))
        self._bank = bank
        self.columns = expand_groups(bank.order, projection.in_features // len(bank.order))

    def weight(self, width: int) -> Float[Tensor, "hidden kept"]:
        return self._bank.outputs[width] if width else self.projection.weight[:, :0]

    def bias(self, width: int) -> Float[Tensor, " hidden"]:
        """Give the bias at a width; a block that is gone has none."""
        own = self.projection.bias
        missing = torch.zeros_like(self.projection.weight[:, 0])
        return missing if width == 0 else self._bank.biases.get(width, missing if own is None else own)

    def __call__(self, columns: Float[Tensor, "*batch columns"]) -> Float[Tensor, "*batch hidden"]:
        weight = self.weight(self.width)
        return F.linear(columns[..., self.columns[: weight.shape[1]]], weight, self.bias(self.width))

    def along(
        self, width: int, columns: Float[Tensor, "tokens columns"], gradient: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, " tokens"]:
        """Give g . y per token, with y the output at a width. `columns` must be in the order of the bank."""
        weight = self.weight(width).float()
        return ((gradient @ weight) * columns[:, : weight.shape[1]]).sum(1) + gradient @ self.bias(width).float()


@dataclass(frozen=True)
class ChangeSums:
    """Running sums over tokens for one module, in float32.

    Attributes:
        squares: Per width, of (g . dy)^2.
        slopes: Of q x^T, columns in the order of the bank.
        steepest: Of q.
    """

    squares: dict[int, Tensor]
    slopes: Float[Tensor, "hidden columns"]
    steepest: Float[Tensor, " hidden"]

    @classmethod
    def zeros(cls, output: CutOutput) -> "ChangeSums":
        slopes = torch.zeros_like(output.projection.weight, dtype=torch.float32)
        return cls({width: slopes.new_zeros(()) for width in output.widths}, slopes, slopes.new_zeros(len(slopes)))

    def add(
        self,
        output: CutOutput,
        columns: Float[Tensor, "*batch columns"],
        sampled: Float[Tensor, "*batch hidden"],
        steepest: Float[Tensor, "*batch hidden"],
    ) -> None:
        """Add a batch: the projection's input, and the gradients g and q with respect to its output."""
        x, g, q = (tensor.flatten(0, -2).float() for tensor in (columns, sampled, steepest))
        x = x[:, output.columns]
        here = output.along(output.width, x, g)
        for width, square in self.squares.items():
            square.add_((output.along(width, x, g) - here).square().sum())
        self.slopes.add_(q.T @ x)
        self.steepest.add_(q.sum(0))

    def changes(self, output: CutOutput, num_tokens: int) -> dict[int, float]:
        """Give what the loss gains per width, in nats per token."""

        def slope(width: int) -> float:
            weight = output.weight(width).float()
            return float(
                (weight * self.slopes[:, : weight.shape[1]]).sum() + self.steepest @ output.bias(width).float()
            )

        here = slope(output.width)
        return {
            width: (slope(width) - here + 0.5 * float(square)) / num_tokens if width != output.width else 0.0
            for width, square in self.squares.items()
        }


@contextmanager
def _in_place(outputs: Sequence[CutOutput]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Let cut outputs stand in for the projections of the dense model; what goes in and comes out is recorded."""
    seen: dict[int, tuple[Tensor, Tensor]] = {}

    def stand_in(index: int) -> Callable[..., Tensor]:
        def hook(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            # What is gone still has a gradient.
            cut = outputs[index](inputs[0]) if outputs[index].width else 0 * output
            seen[index] = (inputs[0], cut)
            return cut

        return hook

    handles = [each.projection.register_forward_hook(stand_in(index)) for index, each in enumerate(outputs)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _forwards(walk: DecoderWalk, batches: Sequence[Tensor], shelf: Shelf) -> list[Tensor]:
    """Give the states behind the last layer, and put those before every layer on the shelf."""
    states = [walk.embed(batch) for batch in batches]
    for layer in range(len(walk.layers)):
        shelf.put(_states(layer), {f"{index}": state for index, state in enumerate(states)})
        states = [through_layer(walk, layer, state) for state in states]
        walk.release(layer)
    return states


def _gradients_of_losses(
    walk: DecoderWalk, states: Sequence[Tensor], normed: Sequence[Tensor], seed: int
) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """Give the mean KL, and per batch the gradients of sampled labels' loss and of the KL behind the last layer."""
    gradients = {}
    total, first_window = 0.0, 0
    for index, (batch, dense_batch) in enumerate(zip(states, normed, strict=True)):
        step = max(1, ROWS // batch.shape[1])
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for windows, dense_windows in zip(batch.split(step), dense_batch.split(step), strict=True):
            cut = windows.detach().requires_grad_(True)
            logits = walk.logits(walk.final_norm(cut)).float()
            log_q = logits.log_softmax(-1)
            with torch.no_grad():
                log_p = walk.logits(dense_windows).float().log_softmax(-1)
            labels = sample_labels(logits.detach(), seed, first_window)
            likelihood = F.nll_loss(log_q.flatten(0, 1), labels.flatten(), reduction="sum")
            parts[0].append(torch.autograd.grad(likelihood, cut, retain_graph=True)[0])
            divergence = (log_p.exp() * (log_p - log_q)).sum()
            parts[1].append(torch.autograd.grad(divergence, cut)[0])
            total += float(divergence.detach())
            first_window += len(windows)
        gradients[f"{index}"] = (torch.cat(parts[0]), torch.cat(parts[1]))
    return total / sum(batch.shape[0] * batch.shape[1] for batch in states), gradients


def _states(layer: int) -> str:
    """Name what is before a layer."""
    return f"cut-state-{layer:03}"
