"""The command line: one verb per thing a user wants, each a thin call into the library.

Heavy imports are inside the verbs, so that `secateur --help` answers at once.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer

from secateur.cli.compare import compare_command
from secateur.cli.evaluate import evaluate_command
from secateur.cli.export import export_command
from secateur.cli.prune import prune_command, resume_command
from secateur.cli.show import show_command
from secateur.machine import settle_process

VERBS: dict[str, Callable[..., Any]] = {
    "prune": prune_command,
    "resume": resume_command,
    "show": show_command,
    "export": export_command,
    "evaluate": evaluate_command,
    "compare": compare_command,
}


def command_line() -> typer.Typer:
    """Put the verbs together, in the order in which `--help` lists them."""
    line = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Make a large language model smaller: a learned accuracy predictor decides how much of every layer goes.",
    )
    for name, verb in VERBS.items():
        line.command(name)(verb)
    return line


app = command_line()


def main() -> None:
    """Entry point of the `secateur` command."""
    settle_process()
    sys.exit(app())
