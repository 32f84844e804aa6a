"""What says how good a model in training is: a loss on the selection set."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class RevisingJudge(Protocol):
    """A judge that has learned since, and would now answer otherwise what it was asked before.

    Every state that it has judged is kept, since any of them may turn out the best.
    """

    def __call__(self) -> float:
        """Give the selection loss of the trainee as it stands, nats per token."""
        ...

    def revised(self) -> Sequence[float]:
        """Give every answer so far, in order, as it would be now."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Give all that answers depend on, so that a training that was interrupted goes on alike."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""
        ...
