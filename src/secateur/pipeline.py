"""THE MAIN FLOW: from a dense model and a budget to a smaller model that works. Read it top to bottom.

    load -> calibrate -> define space -> [ propose -> measure -> fit ] x rounds -> prune -> evaluate -> recover
    -> export -> report

Every stage is a function of the configuration and of what the stages before it left in the run folder, so a run that
was killed goes on where it was: finished stages and every measurement are kept.
"""

import platform
from importlib.metadata import version
from pathlib import Path

from secateur.assignments import written_command
from secateur.begun import as_begun, check_folder, check_unchanged, pinned, stored_latency
from secateur.config import RunConfig, build_config, flat_text, read_yaml, to_yaml, without_folders
from secateur.errors import RunFolderError
from secateur.evaluation.speed import SpeedComparison
from secateur.execution.settings import LOCAL, Execution
from secateur.given import NOTHING_GIVEN, Given
from secateur.inputs import load_inputs
from secateur.recovery.recover import RecoveryRecord
from secateur.report.front import Front
from secateur.report.page.document import write_page
from secateur.report.record import (
    Begun,
    Choice,
    DropRecord,
    Explanation,
    ExportRecord,
    Report,
    Sample,
    Uniformity,
)
from secateur.report.recorded import BEGUN, read_recorded, takes_time
from secateur.report.rows import budget_uses, excess_log_perplexity_left
from secateur.runs.folder import RunFolder, remove, written_whole
from secateur.runs.progress import Listener, RunFinished, silent, stage_clock
from secateur.runs.records import read_record
from secateur.runs.store import RunStore
from secateur.search.ji2023 import PaperRecord
from secateur.search.task import Found
from secateur.space.architecture import Architecture
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.drop import drop_record, smallest_stage, verify_stage
from secateur.stages.evaluate import Evaluation, compared_rows, evaluate_recovered, evaluate_stage
from secateur.stages.expected import announce, speeds_here
from secateur.stages.explain import explain_stage
from secateur.stages.export import export_stage
from secateur.stages.front import front_stage
from secateur.stages.hidden import hidden_record, hidden_stage
from secateur.stages.prune import prune_stage
from secateur.stages.recover import recover_stage
from secateur.stages.run import Run
from secateur.stages.samples import samples_stage
from secateur.stages.search import search_stage
from secateur.stages.speed import speed_stage
from secateur.stages.uniformity import uniformity_stage
from secateur.stages.workers import refuse_execution, started


def run_pipeline(
    config: RunConfig,
    root: Path,
    listener: Listener = silent,
    given: Given = NOTHING_GIVEN,
    execution: Execution = LOCAL,
) -> Report:
    """Prune a model, or go on with a run that was interrupted in the same folder.

    Args:
        root: The run folder; made if it is missing.
        listener: Receives progress events.
        given: Model and texts that are in memory, where the configuration says so.
        execution: Who measures candidates; another one may go on with the run.

    Raises:
        InputError: The model, the text, the budget or the folder cannot be used; nothing was written.
        ExportError: The exported folder does not behave like the model that was measured.
        ExecutionError: Workers cannot be started.
    """
    folder = RunFolder(root)
    config = pinned(as_begun(folder, config))
    check_folder(folder, config)
    refuse_execution(execution, config)
    if folder.report.is_file():
        return read_record(folder.report, Report)
    with stage_clock("load", listener) as clock:
        inputs = load_inputs(config, stored_latency(folder), clock.advance, folder.scratch, given)
        # What takes how long here; asked only where somebody waits.
        speeds = speeds_here(config, inputs, folder) if listener is not silent else None
        clock.note = inputs.summary
    root.mkdir(parents=True, exist_ok=True)
    with folder.held():
        if not folder.holds_a_run:
            # On disk before the database, so that a folder with a database can always be resumed.
            with written_whole(folder.config) as path:
                path.write_text(to_yaml(config))
        with RunStore(folder.database) as store, started(execution) as workers:
            run = Run(config, inputs, folder, store, listener, workers)
            if speeds is not None:
                announce(run, speeds)
            return run_stages(run, clock.seconds)


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
    evaluation = evaluate_stage(run, pruned, choice, calibrated.uniform_bank)
    result, recovery = recover_stage(run, pruned)
    if recovery is not None:
        evaluation = evaluate_recovered(run, evaluation, result, recovery.training.seconds)
    samples = samples_stage(run, result, calibrated.uniform_bank)
    explanation = explain_stage(run, calibrated.space, found, choice)
    drop = drop_record(run, result)
    export = export_stage(run, result, choice, evaluation.rows)
    speed = speed_stage(run)
    return report_stage(
        run, evaluation, speed, found, choice, front, uniformity, drop, export, explanation, samples, recovery
    )


