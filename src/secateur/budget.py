"""The budget as a user asks for it: a section of the configuration, and amounts such as `1.2B` and `prefill=300`."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from secateur.errors import ConfigError
from secateur.schema import Record

USUAL_KEEP = 0.75

SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
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


class BudgetConfig(Record):
    """What the pruned model may have: any combination of limits; without any, `keep` is 0.75."""

    keep: float | None = Field(None, description="share of the decoder-layer parameters that may stay")
    band: float = Field(0.003, gt=0, lt=1, description="share of the budget that may stay unused; at least one step")
    max_params: Amount | None = Field(None, description="parameters of the whole model; 1.2B and the like are read")
    max_flops: Amount | None = Field(None, description="per token: two per matrix entry of the decoder layers")
    max_kv_cache_bytes: Amount | None = Field(None, description="per token of context, at 2 bytes an entry")
    max_prefill_ms: Milliseconds | None = Field(None, description="milliseconds for a prompt; `latency` says how long")
    max_decode_ms: Milliseconds | None = Field(None, description="milliseconds per generated token")

    @model_validator(mode="before")
    @classmethod
    def _keep_something(cls, given: Any) -> Any:
        limited = isinstance(given, Mapping) and any(
            value is not None for name, value in given.items() if name != "band"
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
        return self.max_prefill_ms is not None or self.max_decode_ms is not None

    @property
    def title(self) -> str:
        """Short enough for the name of a folder: `keep-0.8`, `params-1.1M-decode-12ms`."""
        counts = {"params": self.max_params, "flops": self.max_flops, "kv-cache-bytes": self.max_kv_cache_bytes}
        times = {"prefill": self.max_prefill_ms, "decode": self.max_decode_ms}
        parts = [f"keep-{self.keep:g}"] if self.keep is not None else []
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
