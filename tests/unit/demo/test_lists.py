import re

import pytest

from secateur.demo.choices import RecordedChoices
from secateur.demo.lists import CATEGORIES, TASKS
from secateur.demo.text import generate_documents


def _items(text: str) -> list[str]:
    return text.split(", ")


@pytest.mark.parametrize(
    ("task", "opening"),
    [
        ("ascending", "From small to large: "),
        ("descending", "From large to small: "),
        ("alphabetical", "In alphabetical order: "),
        ("reversed", "Backwards: "),
        ("repeated", "Once more: "),
    ],
)
def test_rearranged_lists(task: str, opening: str) -> None:
    for seed in range(100):
        line = TASKS[task](RecordedChoices(seed))
        given, _, answer = line.removeprefix(opening).removesuffix(".").partition(" becomes ")
        expected = {
            "ascending": sorted(_items(given), key=lambda item: int(item) if item.isdigit() else 0),
            "descending": sorted(_items(given), key=lambda item: -int(item) if item.isdigit() else 0),
            "alphabetical": sorted(_items(given)),
            "reversed": list(reversed(_items(given))),
            "repeated": _items(given),
        }[task]
        assert line.startswith(opening)
        assert _items(answer) == expected


def test_picked_items() -> None:
    category_of = {item: position for position, items in enumerate(CATEGORIES) for item in items}
    for seed in range(200):
        line = TASKS["largest"](RecordedChoices(seed))
        *numbers, answer = map(int, re.findall(r"\d+", line))
        assert answer == max(numbers)

        line = TASKS["counted"](RecordedChoices(seed))
        match = re.fullmatch(r"The list (.+) has (\w+) (\d) times\.", line)
        assert match is not None
        assert _items(match[1]).count(match[2]) == int(match[3])

        line = TASKS["odd one out"](RecordedChoices(seed))
        match = re.fullmatch(r"The odd one of (.+) is (\w+)\.", line)
        assert match is not None
        rest = [category_of[item] for item in _items(match[1]) if item != match[2]]
        assert len(rest) == 3
        assert len(set(rest)) == 1
        assert category_of[match[2]] != rest[0]

        line = TASKS["neighbour"](RecordedChoices(seed))
        match = re.fullmatch(r"In (.+) the word (after|before) (\w+) is (\w+)\.", line)
        assert match is not None
        items = _items(match[1])
        assert items.index(match[4]) - items.index(match[3]) == (1 if match[2] == "after" else -1)


def test_every_task_comes_up_in_documents() -> None:
    text = "\n".join(document.text for document in generate_documents(300, seed=41) if document.domain == "lists")
    for phrase in ("small to large", "large to small", "largest", "alphabetical", "Backwards", "Once more", "times"):
        assert phrase in text
    assert "odd one" in text
    assert "the word before" in text
    assert "the word after" in text
