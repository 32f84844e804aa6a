"""THE COMPARISON: every method on the same text, at the same parameter count, with as many measurements, over seeds.

    load -> per seed: calibrate once -> per method, order, reconstruction and budget: search -> prune -> evaluate

Each cell of the comparison is a run without an export: it has a folder of its own that `secateur show` reads.
`comparison.json` is written after every cell, so an interrupted comparison goes on where it was.
"""

import os
import platform
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from transformers import PreTrainedModel

from secateur.begun import check_unchanged
from secateur.comparison_folder import (
    ComparisonFolder,
    cells_of,
    check_folder,
    copy_cell,
    read_comparison,
    read_config,
)
from secateur.comparison_plan import TEXT_LENGTH, ComparisonConfig, Plan, cell_config, plan_cells
from secateur.config import RunConfig, to_yaml, without_folders
from secateur.data import Role, TokenSet, perplexity_windows, read_rows
from secateur.errors import SecateurError
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.perplexity import Perplexity, perplexity, window_losses
from secateur.evaluation.stitched import score_model
from secateur.inputs import Inputs, define_limits, load_inputs, load_paper_targets
from secateur.pruning.bank import WeightBank
from secateur.pruning.calibration import Statistics, calibrate
from secateur.pruning.orders import NEEDS_FISHER
from secateur.report.comparison import Cell, Comparison, comparison_markdown
from secateur.report.comparison_plot import draw_comparison
from secateur.runs.folder import RunFolder, remove, written_whole
from secateur.runs.progress import Event, Listener, StageAdvanced, silent, stage_clock
from secateur.runs.shelf import Shelf
from secateur.runs.store import RunStore
from secateur.schema import derive_seed
from secateur.search.ji2023 import PaperRecord
from secateur.search.methods import JI2023
from secateur.search.task import Found
from secateur.space.cost import cost_of
from secateur.stages.calibrate import allocate, build_run_bank, heuristics, method_space
from secateur.stages.prune import prune_stage
from secateur.stages.run import Run
from secateur.stages.search import planned_measurements, search_stage

# Banks that stay in memory: the common order with and without reconstruction, and a method's own.
KEPT_BANKS = 3


