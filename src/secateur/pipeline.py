"""THE MAIN FLOW: from a dense model and a budget to a smaller model that works. Read it top to bottom.

    load -> calibrate -> define space -> [ propose -> measure -> fit ] x rounds -> prune -> evaluate -> export -> report

Every stage is a function of the configuration and of what the stages before it left in the run folder, so a run that
was killed goes on where it was: finished stages and every measurement are kept.
"""

import platform
from importlib.metadata import version
from pathlib import Path

from secateur.config import RunConfig, build_config, read_yaml, to_yaml, without_folders
from secateur.errors import RunFolderError
from secateur.inputs import check_folder, check_unchanged, load_inputs, stored_latency
from secateur.report.front import Front
from secateur.report.record import Choice, DropRecord, ExportRecord, ModelRow, Report, Uniformity
from secateur.report.rows import budget_uses, excess_log_perplexity_left
from secateur.runs.folder import RunFolder, written_whole
from secateur.runs.progress import Listener, silent, stage_clock
from secateur.runs.store import RunStore
from secateur.search.ji2023 import PaperRecord
from secateur.search.task import Found
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.drop import drop_record, smallest_stage, verify_stage
from secateur.stages.evaluate import evaluate_stage
from secateur.stages.export import export_stage
from secateur.stages.front import front_stage
from secateur.stages.hidden import hidden_record, hidden_stage
from secateur.stages.prune import prune_stage
from secateur.stages.run import Run
from secateur.stages.search import search_stage
from secateur.stages.uniformity import uniformity_stage


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
        inputs = load_inputs(config, stored_latency(folder), clock.advance, folder.scratch)
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
    run = hidden_stage(run)
    calibrated = calibrate_stage(run)
    if run.config.budget.max_drop is None:
        found = search_stage(run, calibrated.space, calibrated.bank, calibrated.heuristics)
        uniformity = uniformity_stage(run, calibrated.bank, found)
        pruned, choice = prune_stage(run, calibrated.bank, found)
    else:
        found, uniformity = smallest_stage(run, calibrated.space, calibrated.bank), None
        pruned, choice = verify_stage(run, calibrated.bank, found)
    front = front_stage(run, found, choice)
    rows = evaluate_stage(run, pruned, choice, calibrated.uniform_bank)
    drop = drop_record(run, pruned)
    export = export_stage(run, pruned, choice, rows)
    return report_stage(run, rows, found, choice, front, uniformity, drop, export)


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
    """Store what the model and the text are, or check that they are still what they were; and what blocks take here."""
    latency = run.inputs.latency
    if latency is not None and run.store.stage("latency") is None:
        run.store.end_stage("latency", latency.seconds, latency.model_dump(mode="json"))
    known = run.store.stage("load")
    if known is None:
        run.store.end_stage("load", load_seconds, run.inputs.fingerprints)
    else:
        check_unchanged(run.folder.root, known.payload, run.inputs.fingerprints)


def report_stage(
    run: Run,
    rows: tuple[ModelRow, ...],
    found: Found,
    choice: Choice,
    front: Front,
    uniformity: Uniformity | None,
    drop: DropRecord | None,
    export: ExportRecord,
) -> Report:
    """Put everything into `report.json`; its presence marks a finished run, so it is written last."""
    libraries = ("torch", "transformers", "lightgbm")
    paper = run.store.stage("paper")
    report = Report(
        secateur=version("secateur"),
        versions={"python": platform.python_version()} | {name: version(name) for name in libraries},
        model=without_folders(run.config).model.name,
        seed=run.config.seed,
        keep=run.config.budget.keep,
        budget=budget_uses(run.inputs.budget, run.inputs.shape, choice.architecture, run.inputs.original.shape),
        method=run.config.search.method,
        fingerprints=run.inputs.fingerprints,
        num_tokens={str(role): token_set.num_tokens for role, token_set in run.inputs.sets.items()},
        num_measurements=found.num_measurements,
        rows=rows,
        excess_log_perplexity_left=excess_log_perplexity_left(rows),
        choice=choice,
        traded=front.traded(),
        uniformity=uniformity,
        hidden=hidden_record(run),
        drop=drop,
        rounds=found.rounds,
        paper=PaperRecord.model_validate(paper.payload) if paper else None,
        latency=run.inputs.latency,
        stages={row.name: row.seconds for row in run.store.stages()},
        export=export,
        whole_experts=run.inputs.dense.shape.whole_experts,
    )
    with written_whole(run.folder.report) as path:
        path.write_text(report.model_dump_json(indent=2) + "\n")
    return report
