"""`secateur show`: what a run or a comparison has found so far."""

from typing import Annotated

import typer

from secateur.cli.compare import print_comparison
from secateur.cli.options import FolderArgument
from secateur.cli.terminal import quiet_libraries, user_errors


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
