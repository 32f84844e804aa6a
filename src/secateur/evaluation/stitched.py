"""Run candidates without making them: slices of the weight bank swapped into the dense model's own modules.

All go through a layer before any goes through the next, and those whose choices agree so far go as one: the work is
the number of distinct prefixes, and a layer's weights are needed once.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, runtime_checkable
from typing import Protocol as Interface

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.prefix_cache import Prefix, PrefixCache
from secateur.model.families import Family
from secateur.model.shape import BlockKind, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank
from secateur.space.architecture import Architecture

Part = TypeVar("Part")
Score = TypeVar("Score")
Score_co = TypeVar("Score_co", covariant=True)
Item = TypeVar("Item")
# A batch of tokens behind the modules of a prefix.
Node = tuple[int, Prefix]


@runtime_checkable
class Scorer(Interface[Part, Score_co]):
    """Tokens to run on, and what is read off the states behind the last block: a `DenseReference`, or a `ChoiceSet`."""

    @property
    def batches(self) -> Sequence[Tensor]: ...

    def score_batch(self, index: int, state: Tensor, model: DecoderWalk, /) -> Part:
        """Read off what the model leaves of one batch."""
        ...

    def joined(self, parts: Sequence[Part], /) -> Score_co:
        """Put what was read off several batches together."""
        ...


@dataclass(frozen=True)
class Memory:
    """What hidden states may take while candidates are measured; results do not depend on it.

    Attributes:
        max_bytes: Of all hidden states that exist at the same time.
        cache_bytes: Of those that are kept for later candidates, among them; at most half.
        candidates: That go through the model together, at most. What an interruption loses.
    """

    max_bytes: int = 4 << 30
    cache_bytes: int = 1 << 30
    candidates: int = 16

    @property
    def kept_bytes(self) -> int:
        return min(self.cache_bytes, self.max_bytes // 2)

    def share(self, count: int) -> "Memory":
        """Give each of several models the same part."""
        return Memory(self.max_bytes // count, self.cache_bytes // count, self.candidates)


class StitchedModel(Generic[Score]):
    """Runs architectures on one token set.

    States behind a prefix are shared by all candidates that begin with it, and some are kept for candidates to come.
    Results depend on neither, nor on how candidates are grouped.
    """

    def __init__(
        self,
        walk: DecoderWalk,
        bank: WeightBank,
        scorer: Scorer[Part, Score],
        memory: Memory | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Take what is to be run.

        Args:
            dtype: Of the matrix products in blocks; residual stream, norms and head stay what the model is computed in.
                As the model if not given.
        """
        self._walk = walk
        self._bank = bank
        self._scorer: Scorer[Any, Score] = scorer
        self._memory = memory or Memory()
        self._dtype = dtype if dtype != walk.model.dtype else None
        self._cache = PrefixCache(self._memory.kept_bytes)
        self.num_blocks_run = 0

    def score(self, architecture: Architecture) -> Score:
        """Score a single architecture."""
        [score] = self.scores([architecture])
        return score

    def scores(self, architectures: Sequence[Architecture], batches: Sequence[int] | None = None) -> list[Score]:
        """Score architectures, in the order given.

        Args:
            batches: Numbers of the token set's batches to run on; all if not given.
        """
        chosen = range(len(self._scorer.batches)) if batches is None else batches
        widths = [architecture.widths for architecture in architectures]
        found: dict[Prefix, Score] = {}
        for group in self.groups(architectures, chosen):
            # Where not even one candidate's states fit, some batches at a time.
            parts: dict[Prefix, list[object]] = {each.widths: [] for each in group}
            for some in _pieces(chosen, self._states_at_once(chosen)):
                for (_, prefix), part in sorted(self._run(list(parts), some).items()):
                    parts[prefix].append(part)
            found |= {each: self._scorer.joined(of_batches) for each, of_batches in parts.items()}
        return [found[each] for each in widths]

    def groups(
        self, architectures: Sequence[Architecture], batches: Sequence[int] | None = None
    ) -> list[list[Architecture]]:
        """Give the groups in which architectures go through the model: neighbours share their first layers."""
        chosen = range(len(self._scorer.batches)) if batches is None else batches
        ordered = sorted({each.widths: each for each in architectures}.items())
        size = max(1, min(self._memory.candidates, self._states_at_once(chosen) // len(chosen)))
        return [[architecture for _, architecture in group] for group in _pieces(ordered, size)]

    def _states_at_once(self, batches: Sequence[int]) -> int:
        """Give how many batches' states may exist: as many again come into being behind each module."""
        tokens = max(self._scorer.batches[index].numel() for index in batches)
        state_bytes = tokens * self._walk.state_size * self._walk.model.dtype.itemsize
        free = self._memory.max_bytes - self._memory.kept_bytes
        return max(1, free // (2 * state_bytes))

    @torch.no_grad()
    def _run(self, group: list[Prefix], batches: Sequence[int]) -> dict[Node, object]:
        """Give what is read off each batch for each candidate, by batch and widths."""
        self._cache.begin_pass()
        starts = {(batch, widths): self._cache.deepest(batch, widths) for widths in group for batch in batches}
        states: dict[Node, Tensor] = {}
        for module in range(min(starts.values()), len(group[0])):
            children: dict[int, dict[Node, None]] = {}
            for (batch, widths), start in starts.items():
                node = (batch, widths[:module])
                if start == module and node not in states:
                    states[node] = self._state(node)
                if start <= module:
                    children.setdefault(widths[module], {})[node] = None
            states = self._through(module, children, states)
        return {node: self._scorer.score_batch(node[0], states.pop(node), self._walk) for node in starts}

    def _through(
        self, module: int, children: dict[int, dict[Node, None]], states: dict[Node, Tensor]
    ) -> dict[Node, Tensor]:
        """Send states through a module, each at the widths that are wanted of it; they are gone afterwards."""
        layer, kind = module_of(module)
        uses = Counter(node for nodes in children.values() for node in nodes)
        after: dict[Node, Tensor] = {}
        for width in sorted(children):
            weights = self._bank.slices(module, width) if width else None
            for batch, prefix in children[width]:
                node, child = (batch, prefix), (batch, (*prefix, width))
                after[child] = self._block(layer, kind, states[node], weights)
                uses[node] -= 1
                if not uses[node]:
                    del states[node]
                if module + 1 < 2 * len(self._walk.layers):
                    self._cache.put(*child, after[child])
        if kind is BlockKind.MLP:
            self._walk.release(layer)
        return after

    def _block(self, layer: int, kind: BlockKind, state: Tensor, weights: dict[str, Tensor] | None) -> Tensor:
        if weights is None:
            return self._walk.add(kind, state, None)
        self.num_blocks_run += 1
        with torch.autocast(state.device.type, dtype=self._dtype, enabled=self._dtype is not None):
            return self._walk.block(layer, kind, state, weights)

    def _state(self, node: Node) -> Tensor:
        """Give a state that is kept; one before the first module is made where it is not."""
        batch, prefix = node
        if prefix or node in self._cache:
            return self._cache[node]
        state = self._walk.embed(self._scorer.batches[batch])
        self._cache.put(batch, prefix, state)
        return state


def _pieces(values: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


@torch.no_grad()
def score_model(model: PreTrainedModel, family: Family, walk: DecoderWalk, reference: DenseReference) -> WindowScores:
    """Score a pruned model, as it stands, on the reference's token set. `walk` is the dense model's."""
    if reference.is_of(model):
        return reference.dense_scores()
    own = DecoderWalk(model, family, source=walk)
    states = walk.last_states(reference.batches) if model is walk.model else own.last_states(reference.batches)
    return reference.joined([reference.score_batch(index, state, own) for index, state in enumerate(states)])
