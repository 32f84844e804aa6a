"""A run at work, as every stage sees it."""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version

import torch

from secateur.config import RunConfig
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.precision import measuring_dtype
from secateur.evaluation.stitched import Memory, Part, Score, Scorer, StitchedModel
from secateur.inputs import Inputs
from secateur.pruning.bank import WeightBank
from secateur.pruning.sequence import DenseStreams
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Listener
from secateur.runs.store import RunStore
from secateur.search.halving import SHARES
from secateur.stages.workers import Told, Workers


@dataclass(frozen=True)
class Run:
    """A run at work: its configuration, inputs, folder, database, who listens, and who measures.

    Attributes:
        workers: None where candidates are measured in this process.
    """

    config: RunConfig
    inputs: Inputs
    folder: RunFolder
    store: RunStore
    listener: Listener
    workers: Workers | None = None

    @property
    def told(self) -> Told:
        """What workers of the run are told, and what they must then see."""
        inputs = self.inputs
        versions = {name: version(name) for name in ("secateur", "torch", "transformers")}
        sees = ", ".join(f"{name} {value}" for name, value in (versions | inputs.fingerprints).items())
        return Told(self.folder, inputs.dense.shape.hidden_size if inputs.narrowed else None, sees)

    @property
    def batch_windows(self) -> int:
        """Windows per forward pass."""
        return max(1, self.config.evaluation.batch_tokens // self.config.data.sequence_length)

    @cached_property
    def selection_reference(self) -> DenseReference:
        """The dense model on the selection set: what every candidate and every model that is made is held to."""
        selection = self.inputs.sets[Role.SELECTION].expect(Role.SELECTION)
        # Halving runs batch by batch.
        windows = math.ceil(len(selection.tokens) * SHARES[0]) if self.config.search.halving else self.batch_windows
        return DenseReference(
            self.inputs.original_walk,
            selection,
            min(windows, self.batch_windows),
            self.config.evaluation.top_k,
        )

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

    def stitched(self, bank: WeightBank, scorer: Scorer[Part, Score], sharing: int = 1) -> StitchedModel[Score]:
        """Give what runs candidates on tokens, in the type and the memory of the run.

        Args:
            sharing: How many share that memory.
        """
        evaluation = self.config.evaluation
        memory = Memory(evaluation.max_memory, evaluation.cache_bytes, evaluation.candidates).share(sharing)
        return StitchedModel(self.inputs.walk, bank, scorer, memory, self.measuring_dtype)

    @property
    def measuring_dtype(self) -> torch.dtype:
        """What the matrix products of candidates are computed in."""
        return measuring_dtype(self.config.evaluation.dtype, self.inputs.walk.model)

    @property
    def result_name(self) -> str:
        """The name of the result's row: of the recovered model, or of the pruned one where there is no recovery."""
        return "secateur" if self.config.recovery.method == "none" else "recovered"

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
