"""The synthetic English of the demo: documents of several domains, with their exact surprisal."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from secateur.demo.arithmetic import write_chain, write_equations, write_possessions
from secateur.demo.choices import RecordedChoices, derive_seed
from secateur.demo.facts import write_facts
from secateur.demo.grammar import write_grammar
from secateur.demo.lists import write_lists
from secateur.demo.stories import write_portraits, write_story


@dataclass(frozen=True)
class Document:
    """One text, where it comes from, and how improbable it was.

    Attributes:
        surprisal: -log of the probability of the random choices behind the text, in nats, the choice of the domain
            included. Its mean over documents bounds the entropy of a document from above.
    """

    text: str
    domain: str
    surprisal: float


@dataclass(frozen=True)
class Domain:
    """A kind of document: how often it comes (relative weight) and the ways of writing one, all equally likely."""

    weight: float
    writers: tuple[Callable[[RecordedChoices], str], ...]


DOMAINS: dict[str, Domain] = {
    "story": Domain(0.24, (write_story,)),
    "portrait": Domain(0.15, (write_portraits,)),
    "facts": Domain(0.18, (write_facts,)),
    "arithmetic": Domain(0.20, (write_equations, write_chain, write_possessions)),
    "lists": Domain(0.15, (write_lists,)),
    "grammar": Domain(0.08, (write_grammar,)),
}


def generate_document(seed: int, index: int) -> Document:
    """Document `index` of the endless stream of a seed; depends on nothing else."""
    choices = RecordedChoices(derive_seed("document", seed, index))
    domain = choices.pick_weighted({name: domain.weight for name, domain in DOMAINS.items()})
    writer = choices.pick(DOMAINS[domain].writers)
    text = writer(choices)
    return Document(text=text, domain=domain, surprisal=choices.surprisal)


def generate_documents(num_documents: int, seed: int, first_index: int = 0) -> list[Document]:
    """Documents `first_index` to `first_index + num_documents - 1` of the stream of a seed.

    Streams of different seeds are independent draws of the same text: use one seed per role (calibration, selection,
    evaluation). The shipped decoder was trained on seed 0, see `training_log.jsonl` beside its weights.

    Raises:
        ValueError: A count or an index is negative.
    """
    if num_documents < 0 or first_index < 0:
        raise ValueError(
            "`num_documents >= 0` and `first_index >= 0` must hold, "
            f"but got num_documents={num_documents}, first_index={first_index}"
        )
    return [generate_document(seed, first_index + offset) for offset in range(num_documents)]


def stream_documents(seed: int, first_index: int = 0) -> Iterator[Document]:
    """The endless stream of a seed, from document `first_index` on."""
    index = first_index
    while True:
        yield generate_document(seed, index)
        index += 1
