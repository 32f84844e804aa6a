"""Named protocols: how a text becomes windows, and which predictions in them count."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from secateur.errors import ConfigError


@dataclass(frozen=True)
class Window:
    """Tokens `start` to `end` of a text, run by themselves; predictions of the tokens from `first` on count."""

    start: int
    first: int
    end: int


@dataclass(frozen=True)
class TextProtocol:
    """A protocol by name.

    Attributes:
        length: Tokens per window, at most.
        stride: From one window to the next; None where windows do not overlap and a remainder is dropped.
    """

    name: str
    length: int
    stride: int | None = None

    def windows(self, num_tokens: int) -> list[Window]:
        """Cut a text of so many tokens.

        `ppl-N`: windows of N tokens one behind the other, the remainder dropped; the first token of each has no context
        and is not predicted.

        `sliding-N-S`: each window begins S tokens after the one before and predicts what that did not reach, so that
        every token after the first is predicted once, with N - S tokens of context or more. The last window ends with
        the text. With S = N nothing overlaps: that is `ppl-N` with the remainder, and each window's first token is not
        predicted there either.

        Source:
            ppl: `secateur.data.perplexity_windows`. sliding: "Perplexity of fixed-length models" in transformers'
            documentation (whose mean gives every token the same weight, as here).
        """
        if self.stride is None:
            return [
                Window(start, start + 1, start + self.length)
                for start in range(0, num_tokens - self.length + 1, self.length)
            ]
        windows: list[Window] = []
        reached = 0
        for start in range(0, num_tokens, self.stride):
            end = min(start + self.length, num_tokens)
            first = max(reached, start + 1)
            if first < end:
                windows.append(Window(start, first, end))
            reached = end
            if end == num_tokens:
                break
        return windows

    def blocks(self, windows: list[Window]) -> list[int]:
        """Give the block of each window, which the bootstrap draws as one.

        A window of `ppl-N` is a block. Neighbours that slide share most of their context, so as many of them form a
        block as predict N tokens together.
        """
        if self.stride is None:
            return list(range(len(windows)))
        return [(window.first - 1) // self.length for window in windows]

    @property
    def statement(self) -> str:
        """Say what a figure of this protocol is."""
        if self.stride is None:
            return (
                f"{self.name}: rows joined by a blank line, tokenised once, windows of {self.length} tokens without "
                "overlap, the remainder dropped"
            )
        return (
            f"{self.name}: rows joined by a blank line, tokenised once, windows of {self.length} tokens that slide by "
            f"{self.stride}, every token after the first predicted once"
        )


def _ppl(name: str, length: int) -> TextProtocol:
    if length < 2:
        raise ConfigError(f"protocol {name!r}: a window needs 2 tokens or more, got {length}")
    return TextProtocol(name, length)


def _sliding(name: str, length: int, stride: int) -> TextProtocol:
    if length < 2 or not 1 <= stride <= length:
        raise ConfigError(f"protocol {name!r}: 1 <= stride <= window must hold, and a window needs 2 tokens or more")
    return TextProtocol(name, length, stride)


# Pattern of the name, and what makes the protocol of its numbers.
FORMS: dict[str, tuple[str, Callable[..., TextProtocol]]] = {
    "ppl-N": (r"ppl-(\d+)", _ppl),
    "sliding-N-S": (r"sliding-(\d+)-(\d+)", _sliding),
}


def find_protocol(name: str) -> TextProtocol:
    """Give the protocol of a name such as `ppl-128`, `ppl-2048` or `sliding-512-256`.

    Raises:
        ConfigError: The name has no known form, or its numbers make no sense.
    """
    for pattern, make in FORMS.values():
        match = re.fullmatch(pattern, name)
        if match:
            return make(name, *map(int, match.groups()))
    raise ConfigError(
        f"unknown protocol {name!r}; known forms: {', '.join(FORMS)} (N tokens per window, S from one to the next), "
        "such as ppl-128 or sliding-512-256"
    )
