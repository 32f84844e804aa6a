"""What the dense model says of the recovery set: asked again at every step, or once and kept in files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from transformers import PreTrainedModel

from secateur.evaluation.divergence import DenseRows, left_over, rows_of
from secateur.recovery.text import Batch, RecoverySet
from secateur.runs.folder import remove, written_whole
from secateur.runs.records import read_record
from secateur.schema import Record


@dataclass(frozen=True)
class Taught:
    """The dense model's distributions at the predicting positions of a batch, and where asked its hidden states."""

    rows: DenseRows
    hidden: tuple[Float[Tensor, "windows length hidden"], ...] | None = None


@runtime_checkable
class Teacher(Protocol):
    """What says how the dense model goes on."""

    def taught(self, batch: Batch) -> Taught: ...


class AskedTeacher:
    """Runs the dense model at every step."""

    def __init__(self, model: PreTrainedModel, top_k: int, *, hidden: bool = False) -> None:
        """Ask a model.

        Args:
            top_k: Tokens per position that are told apart; the others are one outcome.
            hidden: Give hidden states too.
        """
        self._model, self._top_k, self._hidden = model, top_k, hidden

    @torch.no_grad()
    def taught(self, batch: Batch) -> Taught:
        model = self._model
        output = model(
            input_ids=batch.tokens.to(model.device), use_cache=False, output_hidden_states=self._hidden or None
        )
        rows = rows_of(output.logits[:, :-1].flatten(0, 1).float().log_softmax(-1), self._top_k)
        return Taught(rows, tuple(output.hidden_states) if self._hidden else None)


class CacheRecord(Record):
    """What the files of a teacher's cache hold."""

    fingerprint: str = Field(description="of the recovery set and the dense model")
    windows: int
    predictions: int = Field(description="of a window")
    outcomes: int = Field(description="tokens per position that are told apart")
    vocabulary: int


class CachedTeacher:
    """Ran the dense model once; its largest probabilities lie in files, of which only what is used is in memory.

    Probabilities are kept in float16 with the mass of all others in float32: relative errors of 5e-4 at most.
    """

    def __init__(self, folder: Path, record: CacheRecord, device: torch.device) -> None:
        """Open a cache that `cached_teacher` has filled."""
        self._record, self._device = record, device
        shape = (record.windows, record.predictions)
        wide = (*shape, record.outcomes)
        self._probabilities = np.memmap(folder / "probabilities.bin", np.float16, "r", shape=wide)
        self._remainders = np.memmap(folder / "remainders.bin", np.float32, "r", shape=shape)
        self._tokens = np.memmap(folder / "tokens.bin", np.int32, "r", shape=wide)

    def taught(self, batch: Batch) -> Taught:
        places = batch.places.cpu().numpy()
        probabilities = self._taken(self._probabilities[places]).float()
        remainder = self._taken(self._remainders[places])
        tokens = self._taken(self._tokens[places]).long()
        entropy = torch.xlogy(probabilities, probabilities).sum(-1) + torch.xlogy(remainder, remainder)
        return Taught(DenseRows(probabilities, entropy, tokens, remainder))

    def _taken(self, values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
        tensor = torch.from_numpy(values).to(self._device)
        return tensor.flatten(0, 1)


def cache_bytes(recovery_set: RecoverySet, top_k: int, vocabulary: int) -> int:
    """Say how much disk a cache takes."""
    return recovery_set.num_tokens * (6 * min(top_k, vocabulary) + 4)


def cached_teacher(
    model: PreTrainedModel,
    recovery_set: RecoverySet,
    top_k: int,
    folder: Path,
    fingerprint: str,
    batch_windows: int,
    advance: Callable[[], None] = lambda: None,
) -> CachedTeacher:
    """Run the dense model on the recovery set, or take what an earlier process has kept of it.

    Args:
        fingerprint: Of the dense model.
        batch_windows: Windows per forward pass.
        advance: Called after each.
    """
    length = recovery_set.tokens.shape[1]
    vocabulary = int(model.config.vocab_size)
    record = CacheRecord(
        fingerprint=f"{recovery_set.fingerprint} {fingerprint}",
        windows=len(recovery_set),
        predictions=length - 1,
        outcomes=min(top_k, vocabulary),
        vocabulary=vocabulary,
    )
    path = folder / "teacher.json"
    if not path.is_file() or read_record(path, CacheRecord) != record:
        remove(folder)
        folder.mkdir(parents=True)
        _fill(model, recovery_set, record, folder, batch_windows, advance)
        # Last: a cache without it is begun anew.
        with written_whole(path) as partial:
            partial.write_text(record.model_dump_json())
    return CachedTeacher(folder, record, model.device)


@torch.no_grad()
def _fill(
    model: PreTrainedModel,
    recovery_set: RecoverySet,
    record: CacheRecord,
    folder: Path,
    batch_windows: int,
    advance: Callable[[], None],
) -> None:
    files: Sequence[tuple[str, type]] = (
        ("probabilities", np.float16),
        ("remainders", np.float32),
        ("tokens", np.int32),
    )
    opened = {name: ((folder / f"{name}.bin").open("wb"), kind) for name, kind in files}
    try:
        for tokens in recovery_set.tokens.split(batch_windows):
            logits = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1]
            kept, chosen = logits.flatten(0, 1).float().log_softmax(-1).topk(record.outcomes, dim=-1)
            probabilities = kept.exp()
            remainder = left_over(probabilities)
            for name, tensor in (("probabilities", probabilities), ("remainders", remainder), ("tokens", chosen)):
                file, kind = opened[name]
                file.write(tensor.cpu().numpy().astype(kind).tobytes())
            advance()
    finally:
        for file, _ in opened.values():
            file.close()
