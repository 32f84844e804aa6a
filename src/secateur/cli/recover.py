"""`secateur recover`: train what was pruned, by Secateur or by another tool, for a short while."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.completion import complete_recover
from secateur.cli.options import DataOption, GroupsOption
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing, TrackOption
from secateur.cli.run_options import (
    ConfigOption,
    DtypeOption,
    RecipeOption,
    RobustOption,
    RunDeviceOption,
    SeedOption,
    SetOption,
)
from secateur.cli.terminal import quiet_libraries, resumable, user_errors

SourceArgument = Annotated[
    str, typer.Argument(help="Run folder, or any pruned model: local folder or hub id.", metavar="DIR_OR_MODEL")
]


def recover_command(
    source: SourceArgument,
    data: DataOption = None,
    method: Annotated[
        str,
        typer.Option(
            help="lora, qlora (on 4-bit weights) or full (every weight; small models).",
            autocompletion=complete_recover,
        ),
    ] = "lora",
    dense: Annotated[
        str | None,
        typer.Option(help="The model that it was pruned from, to learn from and to compare with; a run knows its own."),
    ] = None,
    distill: Annotated[
        float | None,
        typer.Option(
            help="Share of KL to the dense model in the loss; 0.5 with a dense model, else 0, if not given.",
            min=0,
            max=1,
        ),
    ] = None,
    recipe: RecipeOption = None,
    robust: RobustOption = None,
    groups: GroupsOption = None,
    front: Annotated[
        bool,
        typer.Option("--front", help="Of a run: one shared adapter for all points of its front; then export them."),
    ] = False,
    between: Annotated[
        int,
        typer.Option(help="Of --front: further architectures, measured between the points, that take turns.", min=0),
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder; DIR/recovered for a run, else runs/MODEL-recovered.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    device: RunDeviceOption = None,
    dtype: DtypeOption = None,
    seed: SeedOption = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the modelling file that comes with a model.")
    ] = False,
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
    track: TrackOption = None,
) -> None:
    """Train a pruned model for a short while to get back what the cut took; nothing of the source is changed."""
    with user_errors():
        from secateur.assignments import parse_assignment, parse_texts
        from secateur.config import build_config, read_yaml
        from secateur.recipe import find_recipe
        from secateur.recovery_folder import recovery_request

        layers: list[dict[str, Any]] = [find_recipe(recipe)] if recipe else []
        layers += [read_yaml(config)] if config else []
        asked = {"method": method, "distill": distill, "robust": robust}
        layers.append({"recovery": {name: value for name, value in asked.items() if value is not None}})
        layers += [{"data": {"groups": parse_texts(groups, "--groups")}}] if groups else []
        layers += [{"model": {key: value}} for key, value in {"device": device, "dtype": dtype}.items() if value]
        layers += [{"seed": seed}] if seed is not None else []
        # Asked for on the command line; the code is that of the model that was named there.
        layers += [{"model": {"trust_remote_code": True}}] if trust_remote_code else []
        layers += [parse_assignment(assignment) for assignment in assignments or []]
        showing = Showing(quiet, json_progress, tuple(track or ()))
        if front:
            refuse_several()
            recover_front_and_print(Path(source), build_config(layers).recovery, between, showing)
            return
        request = recovery_request(source, tuple(data or ()), dense, layers)
        is_run = (Path(source) / "run.db").is_file()
        root = out or (Path(source) / "recovered" if is_run else Path("runs") / f"{Path(source).name}-recovered")
        recover_and_print(request, root, showing)


def refuse_several() -> None:
    """Refuse to train a whole front in several processes."""
    from secateur.errors import ConfigError
    from secateur.recovery.ranks import started_ranks

    if started_ranks().count > 1:
        raise ConfigError("--front trains in one process, and torchrun started several; start it without torchrun")


def recover_and_print(request: Any, root: Path, showing: Showing) -> None:
    """Recover with progress, then print the table; say how to resume if interrupted."""
    quiet_libraries()
    from secateur.recovering import help_recover, recover_folder
    from secateur.recovery.ranks import started_ranks
    from secateur.recovery_folder import RecoveryFolder

    if not started_ranks().leads:
        help_recover(request, root)
        return
    folder = RecoveryFolder(root)
    with resumable(folder.request), showing.progress(root) as (shown, listener):
        outcome = recover_folder(request, root, listener)
    if shown.talks:
        from secateur.report.evaluation import comparison_line
        from secateur.report.recovery import recovered_line, recovery_table

        shown.console.print(recovery_table(outcome.model, outcome.rows))
        for line in (recovered_line(outcome.rows, outcome.recovery), comparison_line(outcome.comparison)):
            shown.console.print(line, highlight=False, soft_wrap=not shown.console.is_terminal)
    shown.result(folder.exported, folder.outcome)


def recover_front_and_print(root: Path, recipe: Any, between: int, showing: Showing) -> None:
    """Recover a run's front with progress, then say what each point has of it."""
    quiet_libraries()
    from secateur.stages.recover_front import recover_front

    with resumable(root / "config.yaml", "the same command"), showing.progress(root) as (shown, listener):
        record = recover_front(root, recipe, listener, between=between)
    for point in record.points if shown.talks else ():
        gained = "" if point.loss.recovered else "; left as it was"
        line = (
            f"point {point.number}, {point.decoder_parameters:,} decoder parameters: selection loss "
            f"{point.loss.before:.4f} -> {point.loss.after:.4f}{gained}"
        )
        shown.console.print(line, highlight=False, soft_wrap=True)
    if shown.talks:
        shown.console.print(f"export a point with it: secateur export {root} --point K", soft_wrap=True, markup=False)
    shown.result(root / "recovery-front")
