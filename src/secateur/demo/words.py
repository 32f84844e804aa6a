"""Words that more than one domain of the synthetic text uses."""

from collections.abc import Sequence

PRONOUNS = {
    "Anna": "She",
    "Ben": "He",
    "Clara": "She",
    "David": "He",
    "Emma": "She",
    "Frank": "He",
    "Grace": "She",
    "Henry": "He",
    "Ida": "She",
    "Jack": "He",
    "Kate": "She",
    "Leo": "He",
    "Mary": "She",
    "Nick": "He",
    "Olga": "She",
    "Paul": "He",
    "Rose": "She",
    "Sam": "He",
    "Tina": "She",
    "Victor": "He",
}
NAMES = tuple(PRONOUNS)
COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "pink")
THINGS = ("key", "cup", "book", "ball", "hat", "lamp", "coin", "ring", "map", "bell", "shoe", "pen", "rope", "drum")
ANIMALS = ("cat", "dog", "horse", "goat", "rabbit", "duck", "wolf", "bear", "fox", "crow", "frog", "mouse")
FRUITS = ("plum", "pear", "cherry", "lemon", "grape", "melon", "peach", "fig")
TRADES = ("baker", "farmer", "doctor", "teacher", "painter", "singer", "sailor", "tailor", "miller", "driver")


def joined(words: Sequence[str]) -> str:
    """The words as an English enumeration: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def plural(noun: str) -> str:
    """The plural of a regular noun ending in `-y` or `-ch` after a consonant, or taking a plain `s`."""
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"
