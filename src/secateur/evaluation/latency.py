"""How long every block of the search space takes on this device, in prefill and in decoding: timed once per run."""

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from secateur.evaluation.timing import Clock, Work, device_clock, device_name, median_seconds
from secateur.model.heads import set_heads
from secateur.model.loading import DenseModel
from secateur.model.mixture import Mixture
from secateur.model.shape import BlockKind, block_names, cut_norms, decoder_layers, group_tensors
from secateur.model.walk import DecoderWalk
from secateur.space.latency_table import LatencyTable, PhaseLatency

# Of milliseconds: clocks tell no more, and what rounding leaves beyond them would look like a step from width to width.
DIGITS = 6
PREFILL, DECODE, OUTSIDE = "prefill", "decode", "outside"


@torch.no_grad()
def measure_latency(
    dense: DenseModel,
    walk: DecoderWalk,
    kv_heads: Iterable[int],
    ffn_widths: Iterable[int],
    prompt_tokens: int,
    batch: int,
    repeats: int,
    seed: int,
    clock: Clock | None = None,
    advance: Callable[[], None] = lambda: None,
) -> LatencyTable:
    """Time the blocks of the first layer at every width, and what is outside of all blocks.

    Layers are alike, so the first stands for all. Its own modules are run, with its weights cut to the width; which
    groups stay makes no difference to the time.

    Args:
        kv_heads, ffn_widths: To be timed; a width of 0 takes no time and is left out.
        prompt_tokens: Of the prompt, at most; a model with fewer positions gets what leaves room for one token more.
        clock: Seconds; waits for the device by default.
        advance: Called after each of the `repeats`.
    """
    start = time.perf_counter()
    device, longest = walk.device, getattr(dense.model.config, "max_position_embeddings", None)
    length = min(prompt_tokens, longest - 1) if longest else prompt_tokens
    widths = {
        BlockKind.ATTENTION: tuple(sorted({*kv_heads} - {0})),
        BlockKind.MLP: tuple(sorted({*ffn_widths} - {0})),
    }
    work: dict[tuple[str, str, int], Work] = {}
    for kind, options in widths.items():
        for width in options:
            prefill, decode = _block_work(dense, walk, kind, width, batch, length)
            work |= {(PREFILL, kind, width): prefill, (DECODE, kind, width): decode}
    work[PREFILL, OUTSIDE, 0] = _outside_work(walk, batch, length)
    work[DECODE, OUTSIDE, 0] = _outside_work(walk, batch, 1)
    order = np.random.default_rng(seed)
    seconds = median_seconds(work, repeats, clock or device_clock(device), order, advance)

    def phase(name: str) -> PhaseLatency:
        times = {
            kind: never_faster_when_wider(options, [_milliseconds(seconds[name, kind, width]) for width in options])
            for kind, options in widths.items()
        }
        outside = _milliseconds(seconds[name, OUTSIDE, 0])
        return PhaseLatency(attention=times[BlockKind.ATTENTION], mlp=times[BlockKind.MLP], outside=outside)

    return LatencyTable(
        device=device_name(device),
        dtype=str(dense.model.dtype).removeprefix("torch."),
        prompt_tokens=length,
        batch=batch,
        repeats=repeats,
        kv_heads=widths[BlockKind.ATTENTION],
        ffn_widths=widths[BlockKind.MLP],
        prefill=phase(PREFILL),
        decode=phase(DECODE),
        seconds=time.perf_counter() - start,
    )


def never_faster_when_wider(widths: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    """Give the non-decreasing values that are nearest to those measured, by least squares."""
    fitted = IsotonicRegression().fit_transform(np.array(widths, dtype=float), np.array(values))
    return tuple(round(value, DIGITS) for value in fitted.tolist())


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, DIGITS)


def narrowed(dense: DenseModel, kind: BlockKind, width: int) -> tuple[nn.Module, nn.Module]:
    """Give norm and module of the first layer's block, the module cut to its first groups.

    Projections into the groups are views of the dense ones. The one out of them is copied, since rows of a view would
    lie too far apart to be timed for those of a small model. A mixture is given as transformers' own module, which
    computes only the experts that a token goes to.
    """
    layer = decoder_layers(dense.model, dense.family)[0]
    names = block_names(dense.family, kind)
    whole = layer.get_submodule(names.module)
    spared: dict[int, Any] = {id(p): p for p in whole.parameters()}
    module: nn.Module = copy.deepcopy(whole, memo=spared)
    num_groups = dense.shape.block(kind).num_groups
    for name, (projection, axis) in group_tensors(layer, dense.family, kind).items():
        kept = projection.weight.shape[axis] // num_groups * width
        weight, bias = projection.weight.narrow(axis, 0, kept).contiguous(), projection.bias
        copied: Any = module.get_submodule(name)
        copied.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None and axis == 0:
            copied.bias = nn.Parameter(bias[:kept], requires_grad=False)
        copied.out_features, copied.in_features = weight.shape
    for name in cut_norms(layer, dense.family, kind):
        for entry, parameter in list(module.get_submodule(name).named_parameters()):
            cut = parameter[: len(parameter) // num_groups * width]
            setattr(module.get_submodule(name), entry, nn.Parameter(cut, requires_grad=False))
    if kind is BlockKind.ATTENTION:
        set_heads(module, dense.family, width, num_groups)
    norm = layer.get_submodule(names.norm) if names.norm else nn.Identity()
    return norm, module.stock() if isinstance(module, Mixture) else module


def _block_work(
    dense: DenseModel, walk: DecoderWalk, kind: BlockKind, width: int, batch: int, length: int
) -> tuple[Work, Work]:
    """Give the work of one block on a prompt, and on one token with the prompt cached."""
    norm, module = narrowed(dense, kind, width)
    post_norm = block_names(dense.family, kind).post_norm
    shape, config = dense.shape, dense.model.config
    prompt = torch.randn(batch, length, shape.hidden_size, dtype=dense.model.dtype, device=walk.device)
    token = prompt[:, :1].contiguous()

    def run(hidden: Tensor, arguments: Mapping[str, Any]) -> Callable[[], object]:
        def block() -> Tensor:
            output = module(norm(hidden), **arguments)
            return hidden + walk.scaled(walk.layers[0], post_norm, output[0] if isinstance(output, tuple) else output)

        return block

    if kind is BlockKind.MLP:
        return (lambda: run(prompt, {})), (lambda: run(token, {}))
    arguments = walk.arguments(batch, length)[0]
    decoding = walk.decoding_arguments(batch, length)
    cached = torch.randn(batch, width, length, shape.head_dim, dtype=dense.model.dtype, device=walk.device)

    def decode() -> Callable[[], object]:
        # A token lengthens the cache, so that each gets one of its own, filled before the clock runs.
        cache = DynamicCache(config=config)
        cache.update(cached, cached, 0)
        return run(token, {name: cache if isinstance(value, Cache) else value for name, value in decoding.items()})

    return (lambda: run(prompt, arguments)), decode


def _outside_work(walk: DecoderWalk, batch: int, length: int) -> Work:
    """Embed, norm, and tell the next token: the head is wanted for the last one alone."""
    tokens = torch.zeros(batch, length, dtype=torch.long, device=walk.device)
    return lambda: lambda: walk.logits(walk.final_norm(walk.embed(tokens))[:, -1:])
