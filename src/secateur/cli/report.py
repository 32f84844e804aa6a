"""`secateur report`: `report.html` of a run, finished or not, drawn anew."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.terminal import user_errors


def report_command(
    folder: Annotated[Path | None, typer.Argument(help="Run folder.", metavar="DIR")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; report.html in the run folder if not given.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of report.json instead.")] = False,
) -> None:
    """Draw the report of a run as one page that works offline; also while the run is at work."""
    with user_errors():
        from secateur.assignments import written_command
        from secateur.config import build_config, read_yaml, to_yaml, without_folders
        from secateur.errors import RunFolderError
        from secateur.report.page.document import write_page
        from secateur.report.record import report_schema
        from secateur.report.recorded import read_recorded
        from secateur.runs.folder import RunFolder

        if schema:
            typer.echo(report_schema(), nl=False)
            return
        if folder is None:
            raise RunFolderError("no run folder was given; name one: secateur report DIR")
        if (folder / "comparison.yaml").is_file():
            raise RunFolderError(
                f"{folder} holds a comparison, whose tables and picture are comparison.md and comparison.png; give the "
                f"folder of a run, such as one of {folder / 'cells'}"
            )
        run = read_recorded(folder)
        config = without_folders(build_config([read_yaml(RunFolder(folder).config)]))
        path = out or RunFolder(folder).page
        if not path.parent.is_dir():
            raise RunFolderError(f"--out {path}: there is no folder {path.parent}; make it first")
        write_page(run, written_command(config, run.name), to_yaml(config), path)
        typer.echo(path)
