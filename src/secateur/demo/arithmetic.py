"""Arithmetic with numbers below one hundred: equations, chains of steps, and counting of possessions."""

from secateur.demo.choices import RecordedChoices
from secateur.demo.words import FRUITS, NAMES, PRONOUNS, plural


def write_equations(choices: RecordedChoices) -> str:
    """Five to ten unrelated equations and comparisons, one a line."""
    return "\n".join(_equation(choices) for _ in range(choices.integer(5, 10)))


def _equation(choices: RecordedChoices) -> str:
    kind = choices.pick(("sum", "difference", "product", "comparison"))
    if kind == "sum":
        left, right = choices.integer(1, 49), choices.integer(1, 49)
        return f"{left} + {right} = {left + right}"
    if kind == "difference":
        left = choices.integer(1, 60)
        right = choices.integer(1, left)
        return f"{left} - {right} = {left - right}"
    if kind == "product":
        left, right = choices.integer(2, 9), choices.integer(2, 9)
        return f"{left} * {right} = {left * right}"
    left = choices.integer(1, 99)
    right = choices.pick([number for number in range(1, 100) if number != left])
    return f"{left} is {'more' if left > right else 'less'} than {right}"


def write_chain(choices: RecordedChoices) -> str:
    """A number and three to six steps from it, with every result in between."""
    value = choices.integer(2, 20)
    sentences = [f"Start with {value}."]
    for _ in range(choices.integer(3, 6)):
        possible = ["add"] * (value <= 79) + ["take"] * (value >= 2) + ["double"] * (value <= 49)
        kind = choices.pick(possible)
        if kind == "add":
            step = choices.integer(1, 20)
            value += step
            sentences.append(f"Add {step} to get {value}.")
        elif kind == "take":
            step = choices.integer(1, min(value, 20))
            value -= step
            sentences.append(f"Take away {step} to get {value}.")
        else:
            value *= 2
            sentences.append(f"Double it to get {value}.")
    return " ".join([*sentences, f"The end is {value}."])


def write_possessions(choices: RecordedChoices) -> str:
    """Two people who gain, lose and hand over fruit; the counts at the end must be worked out on the way."""
    people = choices.sample(NAMES, 2)
    fruit = plural(choices.pick(FRUITS))
    count = {person: choices.integer(3, 12) for person in people}
    sentences = [f"{person} has {count[person]} {fruit}." for person in people]
    for _ in range(choices.integer(2, 4)):
        actor = choices.pick(people)
        kind = choices.pick(("buy", "eat", "give") if count[actor] >= 2 else ("buy",))
        amount = choices.integer(2, 9) if kind == "buy" else choices.integer(1, min(count[actor], 9))
        if kind == "buy":
            count[actor] += amount
            sentences.append(f"{actor} buys {amount} more. {PRONOUNS[actor]} has {count[actor]} now.")
            continue
        count[actor] -= amount
        if kind == "eat":
            sentences.append(f"{actor} eats {amount}. {PRONOUNS[actor]} has {count[actor]} now.")
            continue
        receiver = people[1 - people.index(actor)]
        count[receiver] += amount
        sentences.append(f"{actor} gives {amount} to {receiver}. {receiver} has {count[receiver]} now.")
    sentences += [f"How many {fruit} does {person} have? {count[person]}." for person in people]
    sentences.append(f"Together they have {sum(count.values())}.")
    return " ".join(sentences)
