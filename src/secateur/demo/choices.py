"""The one door through which randomness enters the synthetic text, so that its entropy is known."""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import TypeVar

Option = TypeVar("Option")


def derive_seed(*parts: int | str) -> int:
    """Hash the parts into a 64-bit seed: the same parts give the same seed, in any process and on any machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


class RecordedChoices:
    """Draws at random and adds up how surprising the draws were.

    After any number of draws, `surprisal` is the sum of `-log(probability)` of the options taken, in nats. The mean
    surprisal of many texts bounds the entropy of the text from above, and equals it where a text can be derived in
    one way only.

    Everything rests on `random.Random.random`, the one method whose sequence Python promises to keep for a seed.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.surprisal = 0.0

    def pick(self, options: Sequence[Option]) -> Option:
        """One option, all equally likely.

        Raises:
            ValueError: There is no option.
        """
        if not options:
            raise ValueError("pick needs at least one option, but got none")
        self.surprisal += math.log(len(options))
        return options[int(self._random.random() * len(options))]

    def pick_weighted(self, weights: dict[Option, float]) -> Option:
        """One key, with probability proportional to its positive weight.

        Raises:
            ValueError: There is no option.
        """
        total = sum(weights.values())
        position = self._random.random() * total
        chosen = None
        for option, weight in weights.items():
            # Where rounding leaves `position` at zero after all weights, the last option is the one drawn.
            chosen = option, weight
            position -= weight
            if position < 0:
                break
        if chosen is None:
            raise ValueError("pick_weighted needs at least one option, but got none")
        option, weight = chosen
        self.surprisal -= math.log(weight / total)
        return option

    def integer(self, low: int, high: int) -> int:
        """One integer of `low..high`, both ends included, all equally likely."""
        return self.pick(range(low, high + 1))

    def sample(self, options: Sequence[Option], num_samples: int) -> list[Option]:
        """Different options in random order; every ordered selection is equally likely.

        The order is paid for: use it in the text, or the surprisal is larger than the entropy.
        """
        if num_samples > len(options):
            raise ValueError(f"`num_samples <= {len(options)}` must hold, but got num_samples={num_samples}")
        remaining = list(options)
        taken = []
        for _ in range(num_samples):
            chosen = self.pick(range(len(remaining)))
            taken.append(remaining.pop(chosen))
        return taken
