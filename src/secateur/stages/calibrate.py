"""Calibrate: one pass over the calibration set; then the space to search, and the weight bank for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from secateur.data import Role
from secateur.errors import BudgetError, RunFolderError
from secateur.pruning.bank import WeightBank, build_bank, load_bank
from secateur.pruning.calibration import (
    Statistics,
    calibrate,
    calibrate_part,
    num_parts,
    statistics_of_parts,
    steps_done,
)
from secateur.pruning.orders import NEEDS_FISHER
from secateur.report.record import ReconstructionErrors
from secateur.report.recorded import ERRORS
from secateur.runs.folder import remove
from secateur.runs.progress import StageClock, stage_clock
from secateur.runs.shelf import Shelf
from secateur.schema import Record, derive_seed
from secateur.search.ji2023 import paper_space
from secateur.search.methods import ALLOCATIONS, JI2023, AllocationInputs, single_architecture_space
from secateur.search.uniform import uniform_architectures
from secateur.space.architecture import Architecture
from secateur.space.search_space import SearchSpace
from secateur.space_inputs import width_multiple
from secateur.stages.run import Run
from secateur.stages.workers import Workers


@dataclass(frozen=True)
class Calibrated:
    """What the calibration leaves: where to search, with which weights, and the weights of the baseline."""

    space: SearchSpace
    bank: WeightBank
    uniform_bank: WeightBank | None
    heuristics: Mapping[str, Architecture]


class Allocated(Record):
    """What the statistics say without a measurement; they are gone once the bank is made."""

    architecture: Architecture | None = Field(description="of a method that measures nothing")
    heuristics: dict[str, Architecture] = Field(description="what a search begins with, by name")


def calibrate_stage(run: Run) -> Calibrated:
    """Gather the statistics and build the banks, or read what an earlier process built."""
    dense, folder = run.inputs.dense, run.folder
    uniform = uniform_baselines(run)
    done = run.store.stage("calibrate")
    if done:
        with stage_clock("calibrate", run.listener) as clock:
            clock.reused = True
            if not folder.bank.is_dir():
                raise RunFolderError(f"{folder.root} was calibrated by another version; choose another --out folder")
            known = done.read(Allocated)
            space = method_space(run, known.architecture)
            uniform_bank = load_bank(dense, folder.uniform_bank) if uniform else None
            return Calibrated(space, load_bank(dense, folder.bank), uniform_bank, known.heuristics)
    modules = dense.shape.num_modules
    steps = 2 * dense.shape.num_layers + modules * (2 if uniform else 1)
    with stage_clock("calibrate", run.listener, steps) as clock:
        statistics = gather_statistics(run, clock)
        known = Allocated(architecture=allocate(run, statistics), heuristics=heuristics(run, statistics))
        space = method_space(run, known.architecture)
        bank = build_run_bank(run, statistics, space, clock.advance, folder.bank)
        uniform_bank = None
        if uniform:
            widths = [{architecture.widths[module] for architecture in uniform} for module in range(modules)]
            uniform_bank = build_bank(
                dense, statistics, widths, "taylor", "none", advance=clock.advance, folder=folder.uniform_bank
            )
        tokens = run.inputs.sets[Role.CALIBRATION].num_tokens
        clock.note = f"importance {run.config.pruning.importance}, {tokens:,} tokens"
    run.store.end_stage(ERRORS, 0.0, errors_of(bank).model_dump(mode="json"))
    run.store.end_stage("calibrate", clock.seconds, known.model_dump(mode="json"))
    remove(folder.calibration)
    return Calibrated(space, bank, uniform_bank, known.heuristics)


def errors_of(bank: WeightBank) -> ReconstructionErrors:
    """Give what a report shows of the bank."""
    modules = range(bank.shape.num_modules)
    return ReconstructionErrors(by_width=tuple(dict(bank.errors(module)) for module in modules))


def gather_statistics(run: Run, clock: StageClock) -> Sequence[Statistics]:
    """Run the calibration, or what an interruption has left of it; layers that are done are on disk."""
    dense, shelf, parts = run.inputs.dense, Shelf(run.folder.calibration), calibration_parts(run)
    if run.workers is not None and parts > 1:
        return _gather_by_workers(run, run.workers, parts, shelf, clock)
    clock.done = steps_done(shelf, dense.shape.num_layers)
    return calibrate(
        dense,
        run.inputs.sets[Role.CALIBRATION],
        run.config.evaluation.batch_tokens,
        derive_seed(run.config.seed, "calibrate"),
        clock.advance,
        fisher=run.config.pruning.importance in NEEDS_FISHER,
        shelf=shelf,
    )


def calibration_parts(run: Run) -> int:
    """Count the parts of the calibration set that workers can share."""
    return num_parts(run.inputs.sets[Role.CALIBRATION], run.config.evaluation.batch_tokens)


def gather_part(run: Run, part: int) -> None:
    """Leave the sums of a part of the calibration set in the run folder."""
    calibrate_part(
        run.inputs.dense,
        run.inputs.sets[Role.CALIBRATION],
        run.config.evaluation.batch_tokens,
        derive_seed(run.config.seed, "calibrate"),
        part,
        part_shelf(run, part),
        fisher=run.config.pruning.importance in NEEDS_FISHER,
    )


def part_shelf(run: Run, part: int) -> Shelf:
    return Shelf(run.folder.calibration / f"part-{part}")


def _gather_by_workers(run: Run, workers: Workers, parts: int, shelf: Shelf, clock: StageClock) -> Sequence[Statistics]:
    """Have workers go through the parts of the set, and add up what they leave.

    A part that is there already is gone over by a worker in no time: it sees that nothing is missing.
    """
    steps = 2 * run.inputs.dense.shape.num_layers
    for done, _ in enumerate(workers.calibrate(range(parts), run.told), start=1):
        while clock.done < steps * done // parts:
            clock.advance()
    shelves = [part_shelf(run, part) for part in range(parts)]
    return statistics_of_parts(run.inputs.dense, run.inputs.sets[Role.CALIBRATION], shelves, shelf)


def allocate(run: Run, statistics: Sequence[Statistics]) -> Architecture | None:
    """Give the architecture of a method that measures nothing; None for methods that search."""
    method = run.config.search.method
    return ALLOCATIONS[method](_allocation_inputs(run, statistics)) if method in ALLOCATIONS else None


def heuristics(run: Run, statistics: Sequence[Statistics]) -> dict[str, Architecture]:
    """Give what Secateur's own search begins with besides what it knows itself: FLAP's allocation."""
    if run.config.search.method != "secateur" or run.config.budget.max_drop is not None:
        return {}
    try:
        return {"global_threshold": ALLOCATIONS["global_threshold"](_allocation_inputs(run, statistics))}
    except BudgetError:
        # It allocates in one way only; where that does not meet the limits, the search does without.
        return {}


def _allocation_inputs(run: Run, statistics: Sequence[Statistics]) -> AllocationInputs:
    inputs = run.inputs
    return AllocationInputs(
        dense=inputs.dense,
        shape=inputs.shape,
        budget=inputs.budget,
        statistics=statistics,
        walk=inputs.walk,
        calibration=inputs.sets[Role.CALIBRATION],
        batch_tokens=run.config.evaluation.batch_tokens,
    )


def method_space(run: Run, allocated: Architecture | None) -> SearchSpace:
    """Give the space that the run's method searches."""
    if allocated is not None:
        return single_architecture_space(run.inputs.shape, allocated)
    if run.config.search.method == JI2023:
        return paper_space(run.inputs.shape, width_multiple(run.config, run.inputs.shape))
    return run.inputs.space


