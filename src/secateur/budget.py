"""The budget as a user asks for it: a section of the configuration; amounts such as `1.2B`, `prefill=300` and `5%`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from secateur.errors import ConfigError
from secateur.schema import Record

USUAL_KEEP = 0.75

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
# What `minimize` makes small, by the name of the cost.
MINIMIZED = {
    "params": "decoder_parameters",
    "flops": "flops_per_token",
    "kv-cache-bytes": "kv_cache_bytes_per_token",
    "prefill": "prefill_ms",
    "decode": "decode_ms",
}
DROP_FORMS = "expected 5% (of perplexity), kl=0.05 (nats per token) or accuracy=2% (points of multiple choice)"
# Fields of the budget, by what is timed. A generated token is what most users wait for.
PHASES = {"prefill": "max_prefill_ms", "decode": "max_decode_ms"}
USUAL_PHASE = "decode"


def parse_amount(written: object) -> object:
    """Turn `1.2B`, `300k` or `1,200,000` into a whole number; what is not text is given back.

    Raises:
        ValueError: The text is not a number with one of the suffixes k, M, B, G, T.
    """
    if not isinstance(written, str):
        return written
    match = re.fullmatch(r"([+-]?[0-9][0-9_,]*(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)\s*([a-z]?)", written.strip().lower())
    if match is None or match[2] not in SUFFIXES:
        raise ValueError("expected a number, with a suffix k, M, B, G or T or without one, such as 1.2B")
    amount = float(match[1].replace(",", "").replace("_", "")) * SUFFIXES[match[2]]
    if not math.isfinite(amount):
        raise ValueError("expected a finite number")
    return round(amount)


def short_amount(amount: int) -> str:
    """Write an amount as `parse_amount` reads it, in as few characters as four digits allow: 1100000 is `1.1M`."""
    for suffix, unit in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if amount >= unit:
            return f"{amount / unit:.4g}{suffix}"
    return f"{amount:g}"


# A count that may be written with a suffix.
Amount = Annotated[int, BeforeValidator(parse_amount), Field(gt=0)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Drop(Record):
    """The most quality that may be lost.

    `most` is the share by which perplexity may rise over the dense model's, KL(dense || pruned) in nats per token, or
    the share of multiple-choice questions that may be answered wrong besides.
    """

    metric: Literal["perplexity", "kl", "accuracy"]
    most: float = Field(gt=0, allow_inf_nan=False)

    @property
    def limit(self) -> float:
        """Give the most in the unit of a mean over windows or questions: of perplexity the log ratio, in nats."""
        return math.log1p(self.most) if self.metric == "perplexity" else self.most

    def written(self, drop: float) -> float:
        """Turn such a mean into the unit of `most`."""
        return math.expm1(drop) if self.metric == "perplexity" else drop

    @property
    def title(self) -> str:
        if self.metric == "kl":
            return f"drop-kl-{self.most:g}"
        percent = f"{100 * self.most:.6g}pct"
        return f"drop-{percent}" if self.metric == "perplexity" else f"drop-accuracy-{percent}"


def parse_drop(written: object) -> object:
    """Turn `5%`, `kl=0.05` or `accuracy=2%` into a `Drop`; what is not text is given back.

    Raises:
        ValueError: The text has none of these forms, or is not above 0. A bare number is none: 5 and 0.05 may both mean
            five percent.
    """
    if not isinstance(written, str):
        return written
    metric, separator, amount = written.strip().rpartition("=")
    metric, percent = metric.strip() if separator else "perplexity", amount.strip().endswith("%")
    if metric not in ("perplexity", "kl", "accuracy") or percent == (metric == "kl"):
        raise ValueError(DROP_FORMS)
    try:
        number = float(amount.strip().removesuffix("%"))
    except ValueError as error:
        raise ValueError(DROP_FORMS) from error
    most = number / 100 if percent else number
    if not 0 < most < math.inf or (metric == "accuracy" and most >= 1):
        raise ValueError(f"{DROP_FORMS}, above 0{' and below 100%' if metric == 'accuracy' else ''}")
    return Drop(metric=metric, most=most)


class BudgetConfig(Record):
    """What the pruned model may have: any combination of limits; without any, `keep` is 0.75.

    With `max_drop` it is made as small as that allows, and the other limits are ceilings that it meets besides.
    """

    keep: float | None = Field(None, description="share of the decoder-layer parameters that may stay")
    band: float = Field(0.003, gt=0, lt=1, description="share of the budget that may stay unused; at least one step")
    max_params: Amount | None = Field(None, description="parameters of the whole model; 1.2B and the like are read")
    max_flops: Amount | None = Field(None, description="per token: two per matrix entry of the decoder layers")
    max_kv_cache_bytes: Amount | None = Field(None, description="per token of context, at 2 bytes an entry")
    max_prefill_ms: Milliseconds | None = Field(None, description="milliseconds for a prompt; `latency` says how long")
    max_decode_ms: Milliseconds | None = Field(None, description="milliseconds per generated token")
    max_drop: Annotated[Drop | None, BeforeValidator(parse_drop)] = Field(
        None, description="quality that may be lost: 5% (of perplexity), kl=0.05 or accuracy=2%"
    )
    minimize: Literal["params", "flops", "kv-cache-bytes", "prefill", "decode"] = Field(
        "params", description="with max_drop: what is made small"
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_something(cls, given: Any) -> Any:
        limited = isinstance(given, Mapping) and any(
            value is not None for name, value in given.items() if name not in ("band", "minimize")
        )
        return given if limited or not isinstance(given, Mapping) else {**given, "keep": USUAL_KEEP}

    @property
    def ceilings(self) -> dict[str, int | float]:
        """What is limited besides `keep`, by the name of the cost."""
        limits = {
            "total_parameters": self.max_params,
            "flops_per_token": self.max_flops,
            "kv_cache_bytes_per_token": self.max_kv_cache_bytes,
            "prefill_ms": self.max_prefill_ms,
            "decode_ms": self.max_decode_ms,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def limits_latency(self) -> bool:
        timed = self.max_drop is not None and self.minimize in PHASES
        return timed or self.max_prefill_ms is not None or self.max_decode_ms is not None

    @property
    def title(self) -> str:
        """Short enough for the name of a folder: `keep-0.8`, `params-1.1M-decode-12ms`."""
        counts = {"params": self.max_params, "flops": self.max_flops, "kv-cache-bytes": self.max_kv_cache_bytes}
        times = {"prefill": self.max_prefill_ms, "decode": self.max_decode_ms}
        parts = [self.max_drop.title] if self.max_drop is not None else []
        parts += [self.minimize] if self.max_drop is not None and self.minimize != "params" else []
        parts += [f"keep-{self.keep:g}"] if self.keep is not None else []
        parts += [f"{name}-{short_amount(limit)}" for name, limit in counts.items() if limit is not None]
        parts += [f"{name}-{limit:g}ms" for name, limit in times.items() if limit is not None]
        return "-".join(parts)


def parse_latencies(assignments: Sequence[str]) -> dict[str, float]:
    """Turn `prefill=300`, `decode=12` or a bare `12`, which means decode, into fields of the budget.

    Raises:
        ConfigError: What is timed is neither, was given before, or has no positive number of milliseconds.
    """
    found: dict[str, float] = {}
    for assignment in assignments:
        phase, separator, number = assignment.rpartition("=")
        phase = phase.strip() if separator else USUAL_PHASE
        try:
            milliseconds = float(number)
        except ValueError:
            milliseconds = math.nan
        if phase not in PHASES or not 0 < milliseconds < math.inf:
            raise ConfigError(
                f"--max-latency-ms {assignment!r} is not of the form prefill=MS, decode=MS or MS (which means decode), "
                "with a positive number of milliseconds"
            )
        if PHASES[phase] in found:
            raise ConfigError(f"--max-latency-ms {assignment!r}: {phase} was given a limit already; give each one once")
        found[PHASES[phase]] = milliseconds
    return found
