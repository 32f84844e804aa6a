"""`secateur prune` and `secateur resume`: the main flow, and going on with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.compare import compare_and_print
from secateur.cli.execution import ExecutionOption, ExecutorOption, RayAddressOption, WorkersOption, execution_of
from secateur.cli.options import DataOption, FolderArgument, GroupsOption, OptionalModelArgument
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing, TrackOption
from secateur.cli.recover import recover_and_print
from secateur.cli.run_options import (
    ConfigOption,
    DtypeOption,
    KeepOption,
    MaxCacheOption,
    MaxDropOption,
    MaxFlopsOption,
    MaxLatencyOption,
    MaxParamsOption,
    MinimizeOption,
    PresetOption,
    RecipeOption,
    RecoverOption,
    RobustOption,
    RunDeviceOption,
    SeedOption,
    SetOption,
    TargetOption,
    TensorParallelOption,
    run_layers,
)
from secateur.cli.terminal import quiet_libraries, resumable, user_errors


def prune_command(
    model: OptionalModelArgument = None,
    keep: KeepOption = None,
    max_params: MaxParamsOption = None,
    max_flops: MaxFlopsOption = None,
    max_kv_cache_bytes: MaxCacheOption = None,
    max_latency_ms: MaxLatencyOption = None,
    max_drop: MaxDropOption = None,
    minimize: MinimizeOption = None,
    target: TargetOption = None,
    recover: RecoverOption = None,
    recipe: RecipeOption = None,
    robust: RobustOption = None,
    tensor_parallel: TensorParallelOption = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/MODEL-BUDGET if not given.")] = None,
    data: DataOption = None,
    groups: GroupsOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    device: RunDeviceOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
    track: TrackOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    execution: ExecutionOption = None,
) -> None:
    """Prune MODEL to the budget and export the result."""
    with user_errors():
        from secateur.config import build_config, resolve

        layers = run_layers(
            model=model,
            keep=keep,
            max_params=max_params,
            max_flops=max_flops,
            max_kv_cache_bytes=max_kv_cache_bytes,
            max_latency_ms=max_latency_ms,
            max_drop=max_drop,
            minimize=minimize,
            target=target,
            recover=recover,
            recipe=recipe,
            robust=robust,
            tensor_parallel=tensor_parallel,
            data=data,
            groups=groups,
            preset=preset,
            config=config,
            assignments=assignments,
            device=device,
            dtype=dtype,
            seed=seed,
        )
        resolved = resolve(build_config(layers))
        name = Path(resolved.model.name).name or "model"
        root = out or Path("runs") / f"{name}-{resolved.budget.title}"
        showing = Showing(quiet, json_progress, tuple(track or ()))
        who = execution_of(executor, workers, ray_address, execution)
        run_and_print(root, lambda listener: pipeline().run_pipeline(resolved, root, listener, execution=who), showing)


def resume_command(
    folder: FolderArgument,
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
    track: TrackOption = None,
    executor: ExecutorOption = None,
    workers: WorkersOption = None,
    ray_address: RayAddressOption = None,
    execution: ExecutionOption = None,
) -> None:
    """Go on with an interrupted run, recovery or comparison."""
    with user_errors():
        showing = Showing(quiet, json_progress, tuple(track or ()))
        if (folder / "comparison.yaml").is_file():
            quiet_libraries()
            from secateur.comparison import resume_comparison

            compare_and_print(folder, lambda listener: resume_comparison(folder, listener), showing)
            return
        if (folder / "recovery.yaml").is_file():
            from secateur.recovery_folder import read_request

            recover_and_print(read_request(folder), folder, showing)
            return
        who = execution_of(executor, workers, ray_address, execution)
        run_and_print(folder, lambda listener: pipeline().resume_pipeline(folder, listener, who), showing)


def pipeline() -> Any:
    """Import the main flow, and with it torch, only when a verb needs it."""
    quiet_libraries()
    from secateur import pipeline as module

    return module


def run_and_print(root: Path, work: Any, showing: Showing) -> None:
    """Run with progress, then print the final table; say how to resume if interrupted."""
    with resumable(root / "config.yaml"), showing.progress(root) as (shown, listener):
        report = work(listener)
    if shown.talks:
        print_report(shown.console, report)
        if (root / "report.html").is_file():
            shown.console.print(f"report: {root / 'report.html'}", highlight=False, soft_wrap=True)
    shown.result(root / "exported", root / "report.json")


def print_report(console: Any, report: Any) -> None:
    """Print what a run has come to."""
    from secateur.report.table import architecture_table, final_table, group_table, summary_lines

    console.print(architecture_table(report))
    console.print(final_table(report))
    if report.rows[0].groups:
        console.print(group_table(report))
    for line in summary_lines(report):
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