def build_run_bank(
    run: Run,
    statistics: Sequence[Statistics],
    space: SearchSpace,
    advance: Callable[[], None] = lambda: None,
    folder: Path | None = None,
) -> WeightBank:
    """Build the bank for every width of the space, in the run's order and with its reconstruction.

    The widths of the alternative are in it, where there is one.

    Args:
        folder: Where it is kept; in memory if not given.
    """
    options: list[set[int]] = list(map(set, space.options))
    if run.inputs.alternative is not None:
        options = [own | set(more) for own, more in zip(options, run.inputs.alternative.space.options, strict=True)]
    pruning, seed = run.config.pruning, derive_seed(run.config.seed, "bank")
    return build_bank(
        run.inputs.dense,
        statistics,
        options,
        pruning.importance,
        run.bank_reconstruction,
        pruning.ridge,
        seed,
        advance=advance,
        folder=folder,
    )


def uniform_baselines(run: Run) -> list[Architecture]:
    """Give the baseline's architectures; they have no reconstruction, and so no new biases.

    A run that is free in size has none: its size is known when the statistics that the baseline needs are gone. Nor has
    one that narrows the hidden size, whose statistics are of another model.
    """
    inputs = run.inputs
    wanted = run.config.baselines.uniform and run.config.budget.max_drop is None and inputs.narrowed is None
    return uniform_architectures(inputs.dense.shape, inputs.budget) if wanted else []
