"""THE MAIN FLOW: from a dense model and a budget to a smaller model that works. Read it top to bottom.

    load -> calibrate -> define space -> [ propose -> measure -> fit ] x rounds -> prune -> evaluate -> export -> report

Every stage is a function of the configuration and of what the stages before it left in the run folder, so a run that
was killed goes on where it was: finished stages and every measurement are kept.
"""

import math
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedModel

from secateur.config import RunConfig, build_config, read_yaml, to_yaml, without_folders
from secateur.data import Role
from secateur.errors import RunFolderError
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.stitched import StitchedModel, measure, score_model
from secateur.export.checkpoint import express, round_weights, save_checkpoint
from secateur.export.verify import verify_export
from secateur.inputs import Inputs, check_folder, load_inputs
from secateur.pruning.bank import WeightBank, build_bank, load_bank, save_bank
from secateur.pruning.calibration import CalibrationSums, ModuleStatistics, calibrate
from secateur.pruning.sequence import reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.report.card import model_card
from secateur.report.record import Choice, ExportRecord, ModelRow, Report
from secateur.report.rows import excess_log_perplexity_left, model_row
from secateur.runs.folder import Checkpoint, RunFolder, remove, written_whole
from secateur.runs.progress import Listener, StageClock, silent, stage_clock
from secateur.runs.store import RunStore
from secateur.schema import derive_seed, digest
from secateur.search.heuristics import uniform_architectures
from secateur.search.rounds import Found, search_rounds
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement, Protocol

# What an interruption of the calibration pass costs at most.
CHECKPOINT_SECONDS = 30.0


@dataclass(frozen=True)
class Run:
    """A run at work: its configuration, inputs, folder, database, and who listens."""

    config: RunConfig
    inputs: Inputs
    folder: RunFolder
    store: RunStore
    listener: Listener


def run_pipeline(config: RunConfig, root: Path, listener: Listener = silent) -> Report:
    """Prune a model, or go on with a run that was interrupted in the same folder.

    Args:
        root: The run folder; made if it is missing.
        listener: Receives progress events.

    Raises:
        InputError: The model, the text, the budget or the folder cannot be used; nothing was written.
        ExportError: The exported folder does not behave like the model that was measured.
    """
    folder = RunFolder(root)
    check_folder(folder, config)
    if folder.report.is_file():
        return Report.model_validate_json(folder.report.read_text())
    with stage_clock("load", listener) as clock:
        inputs = load_inputs(config)
        clock.note = inputs.summary
    root.mkdir(parents=True, exist_ok=True)
    with folder.held():
        if not folder.holds_a_run:
            # On disk before the database, so that a folder with a database can always be resumed.
            with written_whole(folder.config) as path:
                path.write_text(to_yaml(config))
        with RunStore(folder.database) as store:
            return run_stages(Run(config, inputs, folder, store, listener), clock.seconds)


def run_stages(run: Run, load_seconds: float) -> Report:
    """Every stage after loading; each goes on from what the run folder holds."""
    remember_inputs(run, load_seconds)
    bank, uniform_bank = calibrate_stage(run)
    found = search_stage(run, bank)
    pruned, choice = prune_stage(run, bank, found)
    rows = evaluate_stage(run, pruned, choice, uniform_bank)
    export = export_stage(run, pruned, choice, rows)
    return report_stage(run, rows, found, choice, export)


def resume_pipeline(root: Path, listener: Listener = silent) -> Report:
    """Go on with the run in a folder.

    Raises:
        RunFolderError: The folder holds no run.
    """
    folder = RunFolder(root)
    if not folder.holds_a_run:
        raise RunFolderError(
            f"{root} holds no run (no config.yaml); start one with `secateur prune MODEL --out {root}`"
        )
    return run_pipeline(build_config([read_yaml(folder.config)]), root, listener)


