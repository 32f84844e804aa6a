"""How fast models answer on this device, beside each other, and what memory they take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from transformers import Cache, PreTrainedModel

from secateur.errors import ConfigError
from secateur.evaluation.memory import memory_measure, peak_memory
from secateur.evaluation.resampling import RESAMPLES, quantile_interval
from secateur.evaluation.timing import Clock, Work, device_clock, device_name, interleaved_seconds
from secateur.schema import Record, derive_seed

# Of the intervals of ratios.
CONFIDENCE = 0.95
PREFILL, DECODE = "prefill", "decode"


class Spread(Record):
    """What repeated timings gave: the median, and the quartiles around it."""

    median: float
    low: float = Field(description="first quartile")
    high: float = Field(description="third quartile")


class ModelSpeed(Record):
    """One model: prefill is one pass over the prompts, decoding goes on from them with a KV cache."""

    name: str
    prefill_ms: Spread = Field(description="until the first token of the prompt batch is there")
    decode_ms_per_token: Spread = Field(description="per step of decoding, which gives each sequence of the batch one")
    throughput_tokens_per_s: Spread = Field(description="new tokens of the batch over the time of prefill and decoding")
    peak_memory_bytes: int | None = Field(
        description="weights and what the work adds to them at its peak, as `memory_measure` says; null if not known"
    )
    weights_bytes: int = Field(description="of the files of weights; of the weights in their stored type if none")


class SpeedRatio(Record):
    """How much of another model's value a model has; both were timed in every repeat, and the pairs are compared.

    Medians over repeats of the ratio, with a bootstrap interval: `low` and `high` at `confidence`.
    """

    name: str
    against: str
    prefill: Spread = Field(description="time; below 1 is faster")
    decode: Spread = Field(description="time; below 1 is faster")
    throughput: Spread = Field(description="tokens per second; above 1 is faster")
    confidence: float


class SpeedComparison(Record):
    """Models timed in one process, in a new random order each time."""

    device: str
    dtype: str = Field(description="computed in")
    prompt_tokens: int = Field(description="of each sequence")
    new_tokens: int = Field(description="generated after the prompt by each sequence")
    batch: int = Field(description="sequences at once")
    repeats: int = Field(description="timings of each model, after warming up")
    models: tuple[ModelSpeed, ...] = Field(description="the dense model first where there is one")
    ratios: tuple[SpeedRatio, ...] = Field((), description="of every other model against the first")
    memory_measure: str | None = Field(None, description="what peak_memory_bytes is; null if it is not known")


@dataclass(frozen=True)
class TimedModel:
    """A model to be timed, and the bytes of its files."""

    name: str
    model: PreTrainedModel
    weights_bytes: int


@torch.no_grad()
def compare_speed(
    models: Sequence[TimedModel],
    prompt_tokens: int,
    new_tokens: int,
    batch: int,
    repeats: int,
    seed: int,
    clock: Clock | None = None,
    advance: Callable[[], None] = lambda: None,
) -> SpeedComparison:
    """Time models beside each other: all warmed up, then each once per repeat, in a new random order each time.

    Prefill is one pass over the prompts up to the first new token; decoding makes the other `new_tokens - 1`, one at a
    time, greedily, from a KV cache that is filled again for each timing. Ratios are taken repeat by repeat, so that
    what slows the machine down for a while is in both parts.

    Args:
        models: The one that the others are compared with comes first.
        prompt_tokens, new_tokens: Of each sequence, at most; fewer where a model has fewer positions.
        clock: Seconds; waits for the device by default.
        advance: Called after each repeat.
    """
    device = models[0].model.device
    prompt_tokens, new_tokens = fitting_lengths(models, prompt_tokens, new_tokens)
    smallest = min(each.model.config.vocab_size for each in models)
    generator = torch.Generator().manual_seed(derive_seed(seed, "prompt"))
    prompt = torch.randint(smallest, (batch, prompt_tokens), generator=generator).to(device)
    work: dict[tuple[str, int], Work] = {}
    for index, each in enumerate(models):
        work[PREFILL, index] = _prefill_work(each.model, prompt)
        work[DECODE, index] = _decode_work(each.model, prompt, new_tokens - 1)
    order = np.random.default_rng(derive_seed(seed, "order"))
    times = interleaved_seconds(work, repeats, clock or device_clock(device), order, advance)
    prefill = [np.array(times[PREFILL, index]) for index in range(len(models))]
    decode = [np.array(times[DECODE, index]) / (new_tokens - 1) for index in range(len(models))]
    whole = [batch * new_tokens / (one + other * (new_tokens - 1)) for one, other in zip(prefill, decode, strict=True)]
    memory = [peak_memory(each.model, partial(_generate, each.model, prompt, new_tokens)) for each in models]
    drawn = derive_seed(seed, "bootstrap")
    return SpeedComparison(
        device=device_name(device),
        dtype=str(models[0].model.dtype).removeprefix("torch."),
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        batch=batch,
        repeats=repeats,
        models=tuple(
            ModelSpeed(
                name=each.name,
                prefill_ms=_spread(1e3 * prefill[index]),
                decode_ms_per_token=_spread(1e3 * decode[index]),
                throughput_tokens_per_s=_spread(whole[index]),
                peak_memory_bytes=memory[index],
                weights_bytes=each.weights_bytes,
            )
            for index, each in enumerate(models)
        ),
        ratios=tuple(
            SpeedRatio(
                name=models[index].name,
                against=models[0].name,
                prefill=_ratio(prefill[index] / prefill[0], drawn),
                decode=_ratio(decode[index] / decode[0], drawn),
                throughput=_ratio(whole[index] / whole[0], drawn),
                confidence=CONFIDENCE,
            )
            for index in range(1, len(models))
        ),
        memory_measure=None if None in memory else memory_measure(device),
    )


def fitting_lengths(models: Sequence[TimedModel], prompt_tokens: int, new_tokens: int) -> tuple[int, int]:
    """Shorten prompt and continuation to the positions that all models have; the prompt gives way last.

    Raises:
        ConfigError: There is no room for a prompt and two new tokens, which decoding needs.
    """
    positions = [getattr(each.model.config, "max_position_embeddings", None) for each in models]
    longest = min((each for each in positions if each), default=prompt_tokens + new_tokens)
    new_tokens = min(new_tokens, longest // 2)
    prompt_tokens = min(prompt_tokens, longest - new_tokens)
    if prompt_tokens < 1 or new_tokens < 2:
        raise ConfigError(
            f"timing needs a prompt and at least 2 new tokens, got {prompt_tokens} and {new_tokens} within {longest} "
            "positions; ask for more new tokens, or time a model with more positions"
        )
    return prompt_tokens, new_tokens


def weights_bytes(name: str, model: PreTrainedModel, stored_dtype: str) -> int:
    """Give the bytes of a local model's files of weights; of its parameters in their stored type where there are none.

    Tied weights count once, as in a file.
    """
    files = [path for pattern in ("*.safetensors", "*.bin", "*.gguf") for path in Path(name).glob(pattern)]
    if Path(name).is_dir() and files:
        return sum(path.stat().st_size for path in files)
    return parameter_bytes(model, stored_dtype)


def parameter_bytes(model: PreTrainedModel, stored_dtype: str) -> int:
    """Give the bytes of a model's parameters in a type; tied weights count once."""
    size = torch.empty((), dtype=getattr(torch, stored_dtype)).element_size()
    return size * sum(parameter.numel() for parameter in model.parameters())