@dataclass
class Bench:
    """What all cells share: model, text, and the statistics and last banks of the seed at work."""

    folder: ComparisonFolder
    inputs: Inputs
    texts: dict[str, TokenSet]
    reference: DenseReference
    listener: Listener
    statistics: Sequence[Statistics] = ()
    banks: "OrderedDict[object, WeightBank]" = field(default_factory=OrderedDict)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the model and all text."""
        return self.inputs.fingerprints | {name: tokens.fingerprint for name, tokens in self.texts.items()}

    def bank(self, key: object, build: Callable[[], WeightBank]) -> WeightBank:
        """Give the bank of a key; the one that has waited longest makes room."""
        if key not in self.banks:
            self.banks[key] = build()
        self.banks.move_to_end(key)
        while len(self.banks) > KEPT_BANKS:
            self.banks.popitem(last=False)
        return self.banks[key]


def run_comparison(
    config: ComparisonConfig, root: Path, listener: Listener = silent, join: Sequence[Path] = ()
) -> Comparison:
    """Compare methods, or go on with a comparison that was interrupted in the same folder.

    Args:
        join: Other comparisons with the same settings and data, whose cells are taken over, each a folder or its
            `comparison.json`: seeds may be run by several processes, or on several machines.

    Raises:
        InputError: The model, the text, a budget or the folder cannot be used; nothing was written.
    """
    folder = ComparisonFolder(root)
    check_folder(folder, config)
    known = read_comparison(folder)
    if known is not None and known.finished:
        return known
    plans, rows = plan_cells(config)
    with stage_clock("load", listener) as clock:
        bench = load_bench(config, folder, listener)
        if known is not None:
            check_unchanged(root, known.fingerprints, bench.fingerprints)
        clock.note = f"{bench.inputs.summary}; {len(plans)} cells"
    comparison = known or begin(config, bench, rows)
    joined = [(ComparisonFolder(other), cells_of(other, comparison)) for other in join]
    root.mkdir(parents=True, exist_ok=True)
    with RunFolder(root).held():
        with written_whole(folder.config) as path:
            path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
        for other, cells in joined:
            comparison = take_over(comparison, plans, folder, other, cells)
        done = {cell.name for cell in comparison.cells}
        for seed in config.seeds:
            pending = [plan for plan in plans if plan.config.seed == seed and plan.name not in done]
            if not pending:
                continue
            calibrate_seed(bench, pending)
            for plan in pending:
                cell = make_cell(bench, plan, len(comparison.cells) + 1, len(plans))
                comparison = comparison.model_copy(update={"cells": (*comparison.cells, cell)})
                write(folder, comparison)
        remove(folder.calibration)
        comparison = comparison.model_copy(update={"finished": True})
        with written_whole(folder.table) as path:
            path.write_text(comparison_markdown(comparison))
        draw_comparison(comparison, folder.picture)
        write(folder, comparison)
    return comparison


def resume_comparison(root: Path, listener: Listener = silent) -> Comparison:
    """Go on with the comparison in a folder.

    Raises:
        RunFolderError: The folder holds no comparison, or one of another version.
    """
    return run_comparison(read_config(ComparisonFolder(root)), root, listener)


def load_bench(config: ComparisonConfig, folder: ComparisonFolder, listener: Listener) -> Bench:
    """Load model and texts once, and refuse budgets that Secateur's own method cannot search at."""
    configs = [cell_config(config.base, {}, keep, config.seeds[0]) for keep in config.keeps]
    inputs = load_inputs(configs[0])
    for other in configs[1:]:
        define_limits(other, inputs.dense)
    texts = {
        name: perplexity_windows(read_rows(source), inputs.dense.tokenizer, TEXT_LENGTH, max_tokens=config.text_tokens)
        for name, source in config.texts.items()
    }
    batch = max(1, config.base.evaluation.batch_tokens // config.base.data.sequence_length)
    reference = DenseReference(inputs.walk, inputs.sets[Role.EVALUATION].expect(Role.EVALUATION), batch)
    return Bench(folder, inputs, texts, reference, listener)


def begin(config: ComparisonConfig, bench: Bench, rows: dict[str, dict[str, str]]) -> Comparison:
    """Evaluate the dense model, and note what is needed to do the comparison again."""
    inputs = bench.inputs
    dense, _ = evaluate_everywhere(bench, config.base, inputs.dense.model)
    public = without_folders(config.base)
    libraries = ("torch", "transformers", "lightgbm", "scipy", "scikit-learn")
    return Comparison(
        secateur=version("secateur"),
        versions={"python": platform.python_version()} | {name: version(name) for name in libraries},
        machine={
            "processor": platform.machine(),
            "cpus": os.cpu_count() or 0,
            "threads": torch.get_num_threads(),
            "device": inputs.dense.model.device.type,
        },
        model=public.model.name,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=public.model_dump(
            mode="json", exclude={"seed": True, "budget": {"keep"}, "latency": True, "baselines": True, "export": True}
        ),
        num_tokens={str(role): tokens.num_tokens for role, tokens in inputs.sets.items()}
        | {name: tokens.num_tokens for name, tokens in bench.texts.items()},
        fingerprints=bench.fingerprints,
        methods=config.methods,
        keeps=config.keeps,
        seeds=config.seeds,
        dense=dense,
        dense_decoder_parameters=inputs.dense.shape.decoder_parameters,
        rows=rows,
    )


def take_over(
    comparison: Comparison,
    plans: Sequence[Plan],
    folder: ComparisonFolder,
    other: ComparisonFolder,
    cells: Sequence[Cell],
) -> Comparison:
    """Add those of another comparison's cells that are planned and not made yet, and their folders."""
    missing = {plan.name for plan in plans} - {cell.name for cell in comparison.cells}
    taken = [cell for cell in cells if cell.name in missing]
    for cell in taken:
        copy_cell(cell.name, other, folder)
    comparison = comparison.model_copy(update={"cells": (*comparison.cells, *taken)})
    write(folder, comparison)
    return comparison


def calibrate_seed(bench: Bench, plans: Sequence[Plan]) -> None:
    """Run the calibration pass that all cells of a seed share."""
    config, inputs = plans[0].config, bench.inputs
    tokens = inputs.sets[Role.CALIBRATION]
    batch_tokens = config.evaluation.batch_tokens
    fisher = any(plan.config.pruning.importance in NEEDS_FISHER for plan in plans)
    bench.banks.clear()
    remove(bench.folder.calibration)
    shelf, steps = Shelf(bench.folder.calibration), 2 * inputs.dense.shape.num_layers
    with stage_clock(f"calibrate, seed {config.seed}", bench.listener, steps) as clock:
        seed = derive_seed(config.seed, "calibrate")
        bench.statistics = calibrate(inputs.dense, tokens, batch_tokens, seed, clock.advance, fisher, shelf)


def make_cell(bench: Bench, plan: Plan, number: int, total: int) -> Cell:
    """Search, prune and evaluate one cell; a method that cannot meet the budget says why."""
    folder = bench.folder.cell(plan.name)
    folder.root.mkdir(parents=True, exist_ok=True)
    with written_whole(folder.config) as path:
        path.write_text(to_yaml(plan.config))
    pruning, config = plan.config.pruning, plan.config
    cell = Cell(
        name=plan.name,
        method=config.search.method,
        importance=pruning.importance,
        reconstruction=pruning.reconstruction,
        keep=config.budget.keep,
        seed=config.seed,
    )
    with RunStore(folder.database) as store, stage_clock(plan.name, bench.listener) as clock:

        def listen(event: Event) -> None:
            if isinstance(event, StageAdvanced) and event.stage == "search":
                clock.advance(event.value)

        try:
            space, budget = define_limits(config, bench.inputs.dense)
            paper = load_paper_targets(config, bench.inputs.dense) if config.search.method == JI2023 else None
            inputs = replace(bench.inputs, space=space, budget=budget, paper=paper)
            cell = fill_cell(bench, Run(config, inputs, folder, store, listen), cell)
            assert cell.perplexity is not None, "a filled cell has a perplexity"
            clock.note = f"{number} of {total}: perplexity {cell.perplexity.value:.4g}"
        except SecateurError as error:
            cell = cell.model_copy(update={"failure": str(error)})
            clock.note = f"{number} of {total}: {error}"
    return cell.model_copy(update={"seconds": clock.seconds})


def fill_cell(bench: Bench, run: Run, cell: Cell) -> Cell:
    """Run the stages of one cell."""
    inputs = run.inputs
    allocated = allocate(run, bench.statistics)
    space = method_space(run, allocated)
    key = (run.config.pruning.importance, run.bank_reconstruction, space.options)
    bank = bench.bank(key, lambda: build_run_bank(run, bench.statistics, space))
    found = search_stage(run, space, bank, heuristics(run, bench.statistics))
    pruned, choice = prune_stage(run, bank, found)
    perplexities, kl = evaluate_everywhere(bench, run.config, pruned)
    paper = run.store.stage("paper")
    record = paper.read(PaperRecord) if paper else None
    tau = found.rounds[-1].quality.kendall_tau if found.rounds else record.kendall_tau_finalists if record else None
    return cell.model_copy(
        update={
            "perplexity": perplexities.pop("evaluation"),
            "texts": perplexities,
            "kl": kl,
            "selection_kl": choice.kl,
            "architecture": choice.architecture,
            "decoder_parameters": cost_of(inputs.shape, choice.architecture).decoder_parameters,
            "num_measurements": found.num_measurements,
            "best_so_far": best_so_far(found) if planned_measurements(run) != 1 else (),
            "kendall_tau": tau,
            "paper": record,
        }
    )


def best_so_far(found: Found) -> tuple[float, ...]:
    """Give the lowest selection KL at the budget after each measurement made there."""
    lowest: list[float] = []
    for measurement in found.measurements:
        if measurement.kl is not None:
            lowest.append(min(measurement.kl, lowest[-1]) if lowest else measurement.kl)
        elif lowest:
            lowest.append(lowest[-1])
    return tuple(round(value, 5) for value in lowest)


def evaluate_everywhere(bench: Bench, config: RunConfig, model: PreTrainedModel) -> tuple[dict[str, Perplexity], float]:
    """Give perplexity on the evaluation set and on every other text, and KL to dense on the evaluation set."""
    dense, batch_tokens = bench.inputs.dense, config.evaluation.batch_tokens
    seed, confidence = derive_seed(config.seed, "bootstrap"), config.evaluation.confidence
    length = config.data.sequence_length
    scores = score_model(model, dense.family, bench.inputs.walk, bench.reference)
    found = {"evaluation": perplexity(scores.loss, f"packed-{length}", length, seed, confidence)}
    for name, tokens in bench.texts.items():
        losses = window_losses(model, tokens, batch_tokens)
        found[name] = perplexity(losses, f"ppl-{TEXT_LENGTH}", TEXT_LENGTH, seed, confidence)
    return found, float(scores.kl.mean())


def write(folder: ComparisonFolder, comparison: Comparison) -> None:
    with written_whole(folder.record) as path:
        path.write_text(comparison.model_dump_json(indent=1, exclude_defaults=True) + "\n")
