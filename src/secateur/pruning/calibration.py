"""What calibration knows of every module, gathered layer by layer; every architecture is served from it afterwards."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from secateur.data import Role, TokenSet
from secateur.model.loading import DenseModel
from secateur.model.mixture import every_expert
from secateur.model.shape import BlockKind, DenseShape, decoder_layers, group_tensors, module_of, projection_out
from secateur.model.walk import DecoderWalk
from secateur.pruning.calibration_sums import (
    CalibrationSums,
    add_batch,
    differentiable,
    inputs_and_outputs,
    parts_of,
    through_layer,
)
from secateur.pruning.importance import fisher_scores, taylor_scores, taylor_vector_scores
from secateur.pruning.mixture_statistics import MixtureStatistics
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
    there_and_back = _ThereAndBack(dense, _batches(calibration, batch_tokens), 0, seed, shelf, advance, fisher)
    there_and_back.run(_statistics, lambda layer, sums: _tensors_of(_statistics_of(dense, layer, sums, tokens.numel())))
    return _gathered(dense, shelf)


def num_parts(calibration: TokenSet, batch_tokens: int) -> int:
    """Count the parts of a calibration set that can be gone through independently of each other."""
    return len(parts_of(len(_batches(calibration, batch_tokens))))


def calibrate_part(
    dense: DenseModel,
    calibration: TokenSet,
    batch_tokens: int,
    seed: int,
    part: int,
    shelf: Shelf,
    fisher: bool = False,
) -> None:
    """Leave the sums of every layer over a part of the set on a shelf, for `statistics_of_parts`.

    Args:
        part: By number; the other arguments as of `calibrate`.
    """
    batches = _batches(calibration, batch_tokens)
    places = parts_of(len(batches))[part]
    first_window = sum(len(batch) for batch in batches[: places.start])
    own = batches[places.start : places.stop]
    there_and_back = _ThereAndBack(dense, own, first_window, seed, shelf, lambda: None, fisher)
    there_and_back.run(_sums, lambda _, sums: sums.tensors())


def statistics_of_parts(
    dense: DenseModel, calibration: TokenSet, parts: Sequence[Shelf], shelf: Shelf
) -> GatheredStatistics:
    """Give what `calibrate` gives, bit by bit, from what the parts of the set have left on their shelves."""
    for layer in range(dense.shape.num_layers):
        if _statistics(layer) in shelf:
            continue
        device = _device(decoder_layers(dense.model, dense.family)[layer])
        found = ({name: t.to(device) for name, t in part.take(_sums(layer)).items()} for part in parts)
        sums = CalibrationSums.of(next(found))
        for more in found:
            sums.add(CalibrationSums.of(more))
        shelf.put(_statistics(layer), _tensors_of(_statistics_of(dense, layer, sums, calibration.tokens.numel())))
        dense.release(layer)
    return _gathered(dense, shelf)


def _batches(calibration: TokenSet, batch_tokens: int) -> Sequence[Tensor]:
    tokens = calibration.expect(Role.CALIBRATION).tokens
    return tokens.split(max(1, batch_tokens // tokens.shape[1]))


def _gathered(dense: DenseModel, shelf: Shelf) -> GatheredStatistics:
    layers = decoder_layers(dense.model, dense.family)
    return GatheredStatistics(shelf, lambda layer: _device(layers[layer]), dense.shape)


@dataclass(frozen=True)
class _ThereAndBack:
    """A way through the model and back with some of the set's batches.

    Attributes:
        first_window: Number of the first window in the whole set: labels are sampled by it.
    """

    dense: DenseModel
    batches: Sequence[Tensor]
    first_window: int
    seed: int
    shelf: Shelf
    advance: Callable[[], None]
    fisher: bool

    def run(self, kept: Callable[[int], str], finish: Callable[[int, CalibrationSums], Mapping[str, Tensor]]) -> None:
        """Leave of every layer what `finish` makes of its sums, under the name that `kept` gives."""
        dense, shelf = self.dense, self.shelf
        walk = DecoderWalk(dense.model, dense.family, release=dense.release)
        last = dense.shape.num_layers
        first = _next_backwards(shelf, last, kept)
        if first >= 0 and _gradients(first + 1) not in shelf:
            _walk_forwards(walk, self.batches, shelf, self.advance)
            states = _listed(shelf, _state(last))
            shelf.put(_gradients(last), _gradients_of_losses(walk, self.batches, states, self.seed, self.first_window))
            shelf.drop(_state(last))
        for layer in range(first, -1, -1):
            sums, before = _layer_backwards(dense, walk, layer, shelf, fisher=self.fisher)
            if layer:
                shelf.put(_gradients(layer), before)
            shelf.put(kept(layer), finish(layer, sums))
            dense.release(layer)
            shelf.drop(_state(layer))
            shelf.drop(_gradients(layer + 1))
            self.advance()


def steps_done(shelf: Shelf, num_layers: int) -> int:
    """Count the layers, forwards and backwards, that an interrupted calibration has left on its shelf."""
    first = _next_backwards(shelf, num_layers, _statistics)
    if first < 0 or _gradients(first + 1) in shelf:
        return 2 * num_layers - 1 - first
    return max((layer for layer in range(num_layers + 1) if _state(layer) in shelf), default=0)


def _next_backwards(shelf: Shelf, num_layers: int, kept: Callable[[int], str]) -> int:
    return next((layer - 1 for layer in range(num_layers) if kept(layer) in shelf), num_layers - 1)


@torch.no_grad()
def _walk_forwards(walk: DecoderWalk, batches: Sequence[Tensor], shelf: Shelf, advance: Callable[[], None]) -> None:
    """Put the states before every layer, and behind the last, on the shelf; what is there already is not made again."""
    begun = max((layer for layer in range(len(walk.layers) + 1) if _state(layer) in shelf), default=None)
    if begun is None:
        shelf.put(_state(0), _numbered([walk.embed(batch) for batch in batches]))
        begun = 0
    for layer in range(begun, len(walk.layers)):
        device, states = _device(walk.layers[layer]), _listed(shelf, _state(layer))
        shelf.put(_state(layer + 1), _numbered([through_layer(walk, layer, state.to(device)) for state in states]))
        walk.release(layer)
        advance()


def _gradients_of_losses(
    walk: DecoderWalk, batches: Sequence[Tensor], states: list[Tensor], seed: int, first_window: int
) -> dict[str, Tensor]:
    """Give the gradients of both summed losses with respect to the states behind the last layer."""
    sampled, own = [], []
    device = _device(walk.model.get_submodule(walk.family.final_norm))
    for batch, state in zip(batches, states, strict=True):
        step = max(1, ROWS // batch.shape[1])
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for windows, tokens in zip(state.split(step), batch.split(step), strict=True):
            cut = windows.detach().to(device).requires_grad_(True)
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
    dense: DenseModel, walk: DecoderWalk, layer: int, shelf: Shelf, *, fisher: bool
) -> tuple[CalibrationSums, dict[str, Tensor]]:
    """Give the sums of a layer, and the gradients with respect to the state before it."""
    groups = _groups(dense, layer)
    outputs = [projection_out(tensors) for tensors in groups]
    weights: list[Tensor] = [projection.weight for tensors in groups for projection, _ in tensors.values()]
    layouts = [dense.shape.layout(kind) for kind in BlockKind]
    device = weights[0].device
    gradients, states = shelf.take(_gradients(layer + 1)), _listed(shelf, _state(layer))
    before: dict[str, Tensor] = {}
    whole: CalibrationSums | None = None
    with every_expert(walk.layers[layer]), inputs_and_outputs(outputs) as seen, differentiable(weights):
        for part in parts_of(len(states)):
            sums = CalibrationSums.zeros(outputs, layouts, weights, fisher=fisher)
            for index in part:
                sampled, own = (gradients[f"{name}.{index}"].to(device) for name in ("sampled", "own"))
                below = add_batch(walk, layer, states[index].to(device), sampled, own, seen, weights, layouts, sums)
                before |= {f"sampled.{index}": below[0], f"own.{index}": below[1]}
                seen.clear()
            if whole is None:
                whole = sums
            else:
                whole.add(sums)
    assert whole is not None, "a set has windows"
    return whole, before


def _groups(dense: DenseModel, layer: int) -> list[dict[str, tuple[nn.Linear, int]]]:
    """Give what the groups of a layer's modules are cut from, in the order of the modules."""
    return [group_tensors(decoder_layers(dense.model, dense.family)[layer], dense.family, kind) for kind in BlockKind]


