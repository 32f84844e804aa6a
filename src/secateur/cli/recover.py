"""`secateur recover`: train what was pruned, by Secateur or by another tool, for a short while."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.completion import complete_recover
from secateur.cli.options import DataOption
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing, TrackOption
from secateur.cli.run_options import ConfigOption, DtypeOption, RunDeviceOption, SeedOption, SetOption
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
        typer.Option(help="Share of KL to the dense model in the loss; 0 if not given.", min=0, max=1),
    ] = None,
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
        from secateur.assignments import parse_assignment
        from secateur.config import read_yaml
        from secateur.recovery_folder import recovery_request

        layers: list[dict[str, Any]] = [read_yaml(config)] if config else []
        layers.append({"recovery": {"method": method} | ({} if distill is None else {"distill": distill})})
        layers += [{"model": {key: value}} for key, value in {"device": device, "dtype": dtype}.items() if value]
        layers += [{"seed": seed}] if seed is not None else []
        # Asked for on the command line; the code is that of the model that was named there.
        layers += [{"model": {"trust_remote_code": True}}] if trust_remote_code else []
        layers += [parse_assignment(assignment) for assignment in assignments or []]
        request = recovery_request(source, tuple(data or ()), dense, layers)
        is_run = (Path(source) / "run.db").is_file()
        root = out or (Path(source) / "recovered" if is_run else Path("runs") / f"{Path(source).name}-recovered")
        recover_and_print(request, root, Showing(quiet, json_progress, tuple(track or ())))


def recover_and_print(request: Any, root: Path, showing: Showing) -> None:
    """Recover with progress, then print the table; say how to resume if interrupted."""
    quiet_libraries()
    from secateur.recovering import recover_folder
    from secateur.recovery_folder import RecoveryFolder

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