def remember_inputs(run: Run, load_seconds: float) -> None:
    """Store what the model and the text are, or check that they are still what they were."""
    known = run.store.stage("load")
    if known is None:
        run.store.end_stage("load", load_seconds, run.inputs.fingerprints)
    elif known.payload != run.inputs.fingerprints:
        changed = [name for name, value in run.inputs.fingerprints.items() if known.payload.get(name) != value]
        raise RunFolderError(
            f"{run.folder.root} was begun with other data: {', '.join(changed)} changed since; "
            "bring the files back or choose another --out folder"
        )


def calibrate_stage(run: Run) -> tuple[WeightBank, WeightBank | None]:
    """One pass over the calibration set; then the weight bank, and the baseline's with it."""
    config, dense, tokens = run.config, run.inputs.dense, run.inputs.sets[Role.CALIBRATION]
    uniform = uniform_baselines(run)
    if run.store.stage("calibrate"):
        with stage_clock("calibrate", run.listener) as clock:
            clock.reused = True
            bank = load_bank(dense, run.folder.bank)
            return bank, load_bank(dense, run.folder.uniform_bank) if uniform else None
    batches = math.ceil(len(tokens.tokens) / batch_windows(run))
    modules = dense.shape.num_modules
    with stage_clock("calibrate", run.listener, batches + modules * (2 if uniform else 1)) as clock:
        statistics = gather_statistics(run, clock)
        refit = config.pruning.reconstruction != "none"
        options = run.inputs.space.options
        pruning, seed = config.pruning, derive_seed(config.seed, "bank")
        bank = build_bank(
            dense, statistics, options, pruning.importance, refit, pruning.ridge, seed, advance=clock.advance
        )
        uniform_bank = None
        if uniform:
            widths = [{architecture.widths[module] for architecture in uniform} for module in range(modules)]
            uniform_bank = build_bank(dense, statistics, widths, "taylor", refit=False, advance=clock.advance)
            with written_whole(run.folder.uniform_bank) as path:
                save_bank(uniform_bank, path)
        with written_whole(run.folder.bank) as path:
            save_bank(bank, path)
        clock.note = f"importance {config.pruning.importance}, {tokens.num_tokens:,} tokens"
    run.store.end_stage("calibrate", clock.seconds)
    remove(run.folder.calibration)
    return bank, uniform_bank


def gather_statistics(run: Run, clock: StageClock) -> list[ModuleStatistics]:
    """Run the calibration pass, or what an interruption has left of it."""
    dense, tokens, path = run.inputs.dense, run.inputs.sets[Role.CALIBRATION], run.folder.calibration
    begun = CalibrationSums.load(path, dense.model.device) if path.is_file() else None
    clock.done = math.ceil(begun.windows / batch_windows(run)) if begun else 0
    save = Checkpoint(path, CHECKPOINT_SECONDS)
    seed, batch_tokens = derive_seed(run.config.seed, "calibrate"), run.config.evaluation.batch_tokens
    return calibrate(dense, tokens, batch_tokens, seed, clock.advance, begun, lambda sums: save(sums.save))


def uniform_baselines(run: Run) -> list[Architecture]:
    return uniform_architectures(run.inputs.dense.shape, run.inputs.budget) if run.config.baselines.uniform else []


def batch_windows(run: Run) -> int:
    """Windows per forward pass."""
    return max(1, run.config.evaluation.batch_tokens // run.config.data.sequence_length)


def selection_protocol(run: Run) -> Protocol:
    """What makes the measurements of this run comparable, and those of another configuration not.

    The seed is part of the bank: labels are sampled with it, and so is the random order.
    """
    config, tokens = run.config, run.inputs.sets[Role.SELECTION]
    pruning = config.pruning
    return Protocol(
        model=run.inputs.fingerprints["model"],
        tokens=tokens.fingerprint,
        num_tokens=tokens.num_tokens,
        sequence_length=tokens.sequence_length,
        dtype=str(run.inputs.dense.model.dtype),
        bank=digest(
            [
                run.config.seed,
                run.inputs.fingerprints["calibration"],
                pruning.importance,
                pruning.reconstruction == "none",
                pruning.ridge,
            ]
        ),
    )


def search_stage(run: Run, bank: WeightBank) -> Found:
    """Measure, fit, propose, round after round; every measurement is stored before the next begins."""
    search, inputs = run.config.search, run.inputs
    protocol = selection_protocol(run)
    with stage_clock("search", run.listener, search.measurements) as clock:
        reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION].expect(Role.SELECTION), batch_windows(run))
        stitched = StitchedModel(inputs.walk, bank, reference, run.config.evaluation.cache_bytes)
        found = search_rounds(
            inputs.space,
            inputs.budget,
            [bank.errors(module) for module in range(inputs.space.num_modules)],
            lambda batch: measure_batch(run, stitched, protocol, batch, clock),
            search.measurements,
            search.rounds,
            search.initial_share,
            run.config.seed,
            lambda record: run.store.end_stage(f"round {record.round}", 0.0, record.model_dump(mode="json")),
        )
        last = found.rounds[-1]
        clock.note = f"best KL {last.best_kl:.4f}, predictor tau {last.quality.kendall_tau:.2f}"
    if run.store.stage("search") is None:
        # Of an interrupted search this process has seen only the end; its measurements tell the rest.
        run.store.end_stage("search", max(clock.seconds, sum(m.seconds for m in found.measurements)))
    return found


