import re
from collections import defaultdict

from secateur.demo.facts import LANDS, SURNAMES, invented_world
from secateur.demo.text import generate_documents

# relation -> pattern with the subject first and the value second
ONE_STEP = {
    "capital": r"(?:The capital of|What is the capital of) (\w+)(?: is|\?) (\w+)",
    "ruler": r"(?:The ruler of|Who rules) (\w+)(?: is|\?) (M\w+ \w+)",
    "neighbour": r"East of (\w+) lies (\w+)",
    "flag": r"(?:The flag of|What colour is the flag of) (\w+)(?: is|\?) (\w+)",
    "animal": r"The animal of (\w+) is the (\w+)",
    "crop": r"The farmers of (\w+) grow (\w+)",
    "home": r"(?:Where does )?(M\w+ \w+) (?:lives in|live\? In) (\w+)",
    "trade": r"(M\w+ \w+) is a (\w+)",
    "instrument": r"(?:What does )?(M\w+ \w+) (?:plays the|play\? The) (\w+)",
    "fruit": r"(M\w+ \w+) likes (\w+)",
}
# relation -> pattern, the relation that leads to the land or person in between, and the one that leads on
TWO_STEPS = {
    r"The capital of the land east of (\w+) is (\w+)": ("neighbour", "capital"),
    r"The flag of the land east of (\w+) is (\w+)": ("neighbour", "flag"),
    r"The ruler of (\w+) is a (\w+)": ("ruler", "trade"),
    r"The ruler of (\w+) plays the (\w+)": ("ruler", "instrument"),
    r"The capital of the land where (M\w+ \w+) lives is (\w+)": ("home", "capital"),
    r"The flag of the land where (M\w+ \w+) lives is (\w+)": ("home", "flag"),
    r"The animal of the land where (M\w+ \w+) lives is the (\w+)": ("home", "animal"),
    r"The farmers of the land where (M\w+ \w+) lives grow (\w+)": ("home", "crop"),
}


def _sentences() -> list[str]:
    texts = [document.text for document in generate_documents(4000, seed=31) if document.domain == "facts"]
    return [sentence for text in texts for sentence in re.findall(r"[A-Z][^.]+\.", text.replace("Mr ", "Mr_"))]


def test_facts_agree_across_documents_and_two_steps_compose() -> None:
    stated: dict[str, dict[str, set[str]]] = {relation: defaultdict(set) for relation in ONE_STEP}
    composed = []
    for sentence in (sentence.replace("Mr_", "Mr ").rstrip(".") for sentence in _sentences()):
        for pattern, (first, second) in TWO_STEPS.items():
            if match := re.fullmatch(pattern, sentence):
                composed.append((match[1], first, second, match[2]))
        for relation, pattern in ONE_STEP.items():
            if match := re.fullmatch(pattern, sentence):
                stated[relation][match[1]].add(match[2])
        if match := re.fullmatch(r"(\w+) is the capital of (\w+)", sentence):
            stated["capital"][match[2]].add(match[1])
    assert all(len(values) == 1 for facts in stated.values() for values in facts.values())
    assert sum(len(facts) for facts in stated.values()) == 240, "every fact comes up"
    known = {relation: {name: min(values) for name, values in facts.items()} for relation, facts in stated.items()}
    assert len(composed) > 1000
    for subject, first, second, value in composed:
        assert known[second][known[first][subject]] == value


def test_every_sentence_is_a_known_kind_of_fact() -> None:
    patterns = [*ONE_STEP.values(), *TWO_STEPS, r"(\w+) is the capital of (\w+)"]
    for sentence in _sentences():
        plain = sentence.replace("Mr_", "Mr ").rstrip(".")
        assert any(re.fullmatch(pattern, plain) for pattern in patterns), plain


def test_world_has_one_capital_and_one_ruler_per_land_and_one_circle_of_neighbours() -> None:
    world = invented_world()
    assert len(world.lands) == len(LANDS)
    assert len(world.people) == len(SURNAMES)
    assert len({land.capital for land in world.lands.values()}) == len(LANDS)
    assert {land.ruler for land in world.lands.values()} == set(world.people)
    visited, name = set(), LANDS[0]
    while name not in visited:
        visited.add(name)
        name = world.lands[name].neighbour
    assert visited == set(LANDS)
