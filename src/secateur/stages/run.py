"""A run at work, as every stage sees it."""

from dataclasses import dataclass
from functools import cached_property

from secateur.config import RunConfig
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.inputs import Inputs
from secateur.pruning.sequence import DenseStreams
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Listener
from secateur.runs.store import RunStore


@dataclass(frozen=True)
class Run:
    """A run at work: its configuration, inputs, folder, database, and who listens."""

    config: RunConfig
    inputs: Inputs
    folder: RunFolder
    store: RunStore
    listener: Listener

    @property
    def batch_windows(self) -> int:
        """Windows per forward pass."""
        return max(1, self.config.evaluation.batch_tokens // self.config.data.sequence_length)

    @cached_property
    def selection_reference(self) -> DenseReference:
        """The dense model on the selection set: what every candidate and every model that is made is held to."""
        selection = self.inputs.sets[Role.SELECTION].expect(Role.SELECTION)
        return DenseReference(self.inputs.original_walk, selection, self.batch_windows)

    @cached_property
    def calibration_streams(self) -> DenseStreams:
        """The dense model on the whole calibration set, shared by all models that are made."""
        return self.dense_streams(self.inputs.sets[Role.CALIBRATION].num_tokens)

    def dense_streams(self, max_tokens: int) -> DenseStreams:
        """Give what sequential reconstruction aims at, on at most so many calibration tokens."""
        inputs, evaluation = self.inputs, self.config.evaluation
        return DenseStreams(
            inputs.original_walk,
            inputs.sets[Role.CALIBRATION],
            evaluation.batch_tokens,
            max_tokens,
            evaluation.cache_bytes,
            inputs.channels,
        )

    @property
    def export_dtype(self) -> str:
        return self.inputs.dense.stored_dtype if self.config.export.dtype == "auto" else self.config.export.dtype

    @property
    def reconstructs_candidates(self) -> bool:
        """Whether the search may measure candidates after sequential reconstruction too."""
        config = self.config
        sequential = config.pruning.reconstruction == "sequential"
        return sequential and config.search.method == "secateur" and config.search.reconstructed_share > 0

    @property
    def bank_reconstruction(self) -> str:
        """What the bank does to the output projections; the sequential solve comes after the choice."""
        chosen = self.config.pruning.reconstruction
        return "least_squares" if chosen == "sequential" else chosen
