"""An architecture under consideration, and what was observed for it."""

from typing import Literal

from pydantic import Field

from secateur.schema import Record, digest
from secateur.space.architecture import Architecture


class Candidate(Record):
    """An architecture, where it came from, and the round that proposed it (0 = before any predictor).

    `parameter_reduction` is 1 - decoder parameters / dense decoder parameters.
    """

    architecture: Architecture
    origin: str
    round: int
    parameter_reduction: float


class Protocol(Record):
    """All that makes two measurements comparable.

    `dtype` is that of the matrix products; `reconstructed_on` counts the calibration tokens of a sequential
    reconstruction before the measurement, 0 = none; `top_k` is how many tokens of a distribution are told apart, None =
    all.
    """

    model: str
    tokens: str
    num_tokens: int
    sequence_length: int
    dtype: str
    bank: str
    reconstructed_on: int = 0
    top_k: int | None = None

    @property
    def key(self) -> str:
        return digest(self.model_dump())


class Measurement(Record):
    """What was observed for an architecture under one protocol. A failure is a reason and no metrics.

    `kl` is the mean over tokens of KL(dense || candidate) in nats, `loss` the mean next-token cross-entropy in nats.
    `targets` holds what a method measures besides, by name (the paper's perplexities and accuracy).
    """

    architecture: Architecture
    protocol: str
    status: Literal["measured", "failed"]
    kl: float | None = None
    loss: float | None = None
    targets: dict[str, float] = Field(default_factory=dict)
    reason: str | None = None
    seconds: float
