import re

from secateur.demo.text import generate_documents

EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
COMPARISON = re.compile(r"(\d+) is (more|less) than (\d+)")
STEP = re.compile(r"(?:Add (\d+)|Take away (\d+)|(Double) it) to get (\d+)\.")


def _arithmetic_texts(num_documents: int) -> list[str]:
    return [document.text for document in generate_documents(num_documents, seed=11) if document.domain == "arithmetic"]


def test_equations_and_comparisons_are_right() -> None:
    num_checked = 0
    for text in _arithmetic_texts(500):
        for left, operator, right, stated in EQUATION.findall(text):
            a, b = int(left), int(right)
            assert {"+": a + b, "-": a - b, "*": a * b}[operator] == int(stated)
            num_checked += 1
        for left, word, right in COMPARISON.findall(text):
            assert (int(left) > int(right)) == (word == "more")
            assert left != right
            num_checked += 1
    assert num_checked > 100


def test_chains_are_right() -> None:
    chains = [text for text in _arithmetic_texts(500) if text.startswith("Start")]
    assert len(chains) > 10
    for text in chains:
        start = re.match(r"Start with (\d+)\.", text)
        end = re.search(r"The end is (\d+)\.$", text)
        assert start is not None
        assert end is not None
        value = int(start[1])
        steps = STEP.findall(text)
        assert 3 <= len(steps) <= 6
        for added, taken, doubled, stated in steps:
            value = value * 2 if doubled else value + int(added or 0) - int(taken or 0)
            assert value == int(stated)
        assert value == int(end[1])


def test_possessions_add_up() -> None:
    texts = [text for text in _arithmetic_texts(500) if "Together" in text]
    assert len(texts) > 10
    for text in texts:
        count: dict[str, int] = {}
        for name, number in re.findall(r"(\w+) has (\d+) \w+\. (?!\w+ has \d+ now)", text)[:2]:
            count[name] = int(number)
        assert len(count) == 2
        for name, verb, number, receiver in re.findall(r"(\w+) (buys|eats|gives) (\d+)(?: to (\w+))?", text):
            count[name] += int(number) if verb == "buys" else -int(number)
            if verb == "gives":
                count[receiver] += int(number)
        for name, stated in re.findall(r"does (\w+) have\? (\d+)\.", text):
            assert count[name] == int(stated)
        total = re.search(r"Together they have (\d+)\.", text)
        assert total is not None
        assert sum(count.values()) == int(total[1])


def test_no_number_reaches_one_hundred() -> None:
    numbers = [int(number) for text in _arithmetic_texts(1000) for number in re.findall(r"\d+", text)]
    assert min(numbers) >= 0
    assert max(numbers) < 100
