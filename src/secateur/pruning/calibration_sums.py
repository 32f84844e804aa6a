"""What the calibration of one layer adds up: over the batches of a part of the set, and parts in their order.

A part is as many batches wherever it is summed, so sums do not depend on who made them: one process goes through all
parts layer by layer, workers take a part each.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor, nn

from secateur.model.mixture import ExpertLayout
from secateur.model.shape import BlockKind
from secateur.model.walk import DecoderWalk
from secateur.pruning.mixture_statistics import add_to_gram, zero_gram

# Batches of a part. A smaller set is one part, and nothing is added up twice.
PART_BATCHES = 8


def parts_of(num_batches: int) -> list[range]:
    """Cut the batches of a set into parts."""
    return [range(start, min(start + PART_BATCHES, num_batches)) for start in range(0, num_batches, PART_BATCHES)]


@dataclass(frozen=True)
class CalibrationSums:
    """Running sums over the calibration set for the two modules of one layer, all in float32.

    Attributes:
        grams: Per module, sum of x x^T; of a mixture, per expert.
        means: Per module, sum of x.
        moments: Per module, sum of g g^T.
        gradients: Per projection of each module in turn, gradient of the summed next-token loss.
        squares: Per projection, sum over windows of the square of that window's gradient; empty unless asked for.
    """

    grams: list[Tensor]
    means: list[Tensor]
    moments: list[Tensor]
    gradients: list[Tensor]
    squares: list[Tensor]

    @classmethod
    def zeros(
        cls, outputs: list[nn.Linear], layouts: list[ExpertLayout | None], weights: list[Tensor], *, fisher: bool
    ) -> "CalibrationSums":
        grams = (zero_gram(p.in_features, layout, p.weight.device) for p, layout in zip(outputs, layouts, strict=True))
        return cls(
            grams=list(grams),
            means=[torch.zeros(p.in_features, device=p.weight.device) for p in outputs],
            moments=[torch.zeros(p.out_features, p.out_features, device=p.weight.device) for p in outputs],
            gradients=[torch.zeros_like(weight, dtype=torch.float32) for weight in weights],
            squares=[torch.zeros_like(weight, dtype=torch.float32) for weight in weights] if fisher else [],
        )

    def add(self, other: "CalibrationSums") -> None:
        """Add what another part has summed, in place."""
        for field in fields(self):
            for own, more in zip(getattr(self, field.name), getattr(other, field.name), strict=True):
                own.add_(more.to(own.device))

    def tensors(self) -> dict[str, Tensor]:
        """Give them by name, as they are put aside."""
        return {
            f"{field.name}.{place}": tensor
            for field in fields(self)
            for place, tensor in enumerate(getattr(self, field.name))
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "CalibrationSums":
        """Give what was put aside."""
        found: dict[str, list[Tensor]] = {field.name: [] for field in fields(cls)}
        for name in sorted(tensors, key=lambda each: int(each.rpartition(".")[2])):
            found[name.rpartition(".")[0]].append(tensors[name])
        return cls(**found)


def add_batch(
    walk: DecoderWalk,
    layer: int,
    state: Float[Tensor, "windows length state"],
    sampled: Float[Tensor, "windows length state"],
    own: Float[Tensor, "windows length state"],
    seen: dict[int, tuple[Tensor, Tensor]],
    weights: list[Tensor],
    layouts: list[ExpertLayout | None],
    sums: CalibrationSums,
) -> tuple[Tensor, Tensor]:
    """Send a batch through a layer and both gradients back, to the state before it; the sums gain what is found.

    `seen` is filled on the way with (input, output) per module.
    """
    state = state.detach().requires_grad_(True)
    after = through_layer(walk, layer, state)
    outputs = [seen[module][1] for module in range(len(sums.grams))]
    *found, sampled_before = torch.autograd.grad(after, [*outputs, state], sampled, retain_graph=True)
    for index, gradient in enumerate(found):
        rows, columns = gradient.flatten(0, -2).float(), seen[index][0].detach().flatten(0, -2).float()
        sums.moments[index].add_(rows.T @ rows)
        add_to_gram(sums.grams[index], columns, layouts[index])
        sums.means[index].add_(columns.sum(0))
    *found, own_before = torch.autograd.grad(after, [*weights, state], own)
    for index, gradient in enumerate(found):
        sums.gradients[index].add_(gradient)
    for window in range(len(state)) if sums.squares else ():
        alone = slice(window, window + 1)
        after = through_layer(walk, layer, state[alone].detach())
        for index, gradient in enumerate(torch.autograd.grad(after, weights, own[alone])):
            sums.squares[index].add_(gradient.float().square())
    return sampled_before, own_before


def through_layer(walk: DecoderWalk, layer: int, state: Tensor) -> Tensor:
    """Give the state behind a layer from the one before it."""
    for kind in BlockKind:
        state = walk.block(layer, kind, state)
    return state


@contextmanager
def inputs_and_outputs(projections: list[nn.Linear]) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
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
def differentiable(weights: list[Tensor]) -> Iterator[None]:
    """Let gradients reach the weights, and leave them as they were."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, required in zip(weights, before, strict=True):
            weight.requires_grad_(required)
