"""Whose a run folder is: with what its run was begun, and whether what goes on with it is the same."""

from collections.abc import Mapping
from pathlib import Path

from secateur.config import RunConfig, build_config, differing_fields, read_yaml
from secateur.errors import RunFolderError
from secateur.model.loading import commit_of
from secateur.runs.folder import RunFolder
from secateur.runs.store import stored_stage
from secateur.space.latency_table import LatencyTable


def check_folder(folder: RunFolder, config: RunConfig) -> None:
    """Refuse a folder that is a file, holds something else, or belongs to another run."""
    if folder.root.exists() and not folder.root.is_dir():
        raise RunFolderError(f"{folder.root} is a file; --out needs a folder")
    if folder.holds_a_run:
        differing = differing_fields(build_config([read_yaml(folder.config)]), config)
        if differing:
            raise RunFolderError(
                f"{folder.root} belongs to another run: {'; '.join(differing)}; choose another --out folder, or go on "
                f"with that run by `secateur resume {folder.root}`"
            )
    elif folder.root.is_dir() and any(not path.name.startswith(".") for path in folder.root.iterdir()):
        raise RunFolderError(f"{folder.root} is not empty and holds no run; choose another --out folder")


def as_begun(folder: RunFolder, config: RunConfig) -> RunConfig:
    """Give a configuration that says nothing of the hub's revision the one that the folder's run was begun with."""
    if config.model.revision is not None or not folder.holds_a_run:
        return config
    begun = build_config([read_yaml(folder.config)])
    return with_revision(config, begun.model.revision) if begun.model.name == config.model.name else config


def pinned(config: RunConfig) -> RunConfig:
    """Give the configuration with the commit of the hub that the model is now at, for whoever goes on with it."""
    model = config.model
    commit = None if model.in_memory or model.name == "demo" else commit_of(model.name, model.revision)
    return with_revision(config, commit) if commit else config


def with_revision(config: RunConfig, revision: str | None) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"revision": revision})})


def check_unchanged(root: Path, known: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse to go on with other data than the folder was begun with.

    Args:
        known: Fingerprints from the beginning, by name.
        found: Those of what was loaded now.

    Raises:
        RunFolderError: They differ; says which.
    """
    changed = [name for name, fingerprint in found.items() if known.get(name) != fingerprint]
    if changed:
        raise RunFolderError(
            f"{root} was begun with other data: {', '.join(changed)} changed since; "
            "bring the files back or choose another --out folder"
        )


def stored_latency(folder: RunFolder) -> LatencyTable | None:
    """Read the table that a run was begun with, so that it goes on with the same; None before it is stored."""
    row = stored_stage(folder.database, "latency")
    return row.read(LatencyTable) if row else None
