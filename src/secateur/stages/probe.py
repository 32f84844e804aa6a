"""How fast this machine does each kind of work: all of it in miniature, on the first layers of the model itself."""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import Memory, StitchedModel, score_model
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank, build_bank
from secateur.pruning.calibration import Statistics, calibrate
from secateur.pruning.final_norm import MOST_TOKENS as FINAL_NORM_TOKENS
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

LAYERS = 2
# A probe takes as many tokens as go through a layer in about this long, and at most so many.
PROBE_SECONDS = 0.4
MOST_TOKENS = 2_048
# Columns up to which a module of the bank is made to see how long it takes; of wider ones a narrower block of the
# same arithmetic is timed, and scaled with the cube of the columns.
WIDEST_BANK = 2_048
# Of a wide module, in factorisations of its Gram matrix: greedy elimination. An assumption, never timed on a large one.
OF_ELIMINATION = 20
# Of the dense streams that a probe keeps, so that they are not made for every candidate.
KEPT_BYTES = 1 << 28
RIDGE = 1e-1

Copied = TypeVar("Copied", bound=nn.Module)
# Of attention and MLP.
Widths = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Speeds:
    """Seconds of each kind of work on this machine.

    Those `_token` are per token and, but for heads, per layer; the others per layer or module.

    Attributes:
        forward_token: A dense layer, forwards.
        head_token: Final norm, logits and their divergence.
        slices_token: A layer of a candidate, from slices of the bank.
        made_token: A layer of a model that was made.
        gather_token: Calibration, forwards; `backwards_token`: backwards, with its statistics.
        gradients_token: Of the head, which sends gradients into the last layer.
        bank: Orders and projections of one module, by kind of block; `plain_bank`: the baseline's.
        reconstruct, reconstruct_token: Sequential reconstruction of a layer: what takes the same whatever the tokens,
            and what does not.
        final_norm_token: Matching the final norm of what was reconstructed; not per layer.
        cut: Copying a layer.
        thinking: A fixed piece of work without the model, by which fits of the predictor and the like are counted.
        tokens: How many the probe has used.
        seconds: How long it took.
    """

    forward_token: float
    head_token: float
    slices_token: float
    made_token: float
    gather_token: float
    backwards_token: float
    gradients_token: float
    bank: dict[BlockKind, float]
    plain_bank: dict[BlockKind, float]
    reconstruct: float
    reconstruct_token: float
    final_norm_token: float
    cut: float
    thinking: float
    tokens: int
    seconds: float


