"""Grammar: one sentence and its other forms, with agreement and irregular verbs and nouns."""

from collections.abc import Callable
from dataclasses import dataclass

from secateur.demo.choices import RecordedChoices

PLURALS = {
    "dog": "dogs",
    "cat": "cats",
    "mouse": "mice",
    "goose": "geese",
    "wolf": "wolves",
    "child": "children",
    "man": "men",
    "woman": "women",
    "king": "kings",
    "baby": "babies",
    "thief": "thieves",
    "horse": "horses",
    "fox": "foxes",
}
ADJECTIVES = ("old", "young", "small", "tall", "quick", "lazy", "happy", "angry")


@dataclass(frozen=True)
class Verb:
    """The four forms that the templates need, as in `see, sees, saw, seen`."""

    base: str
    present: str
    past: str
    participle: str


VERBS = (
    Verb("see", "sees", "saw", "seen"),
    Verb("hear", "hears", "heard", "heard"),
    Verb("find", "finds", "found", "found"),
    Verb("catch", "catches", "caught", "caught"),
    Verb("bite", "bites", "bit", "bitten"),
    Verb("know", "knows", "knew", "known"),
    Verb("lose", "loses", "lost", "lost"),
    Verb("hide", "hides", "hid", "hidden"),
    Verb("leave", "leaves", "left", "left"),
    Verb("forget", "forgets", "forgot", "forgotten"),
    Verb("follow", "follows", "followed", "followed"),
    Verb("help", "helps", "helped", "helped"),
    Verb("choose", "chooses", "chose", "chosen"),
    Verb("draw", "draws", "drew", "drawn"),
)


@dataclass(frozen=True)
class NounPhrase:
    """`the angry wolves`: an adjective, a noun by its singular, and its number."""

    adjective: str
    noun: str
    is_plural: bool

    def __str__(self) -> str:
        return f"the {self.adjective} {PLURALS[self.noun] if self.is_plural else self.noun}"

    @property
    def in_other_number(self) -> "NounPhrase":
        """The same noun, plural instead of singular or the other way round."""
        return NounPhrase(self.adjective, self.noun, not self.is_plural)


@dataclass(frozen=True)
class Clause:
    """Who does what to whom."""

    subject: NounPhrase
    verb: Verb
    target: NounPhrase

    def __str__(self) -> str:
        return f"{self.subject} {self.verb.base if self.subject.is_plural else self.verb.present} {self.target}"


def _negative(clause: Clause) -> str:
    return f"{clause.subject} {'do' if clause.subject.is_plural else 'does'} not {clause.verb.base} {clause.target}"


def _passive(clause: Clause) -> str:
    auxiliary = "are" if clause.target.is_plural else "is"
    return f"{clause.target} {auxiliary} {clause.verb.participle} by {clause.subject}"


def _past_passive(clause: Clause) -> str:
    auxiliary = "were" if clause.target.is_plural else "was"
    return f"{clause.target} {auxiliary} {clause.verb.participle} by {clause.subject}"


def _question(clause: Clause) -> str:
    return f"{'do' if clause.subject.is_plural else 'does'} {clause.subject} {clause.verb.base} {clause.target}?"


FORMS: dict[str, Callable[[Clause], str]] = {
    "Past": lambda clause: f"{clause.subject} {clause.verb.past} {clause.target}",
    "Future": lambda clause: f"{clause.subject} will {clause.verb.base} {clause.target}",
    "Negative": _negative,
    "Passive": _passive,
    "Past passive": _past_passive,
    "Question": _question,
    "Reverse": lambda clause: str(Clause(clause.target, clause.verb, clause.subject)),
    "Other number": lambda clause: str(Clause(clause.subject.in_other_number, clause.verb, clause.target)),
}


def _sentence(words: str) -> str:
    capital = words[0].upper() + words[1:]
    return capital if words.endswith("?") else f"{capital}."


def write_grammar(choices: RecordedChoices) -> str:
    """One sentence and three to five of its other forms, each after its name, one a line."""
    # No noun looks the same in both numbers, as sheep does: its number would be drawn, paid for, and not seen.
    clause = Clause(_noun_phrase(choices), choices.pick(VERBS), _noun_phrase(choices))
    lines = [f"Sentence: {_sentence(str(clause))}"]
    forms = choices.sample(tuple(FORMS), choices.integer(3, 5))
    lines += [f"{form}: {_sentence(FORMS[form](clause))}" for form in forms]
    return "\n".join(lines)


def _noun_phrase(choices: RecordedChoices) -> NounPhrase:
    return NounPhrase(choices.pick(ADJECTIVES), choices.pick(tuple(PLURALS)), choices.pick((False, True)))
