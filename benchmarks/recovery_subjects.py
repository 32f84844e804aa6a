"""Pruned models to recover, for the benchmarks of recovery: made once, kept in runs/recovery, judged alike.

A subject is the demo model or stories260K, pruned by a run of 60 measurements. What is trained on is what the run's
calibration share of documents gives (of the demo: a stream of its own), what chooses is its selection set, what is
reported its evaluation set.
"""

import argparse
import json
import math
import platform
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.assignments import parse_list
from secateur.config import RunConfig, build_config, resolve
from secateur.data import Role, TokenSet
from secateur.evaluation.perplexity import window_losses
from secateur.inputs import Inputs, load_inputs
from secateur.model.loading import load_causal_model
from secateur.pipeline import run_pipeline
from secateur.pruning.surgery import prune
from secateur.recipe import Recipe
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.text import RecoverySet
from secateur.report.record import Report
from secateur.runs.folder import RunFolder
from secateur.runs.progress import silent
from secateur.runs.store import RunStore
from secateur.schema import derive_seed
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.run import Run

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
SUBJECTS: dict[str, dict[str, Any]] = {
    "demo": {"model": {"name": "demo"}},
    "stories260k": {
        "model": {"name": str(SHARED / "models" / "stories260K")},
        "data": {"sources": [str(SHARED / "data" / "tinystories" / "tinystories_sample_2M.txt")]},
    },
}
# As the demo of the README, without what does not matter here.
SHORT: dict[str, Any] = {
    "data": {"calibration_tokens": 32_768},
    "search": {
        "measurements": 60,
        "rounds": 5,
        "reconstructed_tokens": 4_096,
        "finalists": 2,
        "alternative_measurements": 0,
    },
    "evaluation": {"speed": False},
}
BATCH_TOKENS = 2_048


@dataclass(frozen=True)
class Subject:
    """A pruned model with the dense one, and texts by role."""

    name: str
    keep: float
    seed: int
    root: Path
    config: RunConfig
    inputs: Inputs

    @property
    def recovery_set(self) -> RecoverySet:
        assert self.inputs.recovery is not None, "asked for in `subject`"
        return self.inputs.recovery

    @property
    def selection(self) -> Int[Tensor, "windows length"]:
        return self.inputs.sets[Role.SELECTION].expect(Role.SELECTION).tokens

    @property
    def evaluation(self) -> TokenSet:
        return self.inputs.sets[Role.EVALUATION].expect(Role.EVALUATION)

    @property
    def report(self) -> Report:
        return Report.model_validate_json(RunFolder(self.root).report.read_text())

    def pruned(self) -> PreTrainedModel:
        """Give the run's result, loaded anew."""
        return load_causal_model(str(self.root / "exported"), "cpu", "float32")[0].requires_grad_(False)

    def plainly_cut(self) -> PreTrainedModel:
        """Cut the same architecture without any reconstruction."""
        settings = self.config.model_dump(mode="json")
        settings["pruning"]["reconstruction"] = "none"
        folder = RunFolder(self.root.with_name(f"{self.root.name}-plain"))
        folder.root.mkdir(exist_ok=True)
        with RunStore(folder.database) as store:
            run = Run(build_config([settings]), self.inputs, folder, store, silent)
            return prune(self.inputs.dense, calibrate_stage(run).bank, self.report.choice.architecture)

    def recovery(self, recipe: Recipe, seed: int | None = None, folder: Path | None = None) -> Recovery:
        """Put a recovery of it together."""
        return Recovery(
            recipe=recipe,
            texts=Texts(self.recovery_set, self.selection),
            seed=derive_seed(self.seed if seed is None else seed, "recovery"),
            batch_tokens=BATCH_TOKENS,
            teacher=DenseTeacher(self.inputs.dense.model, self.inputs.fingerprints["model"]),
            folder=folder,
        )

    def evaluated(self, model: PreTrainedModel) -> float:
        """Give a model's loss on the evaluation set, nats per token: only for what is reported."""
        return float(window_losses(model.eval(), self.evaluation, BATCH_TOKENS).double().mean())

    @cached_property
    def dense_loss(self) -> float:
        return self.evaluated(self.inputs.dense.model)

    def closed(self, before: float, after: float) -> float:
        """Give the share of the excess loss over dense that is gone, from losses on the evaluation set."""
        excess = before - self.dense_loss
        return (before - after) / excess if excess > 0 else math.nan


def spread(values: list[float], digits: int = 2) -> str:
    """Write a median with its range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def arguments_of(about: str | None, results: Path) -> argparse.ArgumentParser:
    """Give a parser of what every benchmark of recovery may be asked: which subjects, and where cells are kept."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--keeps", default="0.7,0.5")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=results)
    return parser


def begun_record(out: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Give the record that cells are added to, with those that a file holds already.

    Args:
        settings: As cells are made with; of `ways`, a file may have others too.

    Raises:
        SystemExit: The file's cells were made with other settings.
    """
    wanted = json.loads(json.dumps(settings))
    known = json.loads(out.read_text()) if out.is_file() else wanted | {"cells": {}}
    if "ways" in wanted:
        wanted["ways"] = known["ways"] | wanted["ways"]
        known["ways"] = wanted["ways"] | known["ways"]
    differing = [name for name, value in wanted.items() if known.get(name) != value]
    if differing:
        raise SystemExit(f"{out} was made with other settings ({', '.join(differing)}); name another file with --out")
    machine = {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False}
    return {"machine": machine, "torch": torch.__version__, **wanted, "cells": known["cells"]}


def missing_cells(arguments: argparse.Namespace, record: dict[str, Any]) -> Iterator[tuple[str, str, float, int]]:
    """Give key, subject, keep and seed of each cell that is asked for and not there."""
    for seed in parse_list("--seeds", arguments.seeds, int):
        for name in parse_list("--subjects", arguments.subjects, str):
            for keep in parse_list("--keeps", arguments.keeps, float):
                if f"{name}/{keep:g}/{seed}" not in record["cells"]:
                    yield f"{name}/{keep:g}/{seed}", name, keep, seed


def keep_cell(out: Path, record: dict[str, Any], key: str, cell: dict[str, Any]) -> None:
    """Add a cell to a record, and write it."""
    record["cells"][key] = cell
    record["made_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=1) + "\n")


def subject(name: str, keep: float, seed: int, recovery_tokens: int = 200_000) -> Subject:
    """Give a subject; the first time it is pruned, which takes minutes."""
    layers = [SHORT, SUBJECTS[name], {"seed": seed, "budget": {"keep": keep}}]
    config = resolve(build_config(layers))
    root = ROOT / "runs" / "recovery" / f"{name}-{keep:g}-{seed}"
    root.parent.mkdir(parents=True, exist_ok=True)
    run_pipeline(config, root)
    trained = resolve(build_config([*layers, {"recovery": {"method": "lora", "tokens": recovery_tokens}}]))
    return Subject(name, keep, seed, root, config, load_inputs(trained))
