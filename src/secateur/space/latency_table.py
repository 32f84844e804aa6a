"""How long the blocks of a decoder take on one device, as a table: latency as a cost that adds up over modules."""

from functools import partial

import numpy as np
from pydantic import Field

from secateur.model.shape import BlockKind, DenseShape
from secateur.schema import Record
from secateur.space.cost import ModuleCost


class PhaseLatency(Record):
    """One phase, prefill or decode: milliseconds per block of each width, never less for a wider one."""

    attention: tuple[float, ...] = Field(description="per number of KV heads in the table, ascending")
    mlp: tuple[float, ...] = Field(description="per FFN width in the table, ascending")
    outside: float = Field(description="embedding, final norm and head")


class LatencyTable(Record):
    """Every distinct block of the search space timed once: layers are alike, so kinds times widths.

    `prefill` is one pass over a prompt of `prompt_tokens`, with the head on the last of them; `decode` is one token
    more with as many cached. Both are for `batch` sequences at once.
    """

    device: str
    dtype: str
    prompt_tokens: int
    batch: int
    repeats: int
    kv_heads: tuple[int, ...] = Field(description="widths of attention that were timed, ascending, without 0")
    ffn_widths: tuple[int, ...] = Field(description="widths of the MLP that were timed, ascending, without 0")
    prefill: PhaseLatency
    decode: PhaseLatency
    seconds: float = Field(description="spent on timing")

    @property
    def costs(self) -> dict[str, ModuleCost]:
        """Latencies as costs, by name."""
        phases = {"prefill_ms": self.prefill, "decode_ms": self.decode}
        return {
            name: ModuleCost(name, partial(self._block_ms, phase), partial(_outside_ms, phase))
            for name, phase in phases.items()
        }

    def _block_ms(self, phase: PhaseLatency, _shape: DenseShape, kind: BlockKind, width: int) -> float:
        """Give the time of a block; linear between timed widths, and below the narrowest as long as that one."""
        if width == 0:
            return 0.0
        if kind is BlockKind.ATTENTION:
            return float(np.interp(width, self.kv_heads, phase.attention))
        return float(np.interp(width, self.ffn_widths, phase.mlp))


def _outside_ms(phase: PhaseLatency, _shape: DenseShape) -> float:
    return phase.outside