def measure_batch(
    run: Run, stitched: StitchedModel, protocol: Protocol, batch: list[Candidate], clock: StageClock
) -> list[Measurement]:
    """Measure what the database does not hold yet; every measurement is stored before the next begins."""
    run.store.add_candidates([(c.architecture.key, c.round, c.model_dump_json()) for c in batch])
    measured = []
    # Neighbours in this order share their first layers, which are then computed once.
    for candidate in sorted(batch, key=lambda c: c.architecture.widths):
        key = candidate.architecture.key
        stored = run.store.measurement(key, protocol.key)
        if stored is not None:
            measurement = Measurement.model_validate_json(stored)
        else:
            measurement = measure(stitched, candidate.architecture, protocol)
            run.store.add_measurement(key, protocol.key, measurement.model_dump_json())
        measured.append(measurement)
        clock.advance(measurement.kl)
    return measured


def prune_stage(run: Run, bank: WeightBank, found: Found) -> tuple[PreTrainedModel, Choice]:
    """Cut the best measured architecture out of the model; keep the sequential reconstruction if selection agrees."""
    config, inputs = run.config, run.inputs
    sequential = config.pruning.reconstruction == "sequential"
    best = found.best
    assert best.kl is not None, "the best did not fail"
    origins = {c.architecture.key: c.origin for c in map(Candidate.model_validate_json, run.store.candidates())}
    batch_tokens = config.evaluation.batch_tokens
    with stage_clock("prune", run.listener, inputs.dense.shape.num_modules if sequential else None) as clock:
        pruned = prune(inputs.dense, bank, best.architecture)
        after = None
        if sequential:
            reconstruct_in_sequence(
                inputs.dense,
                inputs.walk,
                pruned,
                best.architecture,
                inputs.sets[Role.CALIBRATION],
                batch_tokens,
                config.pruning.sequential_ridge,
                clock.advance,
            )
            reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], batch_windows(run))
            after = float(score_model(pruned, inputs.dense.family, inputs.walk, reference).kl.mean())
        kept = after is not None and after < best.kl
        if after is not None and not kept:
            pruned = prune(inputs.dense, bank, best.architecture)
        round_weights(pruned, export_dtype(run))
        sequential_note = "" if after is None else f", {after:.4f} after sequential reconstruction"
        clock.note = f"selection KL {best.kl:.4f}{sequential_note}"
    choice = Choice(
        architecture=best.architecture,
        origin=origins[best.architecture.key],
        kl=best.kl,
        kl_after_sequential=after,
        sequential_kept=kept,
    )
    run.store.end_stage("prune", clock.seconds, choice.model_dump(mode="json"))
    return pruned, choice


def export_dtype(run: Run) -> str:
    return run.inputs.dense.stored_dtype if run.config.export.dtype == "auto" else run.config.export.dtype


