"""What calibration knows of every module, gathered layer by layer; every architecture is served from it afterwards."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.mixture import ExpertLayout, every_expert
from secateur.model.shape import BlockKind, DenseShape, decoder_layers, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.importance import fisher_scores, taylor_scores, taylor_vector_scores
from secateur.pruning.mixture_statistics import MixtureStatistics, add_to_gram, zero_gram
from secateur.runs.shelf import Shelf
from secateur.schema import derive_seed

# Rows whose logits exist at the same time, and several times over.
ROWS = 1_024


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


class GatheredStatistics(Sequence[Statistics]):
    """The statistics of all modules in module order, taken off a shelf one at a time."""

    def __init__(self, shelf: Shelf, device_of: Callable[[int], torch.device], shape: DenseShape) -> None:
        self._shelf = shelf
        self._device_of = device_of
        self._shape = shape

    def __len__(self) -> int:
        return self._shape.num_modules

    @overload
    def __getitem__(self, index: int) -> Statistics: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Statistics]: ...

    def __getitem__(self, index: int | slice) -> Statistics | Sequence[Statistics]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        module = range(len(self))[index]
        layer, kind = module_of(module)
        device = self._device_of(layer)
        tensors = self._shelf.take(_statistics(layer))
        prefix = f"{kind}."
        own = {name.removeprefix(prefix): t.to(device) for name, t in tensors.items() if name.startswith(prefix)}
        layout = self._shape.layout(kind)
        return ModuleStatistics(**own) if layout is None else MixtureStatistics(layout, **own)


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


def calibrate(
    dense: DenseModel,
    calibration: TokenSet,
    batch_tokens: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
    fisher: bool = False,
    shelf: Shelf | None = None,
) -> GatheredStatistics:
    """Gather the statistics of every module in module order, layer by layer.

    Forwards, the states of the whole set before every layer are put aside. Then backwards, with two gradients with
    respect to the state behind a layer, of sampled labels (for M) and of the text's own (for Taylor importance): every
    batch goes through the layer once more, and both gradients through it to the modules' outputs and weights, and to
    the state before it. So one layer's weights, gradients and activations are in memory at a time, whatever the size of
    the model, and the statistics of a layer are put aside before the next. Sums are float32 whatever the model computes
    in.

    Args:
        batch_tokens: Tokens per pass; rounded down to whole windows, at least one.
        advance: Called after every layer, forwards and backwards.
        fisher: Also gather Element2. It needs the gradient of every window by itself, which doubles the work.
        shelf: Where states, gradients and statistics are put. What an interrupted call with the same arguments has left
            on it is gone on with.

    Source:
        Element1 is LLM-Pruner's first-order Taylor importance (arXiv 2305.11627, eq. 4), here summed over the whole
        calibration set instead of 10 texts. M is the Fisher block of a layer's output, as in K-FAC (arXiv 1503.05671).
    """
    shelf = shelf or Shelf()
    tokens = calibration.expect(Role.CALIBRATION).tokens
    batches = tokens.split(max(1, batch_tokens // tokens.shape[1]))
    walk = DecoderWalk(dense.model, dense.family, release=dense.release)
    layers = decoder_layers(dense.model, dense.family)
    first = _next_backwards(shelf, len(layers))
    if first >= 0 and _gradients(first + 1) not in shelf:
        _walk_forwards(walk, batches, shelf, advance)
        shelf.put(
            _gradients(len(layers)), _gradients_of_losses(walk, batches, _listed(shelf, _state(len(layers))), seed)
        )
        shelf.drop(_state(len(layers)))
    for layer in range(first, -1, -1):
        _layer_backwards(dense, walk, layer, tokens.numel(), shelf, fisher=fisher)
        dense.release(layer)
        shelf.drop(_state(layer))
        shelf.drop(_gradients(layer + 1))
        advance()
    return GatheredStatistics(shelf, lambda layer: _device(layers[layer]), dense.shape)


def steps_done(shelf: Shelf, num_layers: int) -> int:
    """Count the layers, forwards and backwards, that an interrupted calibration has left on its shelf."""
    first = _next_backwards(shelf, num_layers)
    if first < 0 or _gradients(first + 1) in shelf:
        return 2 * num_layers - 1 - first
    return max((layer for layer in range(num_layers + 1) if _state(layer) in shelf), default=0)


def _next_backwards(shelf: Shelf, num_layers: int) -> int:
    return next((layer - 1 for layer in range(num_layers) if _statistics(layer) in shelf), num_layers - 1)


@torch.no_grad()
def _walk_forwards(walk: DecoderWalk, batches: Sequence[Tensor], shelf: Shelf, advance: Callable[[], None]) -> None:
    """Put the states before every layer, and behind the last, on the shelf; what is there already is not made again."""
    begun = max((layer for layer in range(len(walk.layers) + 1) if _state(layer) in shelf), default=None)
    if begun is None:
        shelf.put(_state(0), _numbered([walk.embed(batch) for batch in batches]))
        begun = 0
    for layer in range(begun, len(walk.layers)):
        states = _listed(shelf, _state(layer))
        shelf.put(_state(layer + 1), _numbered([through_layer(walk, layer, state) for state in states]))
        walk.release(layer)
        advance()


def _gradients_of_losses(
    walk: DecoderWalk, batches: Sequence[Tensor], states: list[Tensor], seed: int
) -> dict[str, Tensor]:
    """Give the gradients of both summed losses with respect to the states behind the last layer."""
    sampled, own = [], []
    first_window = 0
    for batch, state in zip(batches, states, strict=True):
        step = max(1, ROWS // batch.shape[1])
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for windows, tokens in zip(state.split(step), batch.split(step), strict=True):
            cut = windows.detach().requires_grad_(True)
            logits = walk.logits(walk.final_norm(cut)).float()
            labels = sample_labels(logits.detach(), seed, first_window)
            loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            parts[0].append(torch.autograd.grad(loss, cut, retain_graph=True)[0])
            following = tokens[:, 1:].to(logits.device).flatten()
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), following, reduction="sum")
            parts[1].append(torch.autograd.grad(loss, cut)[0])
            first_window += len(tokens)
        sampled.append(torch.cat(parts[0]))
        own.append(torch.cat(parts[1]))
    return _numbered(sampled, "sampled") | _numbered(own, "own")


def _layer_backwards(
    dense: DenseModel, walk: DecoderWalk, layer: int, num_tokens: int, shelf: Shelf, *, fisher: bool
) -> None:
    """Put the layer's statistics on the shelf, and the gradients with respect to the state before it."""
    groups = [group_tensors(walk.layers[layer], dense.family, kind) for kind in BlockKind]
    outputs = [projection_out(tensors) for tensors in groups]
    weights: list[Tensor] = [projection.weight for tensors in groups for projection, _ in tensors.values()]
    layouts = [dense.shape.layout(kind) for kind in BlockKind]
    sums = CalibrationSums.zeros(outputs, layouts, weights, fisher=fisher)
    device = weights[0].device
    gradients = shelf.take(_gradients(layer + 1))
    before: dict[str, Tensor] = {}
    with every_expert(walk.layers[layer]), _inputs_and_outputs(outputs) as seen, _differentiable(weights):
        for index, state in enumerate(_listed(shelf, _state(layer))):
            sampled, own = (gradients[f"{name}.{index}"].to(device) for name in ("sampled", "own"))
            below = _add_batch(walk, layer, state.to(device), sampled, own, seen, weights, layouts, sums)
            before |= {f"sampled.{index}": below[0], f"own.{index}": below[1]}
            seen.clear()
    statistics: dict[str, Tensor] = {}
    for index, (kind, found) in enumerate(zip(BlockKind, _statistics_of(dense, groups, sums, num_tokens), strict=True)):
        assert module_of(index)[1] is kind, "statistics are in the order of the modules"
        values = {field.name: getattr(found, field.name) for field in fields(found)}
        statistics |= {f"{kind}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    if layer:
        shelf.put(_gradients(layer), before)
    shelf.put(_statistics(layer), statistics)


def _add_batch(
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


def _statistics_of(
    dense: DenseModel, groups: list[dict[str, tuple[nn.Linear, int]]], sums: CalibrationSums, num_tokens: int
) -> Iterator[Statistics]:
    """Give the statistics of a layer's modules, from the sums over the whole set."""
    gradients, squares = iter(sums.gradients), iter(sums.squares)
    for index, tensors in enumerate(groups):
        kind = module_of(index)[1]
        layout = dense.shape.layout(kind)
        # The channels of every expert are ordered each by themselves.
        by_channel = layout is not None and not layout.whole
        num_groups = projection_out(tensors).in_features if by_channel else dense.shape.block(kind).num_groups
        with_gradients = [(p.weight.detach(), next(gradients), axis) for p, axis in tensors.values()]
        with_squares = [(p.weight.detach(), next(squares), axis) for p, axis in tensors.values() if sums.squares]
        gathered: dict[str, Any] = {
            "gram": sums.grams[index].div_(num_tokens),
            "gradient_moment": sums.moments[index].div_(num_tokens),
            "mean": sums.means[index].div_(num_tokens),
            "taylor": taylor_scores(with_gradients, num_groups),
            "taylor_vector": taylor_vector_scores(with_gradients, num_groups),
            "fisher": fisher_scores(with_squares, num_groups) if sums.squares else None,
        }
        yield ModuleStatistics(**gathered) if layout is None else MixtureStatistics(layout, **gathered)


def through_layer(walk: DecoderWalk, layer: int, state: Tensor) -> Tensor:
    """Give the state behind a layer from the one before it."""
    for kind in BlockKind:
        state = walk.block(layer, kind, state)
    return state


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def _state(layer: int) -> str:
    """Name what is before a layer, or behind the last."""
    return f"state-{layer:03}"


def _gradients(layer: int) -> str:
    """Name the gradients with respect to what is before a layer, or behind the last."""
    return f"gradients-{layer:03}"


def _statistics(layer: int) -> str:
    return f"statistics-{layer:03}"


def _numbered(tensors: list[Tensor], name: str = "batch") -> dict[str, Tensor]:
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}


def _listed(shelf: Shelf, name: str) -> list[Tensor]:
    tensors = shelf.take(name)
    return [tensors[f"batch.{index}"] for index in range(len(tensors))]


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


def sample_labels(
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
