"""Measure candidates without making them: slices of the weight bank swapped into the dense model's own modules."""

import math
import time

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


class StitchedModel:
    """Runs architectures on one token set.

    The residual stream before each module is kept for the candidate measured last, as deep as memory allows, so that
    the next one starts where it first differs. Results do not depend on it; measuring in sorted order is faster.
    """

    def __init__(self, walk: DecoderWalk, bank: WeightBank, reference: DenseReference, cache_bytes: int) -> None:
        self._walk = walk
        self._bank = bank
        self._reference = reference
        state_bytes = reference.token_set.num_tokens * walk.model.config.hidden_size * walk.model.dtype.itemsize
        self._depth = max(1, cache_bytes // state_bytes)
        self._widths: tuple[int, ...] = ()
        self._states: list[list[Tensor]] = []

    @torch.no_grad()
    def score(self, architecture: Architecture) -> WindowScores:
        """Score an architecture on every window of the set."""
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
        parts = [self._reference.score(index, hidden) for index, hidden in enumerate(stream)]
        return WindowScores(torch.cat([part.loss for part in parts]), torch.cat([part.kl for part in parts]))

    def _module(self, module: int, width: int, stream: list[Tensor]) -> list[Tensor]:
        if width == 0:
            return stream
        weights = self._bank.slices(module, width)
        return [self._walk.block(*module_of(module), hidden, weights) for hidden in stream]


@torch.no_grad()
def score_model(model: PreTrainedModel, family: Family, walk: DecoderWalk, reference: DenseReference) -> WindowScores:
    """Score a pruned model, as it stands, on the reference's token set. `walk` is the dense model's."""
    own = DecoderWalk(model, family, source=walk)
    parts = []
    for index, batch in enumerate(reference.batches):
        hidden = own.embed(batch)
        for module in range(2 * len(own.layers)):
            hidden = own.block(*module_of(module), hidden)
        parts.append(reference.score(index, hidden))
    return WindowScores(torch.cat([part.loss for part in parts]), torch.cat([part.kl for part in parts]))


def measure(stitched: StitchedModel, architecture: Architecture, protocol: Protocol) -> Measurement:
    """Measure an architecture; what goes wrong numerically is recorded as a failure, not raised."""
    start = time.perf_counter()
    scores = stitched.score(architecture)
    kl, loss = float(scores.kl.mean()), float(scores.loss.mean())
    seconds = time.perf_counter() - start
    if not (math.isfinite(kl) and math.isfinite(loss)):
        return Measurement(
            architecture=architecture,
            protocol=protocol.key,
            status="failed",
            reason=f"kl={kl}, loss={loss}: not finite",
            seconds=seconds,
        )
    return Measurement(
        architecture=architecture, protocol=protocol.key, status="measured", kl=kl, loss=loss, seconds=seconds
    )