def evaluate_stage(
    run: Run, pruned: PreTrainedModel, choice: Choice, uniform_bank: WeightBank | None
) -> tuple[ModelRow, ...]:
    """Evaluate dense, baselines and result on the same windows of the evaluation set, which chose nothing."""
    inputs, config = run.inputs, run.config
    tokens = inputs.sets[Role.EVALUATION].expect(Role.EVALUATION)
    dense = inputs.dense
    names = ("uniform", "uniform-wide")
    uniform = dict(zip(names, uniform_baselines(run), strict=False))
    spent = {row.name: row.seconds for row in run.store.stages()}
    bootstrap = derive_seed(config.seed, "bootstrap")
    rows: list[ModelRow] = []
    with stage_clock("evaluate", run.listener, len(uniform) + 2) as clock:
        reference = DenseReference(inputs.walk, tokens, batch_windows(run))

        def add_row(name: str, architecture: Architecture, scores: WindowScores, seconds: float) -> None:
            length, confidence = tokens.sequence_length, config.evaluation.confidence
            rows.append(model_row(name, dense.shape, architecture, scores, seconds, length, bootstrap, confidence))
            clock.advance()

        whole = score_model(dense.model, dense.family, inputs.walk, reference)
        add_row("dense", Architecture.dense(dense.shape), whole, 0.0)
        for name, architecture in uniform.items():
            assert uniform_bank is not None, "baselines have a bank"
            stitched = StitchedModel(inputs.walk, uniform_bank, reference, cache_bytes=0)
            add_row(name, architecture, stitched.score(architecture), spent["calibrate"])
        scores = score_model(pruned, dense.family, inputs.walk, reference)
        add_row("secateur", choice.architecture, scores, spent["calibrate"] + spent["search"] + spent["prune"])
    run.store.end_stage("evaluate", clock.seconds, [row.model_dump(mode="json") for row in rows])
    return tuple(rows)


def export_stage(run: Run, pruned: PreTrainedModel, choice: Choice, rows: tuple[ModelRow, ...]) -> ExportRecord:
    """Write the folder, then hold it to what was measured in a process that knows nothing of Secateur."""
    dense, dtype = run.inputs.dense, export_dtype(run)
    form = express(dense, choice.architecture, dtype)
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    with stage_clock("export", run.listener) as clock:
        with written_whole(run.folder.exported) as folder:
            save_checkpoint(dense, pruned, form, dtype, folder)
            public = without_folders(run.config)
            card = model_card(public.model.name, form, rows, choice, dtype, to_yaml(public))
            (folder / "README.md").write_text(card)
            seen = verify_export(folder, form, dense, pruned, probe, rows[-1].cost.total_parameters)
        clock.note = f"{seen.class_name}, loads in a fresh process, logits within {seen.max_logit_difference:.0e}"
    record = ExportRecord(
        folder=run.folder.exported.name,
        dtype=dtype,
        class_name=seen.class_name,
        remote_code=form.remote_code,
        loading_line=form.loading_lines(run.folder.exported.name)[0],
        num_parameters=seen.num_parameters,
        bytes=seen.bytes,
        max_logit_difference=seen.max_logit_difference,
    )
    run.store.end_stage("export", clock.seconds, record.model_dump(mode="json"))
    return record


def report_stage(run: Run, rows: tuple[ModelRow, ...], found: Found, choice: Choice, export: ExportRecord) -> Report:
    """Put everything into `report.json`; its presence marks a finished run, so it is written last."""
    libraries = ("torch", "transformers", "lightgbm")
    report = Report(
        secateur=version("secateur"),
        versions={"python": platform.python_version()} | {name: version(name) for name in libraries},
        model=without_folders(run.config).model.name,
        seed=run.config.seed,
        keep=run.config.budget.keep,
        fingerprints=run.inputs.fingerprints,
        num_tokens={str(role): token_set.num_tokens for role, token_set in run.inputs.sets.items()},
        num_measurements=len(found.measurements),
        rows=rows,
        excess_log_perplexity_left=excess_log_perplexity_left(rows),
        choice=choice,
        rounds=found.rounds,
        stages={row.name: row.seconds for row in run.store.stages()},
        export=export,
    )
    with written_whole(run.folder.report) as path:
        path.write_text(report.model_dump_json(indent=2) + "\n")
    return report
