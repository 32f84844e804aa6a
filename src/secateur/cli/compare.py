"""`secateur compare`: the field's methods side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import DataOption, ModelArgument
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing
from secateur.cli.terminal import quiet_libraries, resumable, user_errors


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
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
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
        showing = Showing(quiet, json_progress)
        compare_and_print(root, lambda listener: run_comparison(chosen, root, listener, join or ()), showing)


def compare_and_print(root: Path, work: Any, showing: Showing) -> None:
    """Compare with progress, then print tables and verdicts."""
    with resumable(root / "comparison.yaml"), showing.progress(root) as (shown, listener):
        comparison = work(listener)
    if shown.talks:
        print_comparison(shown.console, comparison)
        made = f"result: {root / 'comparison.md'}, comparison.png, comparison.json"
        shown.console.print(made, highlight=False, soft_wrap=True)
    else:
        shown.result(root / "comparison.md", root / "comparison.json")


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
