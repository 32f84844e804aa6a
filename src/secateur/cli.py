"""The command line: one verb per thing a user wants, each a thin call into the library.

Heavy imports are inside the verbs, so that `secateur --help` answers at once.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.errors import SecateurError
from secateur.machine import settle_process

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make a large language model smaller: a learned accuracy predictor decides how much of every layer goes.",
)

ModelArgument = Annotated[str, typer.Argument(help="Local Hugging Face folder, hub id, or `demo`.", metavar="MODEL")]
FolderArgument = Annotated[Path, typer.Argument(help="Run folder.", metavar="DIR")]
DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", help=".txt or .jsonl file, hub data set id, or `demo`; may be given several times."),
]
GroupsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--groups",
        help="NAME=PATH, text of a group (language, domain, people) that should lose no more than others; two or more.",
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command("prune")
def prune_command(
    model: ModelArgument,
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
        str | None, typer.Option(help="What --max-drop makes small: params, flops, kv-cache-bytes, prefill or decode.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="uniform, padded (whatever loads stock models), per-layer (transformers) or gguf (llama.cpp)."
        ),
    ] = None,
    tensor_parallel: Annotated[
        int | None, typer.Option(help="Devices that will share the model: heads and widths divide among them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/MODEL-BUDGET if not given.")] = None,
    data: DataOption = None,
    groups: GroupsOption = None,
    preset: Annotated[
        str | None, typer.Option(help="A published method instead of the default, such as ji2023; see the README.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with any part of the configuration.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value; may be given several times.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="To compute in: float32, bfloat16, float16, or auto (float32 on a CPU).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Every random choice derives from it; 0 if not given.")] = None,
) -> None:
    """Prune MODEL to the budget and export the result."""
    with user_errors():
        from secateur.assignments import parse_assignment, parse_texts
        from secateur.budget import parse_latencies
        from secateur.config import build_config, read_yaml, resolve
        from secateur.presets import find_preset

        layers: list[dict[str, Any]] = [dict(find_preset(preset).settings)] if preset else []
        layers += [read_yaml(config)] if config else []
        layers.append({"model": {"name": model}})
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
        name = Path(model).name or "model"
        root = out or Path("runs") / f"{name}-{resolved.budget.title}"
        run_and_print(root, lambda listener: pipeline().run_pipeline(resolved, root, listener))


@app.command("compare")
def compare_command(
    model: ModelArgument,
    keep: Annotated[
        list[float] | None,
        typer.Option(help="Share of the decoder-layer parameters that may stay; several times."),
    ] = None,
    methods: Annotated[str, typer.Option(help="`all`, or presets with commas between.")] = "all",
    seeds: Annotated[str, typer.Option(help="Seeds with commas between.")] = "0,1,2",
    out: Annotated[Path | None, typer.Option(help="Folder; runs/MODEL-compared if not given.")] = None,
    data: DataOption = None,
    text: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE, a further evaluation text under ppl-128; several times.")
    ] = None,
    text_tokens: Annotated[int, typer.Option(help="Tokens of each of these texts, at most.", min=128)] = 65_536,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings that all methods share.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="section.field=value for all methods; may be given several times.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")] = None,
    join: Annotated[
        list[Path] | None,
        typer.Option(
            help="A comparison with the same settings whose cells are taken over, its folder or JSON; several times."
        ),
    ] = None,
) -> None:
    """Run the field's methods side by side on MODEL: same text, parameter count and number of measurements."""
    with user_errors():
        from secateur.assignments import parse_assignment, parse_list, parse_texts
        from secateur.budget import USUAL_KEEP
        from secateur.config import build_config, read_yaml, resolve
        from secateur.presets import PRESETS

        layers: list[dict[str, Any]] = [read_yaml(config)] if config else []
        layers.append({"model": {"name": model} | ({"device": device} if device else {})})
        if data:
            layers.append({"data": {"sources": data}})
        layers += [parse_assignment(assignment) for assignment in assignments or []]
        base = resolve(build_config(layers))
        names = tuple(PRESETS) if methods == "all" else parse_list("--methods", methods, str)
        texts = parse_texts(text or [])
        seed_values = parse_list("--seeds", seeds, int)
        root = out or Path("runs") / f"{Path(model).name or 'model'}-compared"
        quiet_libraries()
        from secateur.comparison import run_comparison
        from secateur.comparison_plan import ComparisonConfig

        keeps = tuple(dict.fromkeys(keep or [base.budget.keep or USUAL_KEEP]))
        chosen = ComparisonConfig(
            base=base, methods=names, keeps=keeps, seeds=seed_values, texts=texts, text_tokens=text_tokens
        )
        compare_and_print(root, lambda listener: run_comparison(chosen, root, listener, join or ()))


@app.command("resume")
def resume_command(folder: FolderArgument) -> None:
    """Go on with an interrupted run or comparison."""
    with user_errors():
        if (folder / "comparison.yaml").is_file():
            quiet_libraries()
            from secateur.comparison import resume_comparison

            compare_and_print(folder, lambda listener: resume_comparison(folder, listener))
            return
        run_and_print(folder, lambda listener: pipeline().resume_pipeline(folder, listener))


