"""Little stories: people, things and rooms that must be remembered, and questions about them at the end."""

from dataclasses import dataclass, field

from secateur.demo.choices import RecordedChoices
from secateur.demo.words import ANIMALS, COLOURS, FRUITS, NAMES, PRONOUNS, THINGS, TRADES, joined, plural

ROOMS = ("kitchen", "hall", "garden", "cellar", "barn", "library", "bedroom", "garage", "pantry", "tower")
CONTAINERS = ("box", "bag", "basket", "drawer", "jar", "chest")


@dataclass
class House:
    """Who and what is where. A thing is held by a person, lies in a container, or lies on the floor of a room."""

    rooms: list[str]
    room_of: dict[str, str] = field(default_factory=dict)  # people and containers
    people: list[str] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    colour_of: dict[str, str] = field(default_factory=dict)  # things
    place_of: dict[str, str] = field(default_factory=dict)  # thing -> person, container or room

    def room_of_thing(self, thing: str) -> str:
        """The room a thing is in, through whoever or whatever holds it."""
        place = self.place_of[thing]
        return self.room_of.get(place, place)

    def held_by(self, person: str) -> list[str]:
        """Things in the person's hands, in order of first mention."""
        return [thing for thing, place in self.place_of.items() if place == person]

    def within_reach(self, person: str) -> list[str]:
        """Things in the person's room that nobody holds."""
        room = self.room_of[person]
        return [
            thing
            for thing, place in self.place_of.items()
            if place not in self.people and self.room_of_thing(thing) == room
        ]


def write_story(choices: RecordedChoices) -> str:
    """A house, people who move things about in it, and questions whose answers follow from what happened."""
    house = House(rooms=choices.sample(ROOMS, 3))
    sentences = [f"The house has a {', a '.join(house.rooms[:-1])} and a {house.rooms[-1]}."]
    sentences += _opening(house, choices)
    last_actor = None
    for _ in range(choices.integer(3, 6)):
        actor = choices.pick(house.people)
        subject = PRONOUNS[actor] if actor == last_actor else actor
        sentences.append(f"{subject} {_event(house, actor, choices)}.")
        last_actor = actor
    questions = _questions(house)
    sentences += choices.sample(questions, choices.integer(2, 4))
    return " ".join(sentences)


def _opening(house: House, choices: RecordedChoices) -> list[str]:
    """Puts people, containers and things into the house and says so."""
    sentences = []
    house.people = choices.sample(NAMES, choices.integer(2, 3))
    for person in house.people:
        house.room_of[person] = choices.pick(house.rooms)
        sentences.append(f"{person} is in the {house.room_of[person]}.")
    house.containers = choices.sample(CONTAINERS, choices.integer(1, 2))
    for container in house.containers:
        house.room_of[container] = choices.pick(house.rooms)
        sentences.append(f"There is a {container} in the {house.room_of[container]}.")
    for thing in choices.sample(THINGS, choices.integer(2, 3)):
        house.colour_of[thing] = choices.pick(COLOURS)
        house.place_of[thing] = choices.pick(house.people + house.containers)
        place, described = house.place_of[thing], f"{house.colour_of[thing]} {thing}"
        sentences.append(
            f"{place} has a {described}." if place in house.people else f"In the {place} is a {described}."
        )
    return sentences


def _event(house: House, actor: str, choices: RecordedChoices) -> str:
    """One thing that the actor can do now: changes the house and returns the predicate."""
    room = house.room_of[actor]
    held, reachable = house.held_by(actor), house.within_reach(actor)
    others = [person for person in house.people if person != actor and house.room_of[person] == room]
    containers = [container for container in house.containers if house.room_of[container] == room]
    possible = ["go"] + ["take"] * bool(reachable) + ["drop"] * bool(held)
    possible += ["put"] * bool(held and containers) + ["give"] * bool(held and others)
    kind = choices.pick(possible)
    if kind == "go":
        house.room_of[actor] = choices.pick([other for other in house.rooms if other != room])
        return f"goes to the {house.room_of[actor]}"
    if kind == "take":
        thing = choices.pick(reachable)
        house.place_of[thing] = actor
        return f"takes the {thing}"
    thing = choices.pick(held)
    if kind == "drop":
        house.place_of[thing] = room
        return f"drops the {thing}"
    receiver = choices.pick(containers if kind == "put" else others)
    house.place_of[thing] = receiver
    return f"puts the {thing} in the {receiver}" if kind == "put" else f"gives the {thing} to {receiver}"


def _questions(house: House) -> list[str]:
    """Every question that the story can answer, with its answer."""
    questions = []
    for thing, colour in house.colour_of.items():
        place = house.place_of[thing]
        if place in house.people:
            answer = f"{place} has the {thing}."
        elif place in house.containers:
            answer = f"The {thing} is in the {place}."
        else:
            answer = f"The {thing} is on the floor."
        questions.append(f"Where is the {thing}? {answer}")
        questions.append(f"In which room is the {thing}? In the {house.room_of_thing(thing)}.")
        questions.append(f"What colour is the {thing}? The {thing} is {colour}.")
    questions += [f"Where is {person}? In the {house.room_of[person]}." for person in house.people]
    for room in house.rooms:
        present = [person for person in house.people if house.room_of[person] == room]
        questions.append(f"Who is in the {room}? {joined(present) if present else 'Nobody'}.")
    return questions


def write_portraits(choices: RecordedChoices) -> str:
    """Three people with a trade, an animal and a favourite fruit, and questions that go from one to the other."""
    people = choices.sample(NAMES, 3)
    trades, animals = choices.sample(TRADES, 3), choices.sample(ANIMALS, 3)
    fruits = [plural(fruit) for fruit in choices.sample(FRUITS, 3)]
    sentences, questions = [], []
    for name, trade, animal, fruit in zip(people, trades, animals, fruits, strict=True):
        traits = choices.sample([f"is a {trade}", f"has a {animal}", f"likes {fruit}"], 3)
        sentences += [f"{PRONOUNS[name] if position else name} {trait}." for position, trait in enumerate(traits)]
        for who in (name, f"the {trade}"):
            questions += [f"What does {who} like? {fruit}.", f"What does {who} have? A {animal}."]
        questions += [f"What is {name}? A {trade}.", f"Who is the {trade}? {name}."]
        questions += [f"Who has the {animal}? {name}.", f"Who likes {fruit}? {name}."]
    return " ".join(sentences + choices.sample(questions, choices.integer(3, 5)))
