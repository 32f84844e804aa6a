"""Hidden states of candidates that were measured before, for those that begin like them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

# Widths of the first modules: what decides the hidden state behind them.
Prefix = tuple[int, ...]


@dataclass
class _Kept:
    state: Tensor
    used: int


class PrefixCache:
    """Hidden states by batch and prefix, within a number of bytes.

    Of what was used in the same pass the states behind few modules stay rather than those behind many, because more
    candidates begin like them; what was used in none of the latest passes goes first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._pass = 0
        self._kept: dict[tuple[int, Prefix], _Kept] = {}
        self._oldest: Iterator[tuple[int, Prefix]] = iter(())

    @property
    def num_bytes(self) -> int:
        return self._bytes

    def begin_pass(self) -> None:
        """Begin to measure other candidates: what they do not use may go for what they do."""
        self._pass += 1
        self._oldest = iter(sorted(self._kept, key=lambda key: (self._kept[key].used, -len(key[1]))))

    def deepest(self, batch: int, widths: Prefix) -> int:
        """Give how many modules are behind the furthest state that is kept; 0 if none. All on the way count as used."""
        deepest = 0
        for depth in range(len(widths)):
            kept = self._kept.get((batch, widths[:depth]))
            if kept is not None:
                kept.used, deepest = self._pass, depth
        return deepest

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __getitem__(self, key: tuple[int, Prefix]) -> Tensor:
        return self._kept[key].state

    def put(self, batch: int, prefix: Prefix, state: Tensor) -> None:
        """Keep a state, if there is room or something older that can go."""
        key = (batch, prefix)
        size = state.numel() * state.element_size()
        if key in self._kept or size > self._max_bytes:
            return
        while self._bytes + size > self._max_bytes:
            oldest = next((each for each in self._oldest if self._kept[each].used < self._pass), None)
            if oldest is None:
                return
            gone = self._kept.pop(oldest).state
            self._bytes -= gone.numel() * gone.element_size()
        self._kept[key] = _Kept(state, self._pass)
        self._bytes += size
