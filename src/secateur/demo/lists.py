"""Lists: ordering, reversing, repeating, counting, picking out. Every answer follows from the list before it."""

from collections.abc import Callable

from secateur.demo.choices import RecordedChoices
from secateur.demo.words import ANIMALS, COLOURS, FRUITS, THINGS, TRADES

CATEGORIES = (ANIMALS, COLOURS, FRUITS, THINGS, TRADES)
ITEMS = ANIMALS + COLOURS + FRUITS + THINGS


def _listed(items: list[str]) -> str:
    return ", ".join(items)


def _numbers(choices: RecordedChoices) -> list[int]:
    return choices.sample(range(1, 40), choices.integer(3, 5))


def _words(choices: RecordedChoices) -> list[str]:
    return choices.sample(ITEMS, choices.integer(3, 5))


def _ascending(choices: RecordedChoices) -> str:
    numbers = _numbers(choices)
    return f"From small to large: {_listed([*map(str, numbers)])} becomes {_listed([*map(str, sorted(numbers))])}."


def _descending(choices: RecordedChoices) -> str:
    numbers = _numbers(choices)
    ordered = sorted(numbers, reverse=True)
    return f"From large to small: {_listed([*map(str, numbers)])} becomes {_listed([*map(str, ordered)])}."


def _largest(choices: RecordedChoices) -> str:
    numbers = _numbers(choices)
    return f"The largest of {_listed([*map(str, numbers)])} is {max(numbers)}."


def _alphabetical(choices: RecordedChoices) -> str:
    words = _words(choices)
    return f"In alphabetical order: {_listed(words)} becomes {_listed(sorted(words))}."


def _reversed(choices: RecordedChoices) -> str:
    words = _words(choices)
    return f"Backwards: {_listed(words)} becomes {_listed(words[::-1])}."


def _repeated(choices: RecordedChoices) -> str:
    words = _words(choices)
    return f"Once more: {_listed(words)} becomes {_listed(words)}."


def _counted(choices: RecordedChoices) -> str:
    # Both words come first, so that the text tells in which order they were drawn.
    words = choices.sample(ITEMS, 2)
    items = words + [choices.pick(words) for _ in range(choices.integer(1, 5))]
    target = choices.pick(words)
    return f"The list {_listed(items)} has {target} {items.count(target)} times."


def _odd_one_out(choices: RecordedChoices) -> str:
    category, other = choices.sample(CATEGORIES, 2)
    items = choices.sample(category, 3)
    intruder = choices.pick(other)
    items.insert(choices.integer(0, 3), intruder)
    return f"The odd one of {_listed(items)} is {intruder}."


def _neighbour(choices: RecordedChoices) -> str:
    words = choices.sample(ITEMS, choices.integer(4, 6))
    position = choices.integer(0, len(words) - 2)
    if choices.pick((True, False)):
        return f"In {_listed(words)} the word after {words[position]} is {words[position + 1]}."
    return f"In {_listed(words)} the word before {words[position + 1]} is {words[position]}."


TASKS: dict[str, Callable[[RecordedChoices], str]] = {
    "ascending": _ascending,
    "descending": _descending,
    "largest": _largest,
    "alphabetical": _alphabetical,
    "reversed": _reversed,
    "repeated": _repeated,
    "counted": _counted,
    "odd one out": _odd_one_out,
    "neighbour": _neighbour,
}


def write_lists(choices: RecordedChoices) -> str:
    """Three to five tasks on lists, one a line."""
    return "\n".join(TASKS[choices.pick(tuple(TASKS))](choices) for _ in range(choices.integer(3, 5)))