@app.command("export")
def export_command(
    folder: FolderArgument,
    point: Annotated[
        int | None, typer.Option(help="K of a point of the Pareto front, as `secateur show DIR` lists them.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: weights in 8 bits (torchao); of the run's result, or of --point K.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; DIR/exported-K, or exported-int8, if not given.")
    ] = None,
) -> None:
    """Export another point of a finished run's Pareto front, or quantise; nothing is searched again."""
    with user_errors():
        from rich.console import Console

        from secateur.report.live import drawn_progress

        quiet_libraries()
        from secateur.errors import ConfigError
        from secateur.stages.front import export_point

        console = Console()
        if point is None and quantize is None:
            raise ConfigError("secateur export needs --point K, --quantize int8, or both")
        if quantize is not None:
            from secateur.stages.quantize import quantize_export

            source = folder / ("exported" if point is None else f"exported-{point}")
            with drawn_progress(console) as listener:
                if point is not None and not source.is_dir():
                    export_point(folder, point, None, listener)
                quantized = quantize_export(folder, source, quantize, out, listener)
            console.print(f"{quantize}: {quantized.note}", highlight=False, soft_wrap=True)
            console.print(f"result: {out or source.with_name(quantized.folder)}", highlight=False, soft_wrap=True)
            return
        assert point is not None, "one of the two was given"
        with drawn_progress(console) as listener:
            record, row = export_point(folder, point, out, listener)
        lines = [
            f"point {point}: perplexity {row.perplexity.value:.4f} ({row.perplexity.protocol}), KL {row.kl:.4f}, "
            f"{record.num_parameters:,} parameters",
            *(f"{name}: perplexity {each.value:.4f}" for name, each in row.groups.items()),
            *([f"disparity {row.disparity:.4f}"] if row.disparity is not None else []),
            f"result: {out or folder / record.folder}",
        ]
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)


@app.command("show")
def show_command(
    folder: FolderArgument, top: Annotated[int, typer.Option(help="How many candidates to list.")] = 10
) -> None:
    """Show what a run or a comparison has found so far."""
    with user_errors():
        from rich.console import Console

        if (folder / "comparison.yaml").is_file():
            quiet_libraries()
            from secateur.comparison_folder import ComparisonFolder, read_comparison

            print_comparison(Console(), read_comparison(ComparisonFolder(folder)))
            return

        from secateur.report.show import show_run

        console = Console()
        for part in show_run(folder, top):
            console.print(part)


@app.command("evaluate")
def evaluate_command(
    model: ModelArgument,
    data: DataOption = None,
    sequence_length: Annotated[int, typer.Option(help="Tokens per window; 128 is the protocol ppl-128.", min=2)] = 128,
    device: DeviceOption = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    batch_tokens: Annotated[int, typer.Option(help="Tokens per forward pass.", min=1)] = 4096,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run the modelling file that comes with the model, as per-layer exports need.")
    ] = False,
) -> None:
    """Print the perplexity of any Hugging Face causal model, with a bootstrap interval."""
    with user_errors():
        quiet_libraries()
        from secateur.evaluation.perplexity import evaluate_perplexity

        result = evaluate_perplexity(
            model, data or [], sequence_length, device, dtype, batch_tokens, seed, trust_remote_code
        )
        typer.echo(
            f"{result.protocol} of {model}: {result.value:.4f} "
            f"({result.confidence:.0%} interval {result.low:.4f} to {result.high:.4f})"
        )
        typer.echo(
            f"protocol: rows joined by a blank line, tokenised once, {result.num_windows:,} windows of "
            f"{sequence_length} tokens without overlap, {result.num_tokens:,} predictions; bootstrap over windows"
        )


def pipeline() -> Any:
    """Import the main flow, and with it torch, only when a verb needs it."""
    quiet_libraries()
    from secateur import pipeline as module

    return module


def quiet_libraries() -> None:
    """Keep transformers' own bars and notices, and the hub client's, out of the run's output."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


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


def compare_and_print(root: Path, work: Any) -> None:
    """Compare with progress on the terminal, then print tables and verdicts."""
    from rich.console import Console

    from secateur.report.live import drawn_progress

    console = Console()
    with resumable(root / "comparison.yaml"), drawn_progress(console) as listener:
        comparison = work(listener)
    print_comparison(console, comparison)
    console.print(f"result: {root / 'comparison.md'}, comparison.png, comparison.json", highlight=False, soft_wrap=True)


def print_comparison(console: Any, comparison: Any) -> None:
    """Print what there is of a comparison: one table per budget and text, then how Secateur stands."""
    from secateur.report.comparison import comparison_table, verdict_lines

    if comparison is None:
        console.print("no cell of the comparison is finished yet")
        return
    for text in (None, *(name for name in comparison.dense if name != "evaluation")):
        for keep in comparison.keeps:
            console.print(comparison_table(comparison, keep, text))
        for line in verdict_lines(comparison, text):
            console.print(line, highlight=False, soft_wrap=not console.is_terminal)
    if not comparison.finished:
        console.print(f"{len(comparison.cells)} cells so far, not finished", highlight=False)


@contextmanager
def resumable(begun: Path) -> Iterator[None]:
    """Say after Ctrl-C how to go on, if there is something to go on with."""
    try:
        yield
    except KeyboardInterrupt:
        hint = f"go on with: secateur resume {begun.parent}" if begun.is_file() else "nothing was written"
        typer.echo(f"\ninterrupted; {hint}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that was raised on purpose into one line and its exit code."""
    # Where torchao is installed, transformers imports it, and it names the GPU kernels that it does not find and what
    # torch thinks of its enums: before anything heavy is imported, since that is when it speaks.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except SecateurError as error:
        typer.echo(f"secateur: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(error.exit_code) from error


def main() -> None:
    """Entry point of the `secateur` command."""
    settle_process()
    sys.exit(app())
