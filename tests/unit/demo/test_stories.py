import re

from secateur.demo.text import generate_documents
from secateur.demo.words import PRONOUNS


class Replay:
    """Reads a story sentence by sentence and remembers where everything is; knows nothing of how it was written."""

    def __init__(self) -> None:
        self.rooms: list[str] = []
        self.room_of: dict[str, str] = {}
        self.place_of: dict[str, str] = {}
        self.colour_of: dict[str, str] = {}
        self.last_actor = ""

    def room_of_thing(self, thing: str) -> str:
        place = self.place_of[thing]
        return self.room_of.get(place, place)

    def read(self, sentence: str) -> None:
        if rooms := re.fullmatch(r"The house has a (\w+), a (\w+) and a (\w+)", sentence):
            self.rooms = list(rooms.groups())
        elif match := re.fullmatch(r"(?:There is a )?(\w+) (?:is )?in the (\w+)", sentence):
            self.room_of[match[1]] = match[2]
        elif match := re.fullmatch(r"(?:In the )?(\w+) (?:is|has) a (\w+) (\w+)", sentence):
            place, colour, thing = match.groups()
            self.place_of[thing], self.colour_of[thing] = place, colour
        else:
            self.read_event(sentence)

    def read_event(self, sentence: str) -> None:
        subject, verb, rest = sentence.split(" ", 2)
        if subject in ("He", "She"):
            assert PRONOUNS[self.last_actor] == subject
        actor = self.last_actor if subject in ("He", "She") else subject
        self.last_actor = actor
        thing = rest.split(" ")[1]
        if verb == "goes":
            self.room_of[actor] = rest.removeprefix("to the ")
            return
        if verb == "takes":
            assert self.place_of[thing] not in PRONOUNS
            assert self.room_of_thing(thing) == self.room_of[actor]
            self.place_of[thing] = actor
            return
        assert self.place_of[thing] == actor, "only what is held can be dropped, put or given"
        if verb == "drops":
            self.place_of[thing] = self.room_of[actor]
        else:
            assert verb in ("puts", "gives")
            receiver = rest.split(" ")[-1]
            assert self.room_of[receiver] == self.room_of[actor]
            self.place_of[thing] = receiver

    def answer(self, question: str) -> str:
        words = question.rstrip("?").split(" ")
        last = words[-1]
        if question.startswith("What colour"):
            return f"The {last} is {self.colour_of[last]}."
        if question.startswith("In which room"):
            return f"In the {self.room_of_thing(last)}."
        if question.startswith("Where is the"):
            place = self.place_of[last]
            if place in self.rooms:
                return f"The {last} is on the floor."
            return f"{place} has the {last}." if place in PRONOUNS else f"The {last} is in the {place}."
        if question.startswith("Where is"):
            return f"In the {self.room_of[last]}."
        assert question.startswith("Who is in the")
        return self.people_in(last)

    def people_in(self, room: str) -> str:
        present = [person for person, where in self.room_of.items() if where == room and person in PRONOUNS]
        if not present:
            return "Nobody."
        return " and ".join([", ".join(present[:-1]), present[-1]] if len(present) > 1 else present) + "."


def test_answers_follow_from_the_story() -> None:
    stories = [document.text for document in generate_documents(600, seed=21) if document.domain == "story"]
    assert len(stories) > 50
    num_answers = 0
    for text in stories:
        replay = Replay()
        sentences = re.findall(r"[^.?]+[.?]", text)
        question = ""
        for sentence in (sentence.strip() for sentence in sentences):
            if sentence.endswith("?"):
                question = sentence
            elif question:
                assert sentence == replay.answer(question), text
                question, num_answers = "", num_answers + 1
            else:
                replay.read(sentence.rstrip("."))
    assert num_answers > 2 * len(stories)


def test_portrait_answers_follow_from_the_portraits() -> None:
    portraits = [document.text for document in generate_documents(600, seed=22) if document.domain == "portrait"]
    assert len(portraits) > 30
    for text in portraits:
        body, _, questions = text.partition("What") if "What" in text else text.partition("Who")
        name, trade_of, likes, has = "", {}, {}, {}
        for subject, verb, attribute in re.findall(r"(\w+) (is a|has a|likes) (\w+)\.", text):
            name = name if subject in ("He", "She") else subject
            {"is a": trade_of, "has a": has, "likes": likes}[verb][name] = attribute
        assert len(trade_of) == len(likes) == len(has) == 3, body
        who = {trade: name for name, trade in trade_of.items()}
        for asked, verb, answer in re.findall(r"What does (?:the )?(\w+) (like|have)\? (?:A )?(\w+)\.", text):
            assert {"like": likes, "have": has}[verb][who.get(asked, asked)] == answer
        for asked, answer in re.findall(r"Who is the (\w+)\? (\w+)\.", text):
            assert who[asked] == answer
        for asked, answer in re.findall(r"Who has the (\w+)\? (\w+)\.", text):
            assert has[answer] == asked
        for asked, answer in re.findall(r"Who likes (\w+)\? (\w+)\.", text):
            assert likes[answer] == asked
        for asked, answer in re.findall(r"What is (\w+)\? A (\w+)\.", text):
            assert trade_of[asked] == answer
        assert questions