def resume_pipeline(root: Path, listener: Listener = silent, execution: Execution = LOCAL) -> Report:
    """Go on with the run in a folder.

    Raises:
        RunFolderError: The folder holds no run.
    """
    folder = RunFolder(root)
    if not folder.holds_a_run:
        raise RunFolderError(
            f"{root} holds no run (no config.yaml); start one with `secateur prune MODEL --out {root}`"
        )
    return run_pipeline(build_config([read_yaml(folder.config)]), root, listener, execution=execution)


def remember_inputs(run: Run, load_seconds: float) -> None:
    """Store what the model and the text are, or check that they are still what they were; and what blocks take here."""
    latency = run.inputs.latency
    if latency is not None and run.store.stage("latency") is None:
        run.store.end_stage("latency", latency.seconds, latency.model_dump(mode="json"))
    if run.store.stage(BEGUN) is None:
        dense = run.inputs.dense.shape
        begun = Begun(
            secateur=version("secateur"),
            versions=versions(),
            dense=Architecture.dense(dense),
            decoder_parameters=run.inputs.original.shape.decoder_parameters,
            whole_experts=dense.whole_experts,
        )
        run.store.end_stage(BEGUN, 0.0, begun.model_dump(mode="json"))
    known = run.store.stage("load")
    if known is None:
        run.store.end_stage("load", load_seconds, run.inputs.fingerprints)
    else:
        check_unchanged(run.folder.root, known.named(), run.inputs.fingerprints)


def versions() -> dict[str, str]:
    """Give the versions of what results depend on."""
    libraries = ("torch", "transformers", "lightgbm")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


def report_stage(
    run: Run,
    evaluation: Evaluation,
    speed: SpeedComparison | None,
    found: Found,
    choice: Choice,
    front: Front,
    uniformity: Uniformity | None,
    drop: DropRecord | None,
    export: ExportRecord,
    explanation: Explanation | None,
    samples: tuple[Sample, ...],
    recovery: RecoveryRecord | None,
) -> Report:
    """Put everything into `report.html` and `report.json`, whose presence marks a finished run: it is written last."""
    paper = run.store.stage("paper")
    rows = evaluation.rows
    report = Report(
        secateur=version("secateur"),
        versions=versions(),
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
        paper=paper.read(PaperRecord) if paper else None,
        recovery=recovery,
        comparisons=compared_rows(run, evaluation),
        speed=speed,
        latency=run.inputs.latency,
        stages={row.name: row.seconds for row in run.store.stages() if takes_time(row.name)},
        export=export,
        whole_experts=run.inputs.dense.shape.whole_experts,
        explanation=explanation,
        samples=samples,
    )
    named = without_folders(run.config)
    page_of = read_recorded(run.folder.root, report)
    write_page(page_of, written_command(named, run.folder.root.name), to_yaml(named), run.folder.page)
    with written_whole(run.folder.report) as path:
        path.write_text(report.model_dump_json(indent=2) + "\n")
    # What was trained is in the export now.
    remove(run.folder.recovery)
    run.listener(finished(run.config, report))
    return report


def finished(config: RunConfig, report: Report) -> RunFinished:
    """Say of a report what listeners are told: the configuration, and the figures of its rows."""
    figures = {
        f"{row.name}/{name}": float(value)
        for row in report.rows
        for name, value in (
            ("perplexity", row.perplexity.value),
            ("kl", row.kl),
            ("parameter_reduction", row.parameter_reduction),
            ("decoder_parameters", row.cost.decoder_parameters),
        )
    }
    return RunFinished(flat_text(without_folders(config)), figures)
