"""The folder of a recovery by itself: what it was asked for, whose it is, and what it has come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from secateur.begun import check_unchanged
from secateur.config import (
    ModelConfig,
    RunConfig,
    absolute_name,
    build_config,
    differing_fields,
    read_yaml,
    resolve,
)
from secateur.errors import RunFolderError
from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.perplexity import Perplexity
from secateur.plain_yaml import load_plain
from secateur.recovery.recover import RecoveryRecord
from secateur.runs.folder import RunFolder, written_whole
from secateur.schema import Record


class RecoveryRequest(Record):
    """What is recovered and how; `recovery.yaml` of the folder."""

    dense: ModelConfig | None = Field(description="the model that the pruned one was made from; null if not given")
    config: RunConfig = Field(description="`model` names the pruned model; of the rest, what a recovery needs is read")


class RecoveredRow(Record):
    """One model on the evaluation windows."""

    name: str = Field(description="dense, pruned or recovered")
    num_parameters: int
    perplexity: Perplexity


class RecoveryOutcome(Record):
    """`recovery.json`: what a recovery by itself has come to."""

    secateur: str = Field(description="version")
    model: str = Field(description="the pruned model")
    dense: str | None
    seed: int
    fingerprints: dict[str, str] = Field(description="of the pruned model's config and of each set of text")
    rows: tuple[RecoveredRow, ...]
    comparison: PairedComparison = Field(description="of recovered against pruned, on the evaluation windows")
    recovery: RecoveryRecord
    folder: str = Field(description="of the recovered model")
    max_logit_difference: float = Field(description="between a fresh process that loaded it and what was evaluated")


@dataclass(frozen=True)
class RecoveryFolder:
    """Paths inside the folder of a recovery."""

    root: Path

    @property
    def request(self) -> Path:
        return self.root / "recovery.yaml"

    @property
    def outcome(self) -> Path:
        return self.root / "recovery.json"

    @property
    def exported(self) -> Path:
        return self.root / "exported"

    @property
    def work(self) -> Path:
        """What a recovery that is under way has put aside."""
        return self.root / "recovery"


def check_recovery_folder(folder: RecoveryFolder, request: RecoveryRequest) -> None:
    """Refuse a folder that is a file, holds something else, or belongs to another recovery.

    Raises:
        RunFolderError: As said.
    """
    root = folder.root
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{root} is a file; --out needs a folder")
    if folder.request.is_file():
        known = read_request(root)
        differing = differing_fields(known.config, request.config)
        if known.dense != request.dense:
            differing.append("another dense model")
        if differing:
            raise RunFolderError(
                f"{root} belongs to another recovery: {'; '.join(differing)}; choose another --out folder, or go on "
                f"with that one by `secateur resume {root}`"
            )
    elif root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
        raise RunFolderError(f"{root} is not empty and holds no recovery; choose another --out folder")


def read_request(root: Path) -> RecoveryRequest:
    """Read what a recovery was begun with.

    Raises:
        RunFolderError: There is none, or another version wrote it.
    """
    folder = RecoveryFolder(root)
    if not folder.request.is_file():
        raise RunFolderError(
            f"{root} holds no recovery (no recovery.yaml); begin one: secateur recover MODEL --out {root}"
        )
    content: dict[str, Any] = read_yaml(folder.request)
    try:
        return RecoveryRequest.model_validate(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunFolderError(
            f"{folder.request} was written by another version ({where}); choose another --out"
        ) from error


def remember(folder: RecoveryFolder, fingerprints: dict[str, str]) -> None:
    """Store what model and text are, or check that they are still what they were."""
    path = folder.root / "fingerprints.json"
    if path.is_file():
        known: dict[str, str] = load_plain(path.read_text())
        check_unchanged(folder.root, known, fingerprints)
        return
    with written_whole(path) as partial:
        partial.write_text(yaml.safe_dump(fingerprints))


def recovery_request(
    source: str, data: tuple[str, ...], dense: str | None, layers: Sequence[Mapping[str, Any]]
) -> RecoveryRequest:
    """Say what is to be recovered: the result of a run, with the run's dense model and text, or any pruned model.

    Args:
        source: Run folder, model folder or hub id.
        data: Text to train on. Of a run it replaces that which the run has for calibration; of a model it is split by
            document into what is trained on, selected by and evaluated on.
        dense: Model that it was pruned from; a run's own if not given.
        layers: Further settings, later ones winning.

    Raises:
        ConfigError: A setting is wrong, or there is no text.
        RunFolderError: The run is not finished, or its result is nothing that can be trained.
    """
    folder = RunFolder(Path(source))
    if not folder.database.is_file():
        config = resolve(build_config([{"model": {"name": source}, "data": {"sources": data}}, *layers]))
        given = None if dense is None else config.model.model_copy(update={"name": absolute_name(dense)})
        return RecoveryRequest(dense=given, config=config)
    if not folder.report.is_file():
        raise RunFolderError(f"{source} holds a run that is not finished; go on with: secateur resume {source}")
    if not (folder.exported / "config.json").is_file():
        raise RunFolderError(
            f"{folder.exported} is no folder that transformers loads, and cannot be trained; prune with another target "
            "than gguf, recover, and export then"
        )
    run = build_config([read_yaml(folder.config)])
    if run.model.in_memory and dense is None:
        raise RunFolderError(
            f"{source} was begun in Python on a model in memory; name the folder of the dense model with --dense"
        )
    texts = {"recovery": list(data)} if data else {}
    settings = [run.model_dump(mode="json") | {"recovery": {}}, {"data": texts}, *layers]
    original = (
        run.model if dense is None else run.model.model_copy(update={"name": absolute_name(dense), "in_memory": False})
    )
    pruned = {"name": str(folder.exported), "in_memory": False, "revision": None}
    config = resolve(build_config([*settings, {"model": pruned}]))
    return RecoveryRequest(dense=original, config=config)
