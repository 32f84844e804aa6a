"""`recovery-front/`: one recovery for the points of a front, and whether there is one."""

from pathlib import Path

from pydantic import Field
from safetensors.torch import load_file

from secateur.recipe import Recipe
from secateur.recovery.shared import SharedLoss, SharedRecord
from secateur.recovery.shared_adapters import SharedAdapters
from secateur.runs.folder import RunFolder
from secateur.runs.records import read_record
from secateur.schema import Record
from secateur.space.architecture import Architecture


class FrontRequest(Record):
    """What was asked for; a recovery that is interrupted goes on with nothing else."""

    recipe: Recipe
    points: tuple[int, ...] = Field(description="of the front, by number")
    between: int = Field(description="other architectures that took steps, drawn from what the search measured")
    recovery_set: str = Field(description="fingerprint of the text that was trained on")


class RecoveredPoint(Record):
    """A point of the front before and after the recovery."""

    number: int = Field(description="K of `secateur export DIR --point K`")
    architecture: Architecture
    decoder_parameters: int
    loss: SharedLoss


class FrontRecovery(Record):
    """`recovery-front/record.json`: written last, so that its presence marks a recovery that has ended."""

    request: FrontRequest
    points: tuple[RecoveredPoint, ...]
    shared: SharedRecord

    def recovers(self, number: int) -> bool:
        """Say whether a point was among those that were recovered, and gained by it."""
        return any(point.number == number and point.loss.recovered for point in self.points)


def request_file(folder: RunFolder) -> Path:
    return folder.front_recovery / "request.json"


def record_file(folder: RunFolder) -> Path:
    return folder.front_recovery / "record.json"


def adapters_file(folder: RunFolder) -> Path:
    return folder.front_recovery / "adapters.safetensors"


def read_front_recovery(folder: RunFolder) -> FrontRecovery | None:
    """Read the recovery of a run's front; None where there is none, or it has not ended."""
    path = record_file(folder)
    return read_record(path, FrontRecovery) if path.is_file() else None


def read_front_adapters(folder: RunFolder, recovery: FrontRecovery) -> SharedAdapters:
    """Read the adapters of a recovery that has ended."""
    recipe = recovery.request.recipe
    return SharedAdapters.of_tensors(load_file(adapters_file(folder)), recipe.alpha / recipe.rank)
