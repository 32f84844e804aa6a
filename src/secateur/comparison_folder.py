"""The folder of a comparison: what it is made of, whose it is, and cells taken over from other such folders."""

import shutil
from pathlib import Path

from pydantic import ValidationError

from secateur.comparison_plan import ComparisonConfig
from secateur.config import differences, differing_fields, read_yaml
from secateur.errors import RunFolderError
from secateur.report.comparison import Cell, Comparison
from secateur.runs.folder import RunFolder
from secateur.runs.records import read_record
from secateur.search.methods import SEARCHES

OWN_SETTINGS = (
    "predictor",
    "rounds",
    "initial_share",
    "reconstructed_share",
    "reconstructed_tokens",
    "objectives",
    "smallest_keep",
    "choose",
    "within",
)

# The methods that read a setting, where not all do. Those that allocate without a search are not bound to the grid.
READERS = {f"search.{name}": frozenset({"secateur"}) for name in OWN_SETTINGS} | {
    f"space.{name}": frozenset(SEARCHES) for name in ("ffn_levels", "kv_levels")
}


class ComparisonFolder:
    """Paths inside the folder of a comparison."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def config(self) -> Path:
        return self.root / "comparison.yaml"

    @property
    def record(self) -> Path:
        return self.root / "comparison.json"

    @property
    def table(self) -> Path:
        return self.root / "comparison.md"

    @property
    def picture(self) -> Path:
        return self.root / "comparison.png"

    @property
    def calibration(self) -> Path:
        """What the calibration of the seed at work has put aside."""
        return self.root / "calibration"

    def cell(self, name: str) -> RunFolder:
        return RunFolder(self.root / "cells" / name)

    @property
    def holds_a_comparison(self) -> bool:
        return self.config.is_file()


def read_config(folder: ComparisonFolder) -> ComparisonConfig:
    """Read what a comparison was begun with.

    Raises:
        RunFolderError: Another version wrote it.
    """
    try:
        return ComparisonConfig.model_validate(read_yaml(folder.config))
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise RunFolderError(
            f"{folder.config} was written by another version ({where}); choose another --out"
        ) from error


def read_comparison(folder: ComparisonFolder) -> Comparison | None:
    """Read what a comparison has found so far; None before its first cell."""
    return read_record(folder.record, Comparison) if folder.record.is_file() else None


def check_folder(folder: ComparisonFolder, config: ComparisonConfig) -> None:
    """Refuse a folder that is a file, holds something else, or belongs to another comparison."""
    root = folder.root
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{root} is a file; --out needs a folder")
    if not folder.holds_a_comparison:
        if root.is_dir() and any(not path.name.startswith(".") for path in root.iterdir()):
            raise RunFolderError(f"{root} is not empty and holds no comparison; choose another --out folder")
        return
    begun = read_config(folder)
    if begun != config:
        names = [name for name in ComparisonConfig.model_fields if name != "base"]
        differing = differing_fields(begun.base, config.base) + [
            f"{name}: {getattr(begun, name)!r} != {getattr(config, name)!r}"
            for name in names
            if getattr(begun, name) != getattr(config, name)
        ]
        raise RunFolderError(
            f"{root} belongs to another comparison: {'; '.join(differing)}; choose another --out folder, or go on with "
            f"that one by `secateur resume {root}`"
        )


def cells_of(other: Path, comparison: Comparison) -> list[Cell]:
    """Give the cells that another comparison has made, if it is one of the same: seeds, budgets and methods may differ.

    Where settings differ that some methods do not read, those are the cells of these methods.

    Args:
        other: Its folder, or the `comparison.json` alone.
        comparison: The one that takes them over.

    Raises:
        RunFolderError: There is no comparison, or one with other settings, data or versions.
    """
    path = ComparisonFolder(other).record if other.is_dir() else other
    if not path.is_file():
        raise RunFolderError(f"{other} holds no comparison with cells; --join needs the --out of another comparison")
    record = read_record(path, Comparison)
    differing = differences(record.settings, comparison.settings)
    others = [text for name, text in differing.items() if name not in READERS]
    for name in ("secateur", "model", "versions", "fingerprints"):
        theirs, ours = getattr(record, name), getattr(comparison, name)
        others += [f"{name}: {theirs!r} != {ours!r}"] if theirs != ours else []
    if others:
        raise RunFolderError(f"{other} cannot be joined, it differs in {'; '.join(others)}; make its cells again")
    readers = frozenset[str]().union(*(READERS[name] for name in differing))
    return [cell for cell in record.cells if cell.method not in readers]


def copy_cell(name: str, source: ComparisonFolder, target: ComparisonFolder) -> None:
    """Copy what `secateur show` reads of a cell; what an interruption left half-copied is written over."""
    found = source.cell(name).root
    if found.is_dir():
        shutil.copytree(found, target.cell(name).root, dirs_exist_ok=True)
