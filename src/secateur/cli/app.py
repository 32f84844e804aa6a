"""The command line: one verb per thing a user wants, each a thin call into the library.

Heavy imports are inside the verbs, so that `secateur --help` answers at once.
"""

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from secateur.cli.compare import compare_command
from secateur.cli.configuration import config_command, init_command
from secateur.cli.doctor import doctor_command
from secateur.cli.evaluate import evaluate_command
from secateur.cli.export import export_command
from secateur.cli.help import CommandLine, Verb
from secateur.cli.plan import plan_command
from secateur.cli.prune import prune_command, resume_command
from secateur.cli.recover import recover_command
from secateur.cli.report import report_command
from secateur.cli.show import show_command
from secateur.cli.soup import soup_command
from secateur.machine import settle_process

VERBS: dict[str, Callable[..., Any]] = {
    "prune": prune_command,
    "recover": recover_command,
    "plan": plan_command,
    "resume": resume_command,
    "show": show_command,
    "report": report_command,
    "export": export_command,
    "soup": soup_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
    "init": init_command,
    "config": config_command,
    "doctor": doctor_command,
}


def say_version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"secateur {version('secateur')}")
        raise typer.Exit
    return wanted


def every_verb(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=say_version, is_eager=True)
    ] = False,
) -> None:
    """Make a large language model smaller: a learned accuracy predictor decides how much of every layer goes."""


def command_line() -> typer.Typer:
    """Put the verbs together, in the order in which `--help` lists them."""
    # Help is plain text: typer's boxes take as long to import as all the rest, and break lines in narrow windows.
    line = typer.Typer(cls=CommandLine, rich_markup_mode=None, pretty_exceptions_enable=False)
    line.callback()(every_verb)
    for name, verb in VERBS.items():
        line.command(name, cls=Verb)(verb)
    return line


app = command_line()


def main() -> None:
    """Entry point of the `secateur` command."""
    settle_process()
    sys.exit(app())