def _prefill_work(model: PreTrainedModel, prompt: Int[Tensor, "batch prompt"]) -> Work:
    return lambda: lambda: _next_token(model(input_ids=prompt, use_cache=True, logits_to_keep=1))


def _decode_work(model: PreTrainedModel, prompt: Int[Tensor, "batch prompt"], steps: int) -> Work:
    def make_ready() -> Callable[[], object]:
        output = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        return lambda: _decode(model, output, steps)

    return make_ready


def _generate(model: PreTrainedModel, prompt: Int[Tensor, "batch prompt"], new_tokens: int) -> None:
    _decode(model, model(input_ids=prompt, use_cache=True, logits_to_keep=1), new_tokens - 1)


def _decode(model: PreTrainedModel, output: Any, steps: int) -> None:
    for _ in range(steps):
        # Under the name that the model gives it: transformers has renamed it once.
        cache = {name: value for name, value in output.items() if isinstance(value, Cache)}
        output = model(input_ids=_next_token(output), use_cache=True, **cache)


def _next_token(output: Any) -> Int[Tensor, "batch 1"]:
    return output.logits[:, -1:].argmax(-1)


def _spread(values: Float[np.ndarray, " repeats"]) -> Spread:
    low, median, high = (float(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return Spread(median=median, low=low, high=high)


def _ratio(ratios: Float[np.ndarray, " repeats"], seed: int) -> Spread:
    draws = np.random.default_rng(seed).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = quantile_interval(np.median(ratios[draws], axis=1), CONFIDENCE)
    return Spread(median=float(np.median(ratios)), low=low, high=high)
