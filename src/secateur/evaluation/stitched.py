"""Measure candidates without making them: slices of the weight bank swapped into the dense model's own modules."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol as Interface
from typing import runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.model.families import Family
from secateur.model.shape import module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol


@runtime_checkable
class Scorer(Interface):
    """Tokens to run on: a `DenseReference`, or a `ChoiceSet`."""

    @property
    def batches(self) -> Sequence[Tensor]: ...

    @property
    def num_tokens(self) -> int: ...


class StitchedModel:
    """Runs architectures on one token set.

    The residual stream before each module is kept for the candidate measured last, as deep as memory allows, so that
    the next one starts where it first differs. Results do not depend on it; measuring in sorted order is faster.
    """

    def __init__(self, walk: DecoderWalk, bank: WeightBank, reference: Scorer, cache_bytes: int) -> None:
        self._walk = walk
        self._bank = bank
        self._reference = reference
        state_bytes = reference.num_tokens * walk.state_size * walk.model.dtype.itemsize
        self._depth = max(1, cache_bytes // state_bytes)
        self._widths: tuple[int, ...] = ()
        self._states: list[list[Tensor]] = []

    def score(self, architecture: Architecture) -> WindowScores:
        """Score an architecture on every window of a set that has a dense reference.

        Raises:
            TypeError: The model was made for tokens without one.
        """
        if not isinstance(self._reference, DenseReference):
            raise TypeError(f"scores need a DenseReference, got {type(self._reference).__name__}; use stream()")
        streams = enumerate(self.stream(architecture))
        parts = [self._reference.score(index, hidden, self._walk) for index, hidden in streams]
        return WindowScores(torch.cat([part.loss for part in parts]), torch.cat([part.kl for part in parts]))

    @torch.no_grad()
    def stream(self, architecture: Architecture) -> list[Tensor]:
        """Give the residual stream after the last block, batch by batch."""
        widths = architecture.widths
        agreed = next(
            (i for i, (new, old) in enumerate(zip(widths, self._widths, strict=False)) if new != old), len(self._widths)
        )
        if not self._states:
            self._states = [[self._walk.embed(batch) for batch in self._reference.batches]]
        # states[i] is the stream before module i; what follows the first difference is stale.
        del self._states[agreed + 1 :]
        self._widths = widths
        start = len(self._states) - 1
        stream = self._states[start]
        for module in range(start, len(widths)):
            stream = self._module(module, widths[module], stream)
            if len(self._states) < self._depth and module + 1 < len(widths):
                self._states.append(stream)
        return stream

    def _module(self, module: int, width: int, stream: list[Tensor]) -> list[Tensor]:
        layer, kind = module_of(module)
        if width == 0:
            return [self._walk.add(kind, state, None) for state in stream]
        weights = self._bank.slices(module, width)
        return [self._walk.block(layer, kind, state, weights) for state in stream]


@torch.no_grad()
def score_model(model: PreTrainedModel, family: Family, walk: DecoderWalk, reference: DenseReference) -> WindowScores:
    """Score a pruned model, as it stands, on the reference's token set. `walk` is the dense model's."""
    own = DecoderWalk(model, family, source=walk)
    states = walk.last_states(reference.batches) if model is walk.model else own.last_states(reference.batches)
    parts = [reference.score(index, state, own) for index, state in enumerate(states)]
    return WindowScores(torch.cat([part.loss for part in parts]), torch.cat([part.kl for part in parts]))


def measure(
    stitched: StitchedModel,
    architecture: Architecture,
    protocol: Protocol,
    targets: Mapping[str, Callable[[Architecture], float]] | None = None,
) -> Measurement:
    """Measure an architecture; what goes wrong numerically is recorded as a failure, not raised.

    Args:
        targets: What else is measured, by name.
    """
    start = time.perf_counter()
    scores = stitched.score(architecture)
    others = {name: target(architecture) for name, target in (targets or {}).items()}
    return as_measurement(architecture, protocol, scores, others, time.perf_counter() - start)


def as_measurement(
    architecture: Architecture,
    protocol: Protocol,
    scores: WindowScores,
    targets: Mapping[str, float],
    seconds: float,
) -> Measurement:
    """Turn scores into a measurement, or into a failure where a number is not finite."""
    kl, loss = float(scores.kl.mean()), float(scores.loss.mean())
    seen = {"kl": kl, "loss": loss, **targets}
    if all(map(math.isfinite, seen.values())):
        return Measurement(
            architecture=architecture,
            protocol=protocol.key,
            status="measured",
            kl=kl,
            loss=loss,
            targets=dict(targets),
            seconds=seconds,
        )
    reason = ", ".join(f"{name}={value}" for name, value in seen.items())
    return Measurement(
        architecture=architecture,
        protocol=protocol.key,
        status="failed",
        reason=f"{reason}: not finite",
        seconds=seconds,
    )
