"""`secateur plan`: what a run would do and cost, before any work."""

from pathlib import Path

from secateur.cli.options import DataOption, GroupsOption, OptionalModelArgument
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
from secateur.cli.terminal import quiet_libraries, user_errors


def plan_command(
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
    data: DataOption = None,
    groups: GroupsOption = None,
    preset: PresetOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    device: RunDeviceOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = None,
) -> None:
    """Say what pruning MODEL would do, how long it would take here, and what could be exported; nothing is written."""
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
        built = build_config(layers)
        text_given = bool(built.data.sources or built.data.evaluation or built.model.name == "demo")
        if not text_given:
            # Generated text stands in: it only has to be long enough.
            built = build_config([*layers, {"data": {"sources": ["demo"]}}])
        resolved = resolve(built)
        quiet_libraries()
        from rich.console import Console

        from secateur.plan import plan_run
        from secateur.report.plan_table import plan_lines
        from secateur.runs.folder import RunFolder

        console = Console()
        scratch = RunFolder(Path("runs")).scratch
        plan = plan_run(resolved, scratch, text_given=text_given)
        for label, lines in plan_lines(plan).items():
            for number, line in enumerate(lines):
                console.print(
                    f"{label if not number else '':<12} {line}", highlight=False, markup=False, soft_wrap=True
                )
