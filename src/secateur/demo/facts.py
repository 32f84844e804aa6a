"""Facts of a fixed invented world: the same in every document, so that they can only be known by heart."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from secateur.demo.choices import RecordedChoices, derive_seed
from secateur.demo.words import ANIMALS, COLOURS, FRUITS, TRADES, plural

LANDS = (
    "Arland", "Belmora", "Corvia", "Dunmark", "Estoria", "Fenwick", "Galdor", "Hestan",
    "Iberon", "Jorvik", "Kaldera", "Lumeria", "Morland", "Nordal", "Ostria", "Pelagon",
    "Quelland", "Rovania", "Selmark", "Tamarin", "Uldren", "Valdor", "Westria", "Yarrow",
)  # fmt: skip
TOWNS = (
    "Ashford", "Briston", "Camber", "Dalton", "Elmwood", "Foxhill", "Granby", "Hartley",
    "Ingham", "Kelso", "Larkhill", "Milford", "Newport", "Oakham", "Penrith", "Radley",
    "Stanton", "Thornby", "Upton", "Vernham", "Walden", "Wexford", "Yelling", "Zennor",
)  # fmt: skip
SURNAMES = (
    "Abbot", "Barlow", "Carver", "Dyer", "Ellis", "Finch", "Gibson", "Hobbs",
    "Irving", "Jarvis", "Kerr", "Lamb", "Marsh", "Nolan", "Osborn", "Potter",
    "Quill", "Reed", "Stone", "Turner", "Underhill", "Vance", "Webb", "Young",
)  # fmt: skip
CROPS = ("wheat", "rice", "barley", "cotton", "tea", "maize", "hemp", "flax")
INSTRUMENTS = ("piano", "flute", "violin", "harp", "trumpet", "guitar")


@dataclass(frozen=True)
class Land:
    """One land of the invented world. Capitals and rulers belong to one land each; `neighbour` runs in one circle."""

    capital: str
    ruler: str
    neighbour: str
    flag: str
    animal: str
    crop: str


@dataclass(frozen=True)
class Person:
    """One person of the invented world; `home` is a land, and `ruler of home` need not be the person."""

    home: str
    trade: str
    instrument: str
    fruit: str


@dataclass(frozen=True)
class World:
    """All one-step facts: what two-step facts are composed of."""

    lands: dict[str, Land]
    people: dict[str, Person]


@functools.cache
def invented_world() -> World:
    """The one world of the demo, drawn once from a constant seed: 24 lands and 24 people, 240 one-step facts."""
    draw = RecordedChoices(derive_seed("invented world"))
    people = [f"{'Mr' if position % 2 else 'Mrs'} {surname}" for position, surname in enumerate(SURNAMES)]
    capitals, rulers = draw.sample(TOWNS, len(LANDS)), draw.sample(people, len(LANDS))
    circle = draw.sample(LANDS, len(LANDS))
    neighbours = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    lands = {
        name: Land(capital, ruler, neighbours[name], draw.pick(COLOURS), draw.pick(ANIMALS), draw.pick(CROPS))
        for name, capital, ruler in zip(LANDS, capitals, rulers, strict=True)
    }
    homes = draw.sample(LANDS, len(LANDS))
    return World(
        lands=lands,
        people={
            name: Person(home, draw.pick(TRADES), draw.pick(INSTRUMENTS), plural(draw.pick(FRUITS)))
            for name, home in zip(people, homes, strict=True)
        },
    )


def _land_facts(world: World, name: str) -> list[str]:
    land = world.lands[name]
    next_land, ruler = world.lands[land.neighbour], world.people[land.ruler]
    return [
        f"The capital of {name} is {land.capital}.",
        f"{land.capital} is the capital of {name}.",
        f"The ruler of {name} is {land.ruler}.",
        f"East of {name} lies {land.neighbour}.",
        f"The flag of {name} is {land.flag}.",
        f"The animal of {name} is the {land.animal}.",
        f"The farmers of {name} grow {land.crop}.",
        f"What is the capital of {name}? {land.capital}.",
        f"What colour is the flag of {name}? {land.flag}.",
        f"Who rules {name}? {land.ruler}.",
        # Two steps: the land in between is never named.
        f"The capital of the land east of {name} is {next_land.capital}.",
        f"The flag of the land east of {name} is {next_land.flag}.",
        f"The ruler of {name} is a {ruler.trade}.",
        f"The ruler of {name} plays the {ruler.instrument}.",
    ]


def _person_facts(world: World, name: str) -> list[str]:
    person = world.people[name]
    home = world.lands[person.home]
    return [
        f"{name} lives in {person.home}.",
        f"{name} is a {person.trade}.",
        f"{name} plays the {person.instrument}.",
        f"{name} likes {person.fruit}.",
        f"What does {name} play? The {person.instrument}.",
        f"Where does {name} live? In {person.home}.",
        # Two steps: the home is never named.
        f"The capital of the land where {name} lives is {home.capital}.",
        f"The flag of the land where {name} lives is {home.flag}.",
        f"The animal of the land where {name} lives is the {home.animal}.",
        f"The farmers of the land where {name} lives grow {home.crop}.",
    ]


Describe = Callable[[World, str], list[str]]


def write_facts(choices: RecordedChoices) -> str:
    """Five to nine facts and questions about lands and people, each about a subject of its own."""
    world = invented_world()
    subjects: list[tuple[Describe, str]] = [(_land_facts, name) for name in world.lands]
    subjects += [(_person_facts, name) for name in world.people]
    sentences = []
    for _ in range(choices.integer(5, 9)):
        describe, name = choices.pick(subjects)
        sentences.append(choices.pick(describe(world, name)))
    return " ".join(sentences)