def probe_speeds(
    dense: DenseModel,
    tokens: TokenSet,
    widths: Widths,
    kept: float,
    importance: str,
    reconstruction: str,
    batch_tokens: int,
    dtype: torch.dtype,
) -> Speeds:
    """Do every kind of work in miniature: on the first layers, a few windows, and with the run's own code.

    Args:
        tokens: Of the calibration set, or stand-ins for them.
        widths: Of attention and MLP, that the bank will hold.
        kept: Share of the groups that candidates keep, about.
        importance, reconstruction: Of the bank.
        dtype: That candidates are multiplied in.
    """
    start = time.perf_counter()
    small = first_layers(dense, min(LAYERS, dense.shape.num_layers))
    walk = DecoderWalk(small.model, small.family, release=small.release)
    one = tokens.tokens[:1]
    walk.last_states([one])  # captures what layers are handed, and wakes what sleeps
    with timed() as forward:
        walk.last_states([one])
    windows = round(PROBE_SECONDS * small.shape.num_layers / max(forward.seconds, 1e-4))
    windows = max(1, min(windows, MOST_TOKENS // tokens.sequence_length, len(tokens.tokens)))
    some = TokenSet(Role.CALIBRATION, tokens.tokens[:windows])
    probe = _Probe(small, walk, some, batch_tokens)
    forward_token, head_token, reference = probe.forwards()
    statistics, calibrated = probe.calibration()
    bank, candidates = probe.candidates(statistics, kept)
    return Speeds(
        forward_token=forward_token,
        head_token=head_token,
        slices_token=probe.slices(bank, candidates[0], reference, dtype, head_token),
        bank=probe.bank(statistics, widths, importance, reconstruction),
        plain_bank=probe.bank(statistics, widths, "taylor", "none"),
        thinking=time_thinking(),
        tokens=some.num_tokens,
        seconds=time.perf_counter() - start,
        **calibrated,
        **probe.made(bank, candidates, reference, head_token),
    )


def first_layers(dense: DenseModel, count: int) -> DenseModel:
    """Give a model of the first layers that shares every tensor with the whole; the whole is left as it is."""
    model = _shallow(dense.model)
    *above, last = dense.family.layers.split(".")
    holder: nn.Module = model
    for name in above:
        inner = _shallow(holder.get_submodule(name))
        holder._modules[name] = inner
        holder = inner
    holder._modules[last] = nn.ModuleList(list(attrgetter(last)(holder))[:count])
    config = copy.deepcopy(dense.model.config)
    # Some families know this number under another name, which the attribute map of their config translates.
    config.num_hidden_layers = count
    for module in model.modules():
        if getattr(module, "config", None) is dense.model.config and isinstance(module, PreTrainedModel):
            module.config = config
    shape = replace(dense.shape, num_layers=count)
    return replace(dense, model=model, shape=shape, mapped_layers=dense.mapped_layers[:count])


def _shallow(module: Copied) -> Copied:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


def time_thinking() -> float:
    """Time small matrices and plain Python, half and half: what fits, proposals and starting processes are made of."""
    matrix = np.eye(64) + 0.1
    with timed() as thought:
        for _ in range(400):
            np.linalg.cholesky(matrix)
            sum(number * number for number in range(200))
    return thought.seconds


@dataclass
class Timed:
    """Seconds that a block of code took."""

    seconds: float = 0.0


@contextmanager
def timed() -> Iterator[Timed]:
    """Time a block of code, what it has asked of a GPU included."""
    found = Timed()
    start = time.perf_counter()
    yield found
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    found.seconds = time.perf_counter() - start


class _Ticks:
    """When something has called; the seconds from call to call."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self) -> None:
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [after - before for before, after in pairwise(self.times)]


@dataclass(frozen=True)
class _Probe:
    """The first layers of a model, a few tokens, and what is done with them."""

    dense: DenseModel
    walk: DecoderWalk
    tokens: TokenSet
    batch_tokens: int

    @property
    def num_layers(self) -> int:
        return self.dense.shape.num_layers

    def per_token(self, seconds: float) -> float:
        return max(seconds, 0.0) / self.tokens.num_tokens

    def forwards(self) -> tuple[float, float, DenseReference]:
        """Time layers and head; gives what candidates are scored with, too."""
        batches = self.tokens.tokens.split(max(1, self.batch_tokens // self.tokens.sequence_length))
        for _ in range(2):  # the first sees what layers are handed for batches of this size
            with timed() as layers:
                self.walk.last_states(batches)
        reference = DenseReference(self.walk, self.tokens, len(batches[0]))
        states = self.walk.last_states(reference.batches)
        for _ in range(2):  # the first keeps what the dense model says
            with timed() as head:
                for index, state in enumerate(states):
                    reference.score_batch(index, state)
        return self.per_token(layers.seconds / self.num_layers), self.per_token(head.seconds), reference

    def calibration(self) -> tuple[Sequence[Statistics], dict[str, float]]:
        """Time layers forwards, the head's gradients, and layers backwards."""
        ticks = _Ticks()
        statistics = calibrate(self.dense, self.tokens, self.batch_tokens, 0, ticks)
        forwards, backwards = ticks.seconds[: self.num_layers], ticks.seconds[self.num_layers :]
        backwards_layer = min(backwards)
        found = {
            "gather_token": self.per_token(min(forwards)),
            "backwards_token": self.per_token(backwards_layer),
            "gradients_token": self.per_token(backwards[0] - backwards_layer),
        }
        return statistics, found

    def bank(
        self, statistics: Sequence[Statistics], widths: Widths, importance: str, reconstruction: str
    ) -> dict[BlockKind, float]:
        """Time the modules of one layer; of wide ones, as many columns as are timed would take, scaled by the cube."""
        if self.widest > WIDEST_BANK:
            return self.wide_bank(widths)
        ticks = _Ticks()
        build_bank(self.dense, statistics, widths, importance, reconstruction, advance=ticks)
        return dict(zip(BlockKind, ticks.seconds, strict=True))

    @property
    def widest(self) -> int:
        shape = self.dense.shape
        return max(shape.block(kind).num_groups * shape.group_size(kind) for kind in BlockKind)

    def wide_bank(self, widths: Widths) -> dict[BlockKind, float]:
        """Estimate from a factorisation: elimination and a solve for every width take a few of its price."""
        columns = 1_024
        square = torch.eye(columns, device=self.walk.device) + 0.1
        torch.linalg.cholesky(square)
        with timed() as factored:
            torch.linalg.cholesky(square)
        shape, found = self.dense.shape, {}
        for kind, own in zip(BlockKind, widths, strict=True):
            size = shape.block(kind).num_groups * shape.group_size(kind)
            found[kind] = factored.seconds * (size / columns) ** 3 * (OF_ELIMINATION + len(own))
        return found

    def candidates(self, statistics: Sequence[Statistics], kept: float) -> tuple[WeightBank, list[Architecture]]:
        """Make two candidates that differ from their first module on."""
        shape = self.dense.shape
        widths = [max(1, round(kept * shape.block(kind).num_groups)) for kind in BlockKind]
        other = [
            max(1, width - 1) if width > 1 else min(2, shape.block(kind).num_groups)
            for width, kind in zip(widths, BlockKind, strict=True)
        ]
        both = [{width, more} for width, more in zip(widths, other, strict=True)] * self.num_layers
        bank = build_bank(self.dense, statistics, both, "l2", "none")
        return bank, [Architecture.from_widths((*each,) * self.num_layers) for each in (widths, other)]

    def slices(
        self, bank: WeightBank, architecture: Architecture, reference: DenseReference, dtype: torch.dtype, head: float
    ) -> float:
        """Time a candidate by slices of the bank."""
        stitched = StitchedModel(self.walk, bank, reference, Memory(cache_bytes=0), dtype)
        stitched.score(architecture)
        with timed() as scored:
            stitched.score(architecture)
        return max(self.per_token(scored.seconds) - head, 0.0) / self.num_layers

    def made(
        self, bank: WeightBank, architectures: list[Architecture], reference: DenseReference, head: float
    ) -> dict[str, float]:
        """Time the reconstruction of a candidate, on few tokens and on all, and a pass through what was made."""
        length, layers = self.tokens.sequence_length, self.num_layers
        found: list[tuple[int, float]] = []
        for tokens in sorted({max(self.tokens.num_tokens // 4, length), self.tokens.num_tokens}):
            streams = DenseStreams(self.walk, self.tokens, self.batch_tokens, tokens, KEPT_BYTES)
            for architecture in architectures:  # the first fills what candidates share
                with timed() as copied:
                    model = prune(self.dense, bank, architecture)
                ticks = _Ticks()
                reconstruct_in_sequence(self.dense, self.walk, model, architecture, streams, RIDGE, ticks)
                end = time.perf_counter()
            found.append((tokens, sum(ticks.seconds) / layers))
        with timed() as scored:
            score_model(model, self.dense.family, self.walk, reference)
        (few, least), (many, most) = found[0], found[-1]
        slope = max(most - least, 0.0) / (many - few) if many > few else most / many
        return {
            "made_token": max(self.per_token(scored.seconds) - head, 0.0) / layers,
            "reconstruct": max(most - slope * many, 0.0),
            "reconstruct_token": slope,
            "final_norm_token": (end - ticks.times[-1]) / min(many, FINAL_NORM_TOKENS),
            "cut": copied.seconds / layers,
        }
