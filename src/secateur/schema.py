"""The base of everything that crosses the disk: frozen, strict about keys, plain JSON."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A value that is written to or read from disk. Unknown keys are errors, fields never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def canonical_json(value: Any) -> str:
    """Serialise plain data so that equal values give equal text: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Give 16 hexadecimal digits that identify plain data, the same on every machine and in every process."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def derive_seed(run_seed: int, *parts: str | int) -> int:
    """Derive a seed in [0, 2**31) from the run's seed and what it is used for.

    Randomness is derived, never consumed in order, so that a resumed, reordered or distributed run draws the same.
    """
    return int(digest([run_seed, *parts])[:8], 16) % 2**31
