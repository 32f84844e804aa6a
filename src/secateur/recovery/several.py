"""Several recoveries of one pruned model, kept as what they have made of its weights, and their greedy soup."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from secateur.recovery.soup import Tasting, greedy, kept, mean_of
from secateur.recovery.trainee import values_of
from secateur.runs.shelf import Shelf
from secateur.schema import Record

PRUNED, RECORD = "pruned", "record"


class SoupRecord(Record):
    """What a soup of a run's own recoveries is made of."""

    losses: tuple[float, ...] = Field(description="of each recovery on the selection set, nats per token")
    tried: tuple[Tasting, ...] = Field(description="soups, in order; the first is the best recovery alone")

    @property
    def best(self) -> int:
        """Place of the recovery with the least loss."""
        return self.tried[0].members[0]

    @property
    def members(self) -> tuple[int, ...]:
        """Places of those that went in."""
        return kept(self.tried).members

    @property
    def loss(self) -> float:
        """Of the soup, on the selection set."""
        return kept(self.tried).loss


class Recovered:
    """Finished recoveries of one pruned model, on a shelf: those of an earlier process are not made again.

    What is kept are the weights that a recovery has changed, merged: W + s B A of several can be averaged, A and B
    cannot. Each is kept in the model's own type.
    """

    def __init__(self, model: PreTrainedModel, shelf: Shelf) -> None:
        """Keep recoveries of a model as it stands now, or take up those that the shelf holds."""
        self._shelf = shelf
        if PRUNED not in shelf:
            shelf.put(PRUNED, values_of(dict(model.named_parameters())))

    def __contains__(self, place: int) -> bool:
        return _name(place) in self._shelf

    @torch.no_grad()
    def keep(self, place: int, model: PreTrainedModel, record: Record) -> None:
        """Put aside what a recovery has changed, and what it says of itself."""
        before = self._shelf.take(PRUNED)
        changed = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if not torch.equal(parameter, before[name].to(parameter.device))
        }
        packed = torch.frombuffer(bytearray(record.model_dump_json().encode()), dtype=torch.uint8)
        self._shelf.put(_name(place), changed | {RECORD: packed})

    def record(self, place: int) -> bytes:
        """Give the JSON of what a recovery says of itself."""
        return bytes(self._shelf.take(_name(place))[RECORD].tolist())

    @torch.no_grad()
    def set(self, model: PreTrainedModel, members: Sequence[int]) -> None:
        """Put the mean of some recoveries into a model, rounded once; the pruned weights where there are none.

        Parameters get memory of their own: a pruned model shares its embeddings and its head with the dense one.
        """
        values = self._shelf.take(PRUNED)
        changed = [self._shelf.take(_name(place)) for place in members]
        touched = {name for each in changed for name in each}
        for name, parameter in model.named_parameters():
            value: Tensor = values[name]
            if name in touched:
                value = mean_of(each.get(name, values[name]) for each in changed)
            value = value.to(parameter.device, parameter.dtype)
            if not torch.equal(value, parameter):
                parameter.data = value.clone()


def greedy_soup(model: PreTrainedModel, recovered: Recovered, count: int, judge: Callable[[], float]) -> SoupRecord:
    """Leave a model at the greedy soup of its recoveries.

    Args:
        judge: Gives the selection loss of the model as it stands.
    """

    def taste(members: tuple[int, ...]) -> float:
        recovered.set(model, members)
        return judge()

    # One by one by the same judge as every soup, so that what is compared was measured alike.
    losses = tuple(taste((place,)) for place in range(count))
    soup = SoupRecord(losses=losses, tried=greedy(losses, taste))
    recovered.set(model, soup.members)
    return soup


def _name(place: int) -> str:
    return f"recovered-{place}"
