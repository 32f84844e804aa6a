"""What a worker of a run does: it loads what the driver has loaded, maps the bank, and measures what it is asked.

It goes through parts of the calibration set too. The driver alone writes the database.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path

from secateur.config import RunConfig, build_config, read_yaml
from secateur.data import Role
from secateur.execution.worker import Work
from secateur.inputs import load_inputs
from secateur.pruning.bank import WeightBank, load_bank
from secateur.runs.folder import RunFolder
from secateur.runs.progress import silent
from secateur.runs.store import RunStore
from secateur.space.architecture import Architecture
from secateur.stages.calibrate import gather_part
from secateur.stages.drop import DropMeter, drop_measure
from secateur.stages.groups import References, group_references
from secateur.stages.hidden import channel_order, narrowed_run
from secateur.stages.measure import Measure, reconstructing, slicing, some_slicing
from secateur.stages.run import Run
from secateur.stages.workers import CALIBRATE, Kind, Of

IN_MEMORY = Path(":memory:")


def open_run(told: str) -> tuple[str, Work]:
    """Load the run of a folder.

    Args:
        told: `folder`, how many workers are `sharing` the memory of a machine, and the `hidden_size` that the run goes
            on with, as JSON.

    Returns:
        What this worker sees, and what measures.
    """
    asked = json.loads(told)
    folder = RunFolder(Path(asked["folder"]))
    config = shared_memory(build_config([read_yaml(folder.config)]), asked["sharing"])
    # Nothing of what a worker measures depends on how fast blocks are here.
    run = Run(config, load_inputs(config, scratch=folder.scratch), folder, RunStore(IN_MEMORY), silent)
    if asked["hidden_size"] is not None:
        run = narrowed_run(run, channel_order(run), asked["hidden_size"])
    measures = Measures(run)

    def work(kind: str, items: Sequence[str]) -> list[str]:
        if kind == CALIBRATE:
            for part in items:
                gather_part(run, int(part))
            return list(items)
        architectures = [Architecture.model_validate_json(item) for item in items]
        measured = measures.of(Kind.model_validate_json(kind))(architectures)
        texts = {each.architecture.key: each.model_dump_json() for each in measured}
        return [texts[architecture.key] for architecture in architectures]

    return run.told.sees, work


class Measures:
    """What measures in every way that a driver may ask for, made when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._made: dict[tuple[str, str], Measure] = {}

    @cached_property
    def _bank(self) -> WeightBank:
        """What the driver has built when candidates are to be measured; mapped, so that workers of a node share it."""
        return load_bank(self._run.inputs.dense, self._run.folder.bank)

    def of(self, kind: Kind) -> Measure:
        if kind.batches is not None:
            return self._on_some_batches(kind.of)(range(*kind.batches))
        if (kind.after, kind.of) not in self._made:
            self._made[kind.after, kind.of] = self._make(kind)
        return self._made[kind.after, kind.of]

    def _make(self, kind: Kind) -> Measure:
        if kind.of == "drop":
            return drop_measure(self._run, self._bank, DropMeter.of(self._run, Role.SELECTION))
        make = slicing if kind.after == "slices" else reconstructing
        return make(self._run, self._bank, self._references(kind.of))

    @cache  # noqa: B019  lives as long as the process
    def _on_some_batches(self, of: Of) -> Callable[[range], Measure]:
        return some_slicing(self._run, self._bank, self._references(of))

    @cache  # noqa: B019  lives as long as the process
    def _references(self, of: Of) -> References:
        return group_references(self._run, Role.SELECTION) if of == "groups" else {}


def shared_memory(config: RunConfig, sharing: int) -> RunConfig:
    """Give the configuration of one of several processes that share what a run may take of a machine's memory."""
    evaluation = config.evaluation
    parts = {name: getattr(evaluation, name) // sharing for name in ("max_memory", "cache_bytes")}
    return config.model_copy(update={"evaluation": evaluation.model_copy(update=parts)})
