"""`secateur prune` and `secateur resume`: the main flow, and going on with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.compare import compare_and_print
from secateur.cli.completion import (
    complete_device,
    complete_dtype,
    complete_minimize,
    complete_preset,
    complete_setting,
    complete_target,
)
from secateur.cli.options import DataOption, FolderArgument, GroupsOption, OptionalModelArgument
from secateur.cli.terminal import quiet_libraries, resumable, user_errors


def prune_command(
    model: OptionalModelArgument = None,
    keep: Annotated[
        float | None,
        typer.Option(help="Share of the decoder-layer parameters that may stay; 0.75 if the budget has no limit."),
    ] = None,
    max_params: Annotated[
        str | None, typer.Option(help="Parameters of the whole model, at most: 1.2B, 350M, 90k or a number.")
    ] = None,
    max_flops: Annotated[
        str | None, typer.Option(help="FLOPs per token in the decoder layers' matrices, at most.")
    ] = None,
    max_kv_cache_bytes: Annotated[
        str | None, typer.Option(help="Bytes of KV cache per token of context, at 2 bytes an entry, at most.")
    ] = None,
    max_latency_ms: Annotated[
        list[str] | None,
        typer.Option(help="prefill=MS for a prompt, decode=MS or MS per generated token, on this device; twice."),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(help="As small as quality allows: 5% (perplexity may rise), kl=0.05 (nats) or accuracy=2%."),
    ] = None,
    minimize: Annotated[
        str | None,
        typer.Option(
            help="What --max-drop makes small: params, flops, kv-cache-bytes, prefill or decode.",
            autocompletion=complete_minimize,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="uniform, padded (whatever loads stock models), per-layer (transformers) or gguf (llama.cpp).",
            autocompletion=complete_target,
        ),
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="Devices that will share the model: heads and widths divide among them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/MODEL-BUDGET if not given.")] = None,
    data: DataOption = None,
    groups: GroupsOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A published method instead of the default, such as ji2023; see the README.",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any part of the configuration.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.field=value; may be given several times.", autocompletion=complete_setting),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; auto if not given.", autocompletion=complete_device)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="To compute in: float32, bfloat16, float16, or auto (float32 on a CPU).", autocompletion=complete_dtype
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice derives from it; 0 if not given.")] = None,
) -> None:
    """Prune MODEL to the budget and export the result."""
    with user_errors():
        from secateur.assignments import parse_assignment, parse_texts
        from secateur.budget import parse_latencies
        from secateur.config import build_config, read_yaml, resolve
        from secateur.errors import ConfigError
        from secateur.presets import find_preset

        layers: list[dict[str, Any]] = [dict(find_preset(preset).settings)] if preset else []
        layers += [read_yaml(config)] if config else []
        if model is not None:
            layers.append({"model": {"name": model}})
        elif not any(layer.get("model", {}).get("name") for layer in layers):
            raise ConfigError("no model was given; name one: secateur prune MODEL, or model.name in the --config file")
        if data:
            layers.append({"data": {"sources": data}})
        if groups:
            layers.append({"data": {"groups": parse_texts(groups, "--groups")}})
        limits = {
            "keep": keep,
            "max_params": max_params,
            "max_flops": max_flops,
            "max_kv_cache_bytes": max_kv_cache_bytes,
            "max_drop": max_drop,
            "minimize": minimize,
        }
        limits |= parse_latencies(max_latency_ms or [])
        layers.append({"budget": {name: limit for name, limit in limits.items() if limit is not None}})
        layers += [{"model": {key: value}} for key, value in {"device": device, "dtype": dtype}.items() if value]
        if seed is not None:
            layers.append({"seed": seed})
        if target is not None:
            layers.append({"export": {"target": target}})
        if tensor_parallel is not None:
            layers.append({"space": {"tensor_parallel": tensor_parallel}})
        layers += [parse_assignment(assignment) for assignment in assignments or []]
        resolved = resolve(build_config(layers))
        name = Path(resolved.model.name).name or "model"
        root = out or Path("runs") / f"{name}-{resolved.budget.title}"
        run_and_print(root, lambda listener: pipeline().run_pipeline(resolved, root, listener))


def resume_command(folder: FolderArgument) -> None:
    """Go on with an interrupted run or comparison."""
    with user_errors():
        if (folder / "comparison.yaml").is_file():
            quiet_libraries()
            from secateur.comparison import resume_comparison

            compare_and_print(folder, lambda listener: resume_comparison(folder, listener))
            return
        run_and_print(folder, lambda listener: pipeline().resume_pipeline(folder, listener))


def pipeline() -> Any:
    """Import the main flow, and with it torch, only when a verb needs it."""
    quiet_libraries()
    from secateur import pipeline as module

    return module


def run_and_print(root: Path, work: Any) -> None:
    """Run with progress on the terminal, then print the final table; say how to resume if interrupted."""
    from rich.console import Console

    from secateur.report.live import drawn_progress
    from secateur.report.table import architecture_table, final_table, group_table, summary_lines

    console = Console()
    with resumable(root / "config.yaml"), drawn_progress(console) as listener:
        report = work(listener)
    console.print(architecture_table(report))
    console.print(final_table(report))
    if report.rows[0].groups:
        console.print(group_table(report))
    for line in summary_lines(report):
        console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    console.print(f"result: {root / 'exported'}", highlight=False, soft_wrap=True)