def _statistics_of(
    dense: DenseModel, layer: int, sums: CalibrationSums, num_tokens: int
) -> Iterator[tuple[BlockKind, Statistics]]:
    """Give the statistics of a layer's modules, from the sums over the whole set."""
    gradients, squares = iter(sums.gradients), iter(sums.squares)
    for index, (kind, tensors) in enumerate(zip(BlockKind, _groups(dense, layer), strict=True)):
        assert module_of(index)[1] is kind, "statistics are in the order of the modules"
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
        yield kind, ModuleStatistics(**gathered) if layout is None else MixtureStatistics(layout, **gathered)


def _tensors_of(statistics: Iterator[tuple[BlockKind, Statistics]]) -> dict[str, Tensor]:
    """Give the statistics of a layer as they are put aside."""
    found: dict[str, Tensor] = {}
    for kind, own in statistics:
        values = {field.name: getattr(own, field.name) for field in fields(own)}
        found |= {f"{kind}.{name}": value for name, value in values.items() if isinstance(value, Tensor)}
    return found


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


def _sums(layer: int) -> str:
    """Name what a part of the set leaves of a layer."""
    return f"sums-{layer:03}"


def _numbered(tensors: list[Tensor], name: str = "batch") -> dict[str, Tensor]:
    return {f"{name}.{index}": tensor for index, tensor in enumerate(tensors)}


def _listed(shelf: Shelf, name: str) -> list[Tensor]:
    tensors = shelf.take(name)
    return [tensors[f"batch.{index}"] for index in range(len(tensors))]


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
