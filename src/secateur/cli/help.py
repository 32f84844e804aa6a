"""How `--help` and mistakes on the command line read: options by what they are for, and one line for a mistake."""

from collections import defaultdict
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Heading of options that name no section of their own (`rich_help_panel`).
USUAL = "Options"
WELCOME = """\
Secateur makes a large language model smaller: a learned accuracy predictor decides how much of every layer goes.

  secateur plan MODEL --keep 0.8                         what a run would take, before any work
  secateur prune MODEL --keep 0.8 --data text.txt        prune it, and export what others load
  secateur evaluate runs/NAME/exported --data more.txt   what the result is worth

MODEL is a Hugging Face folder, a hub id, or `demo`, which needs nothing else. All commands: secateur --help"""


class Verb(TyperCommand):
    """A command whose options are listed under the headings that they were declared with."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else USUAL
                sections[getattr(parameter, "rich_help_panel", None) or usual].append(record)
        # What belongs to no section, --help among it, comes last.
        for name in sorted(sections, key=lambda heading: heading == USUAL):
            with formatter.section(name):
                formatter.write_dl(sections[name])


class CommandLine(TyperGroup):
    """All verbs; a mistake in what was typed gets one line and exit code 2, like any other bad input."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(WELCOME)
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List every verb with its whole first line."""
        verbs = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(1_000)) for name, verb in verbs if verb is not None])

    def main(self, *args: Any, **extra: Any) -> Any:
        if not extra.get("standalone_mode", True):
            return super().main(*args, **extra)
        try:
            code = super().main(*args, **extra | {"standalone_mode": False})
        except typer.TyperException as mistake:
            typer.echo(mistake_line(mistake), err=True)
            raise SystemExit(mistake.exit_code) from mistake
        except typer.Abort as end:
            raise SystemExit(130) from end
        raise SystemExit(code if isinstance(code, int) else 0)


def mistake_line(mistake: typer.TyperException) -> str:
    """Say what is wrong with what was typed, and where help is."""
    context = getattr(mistake, "ctx", None)
    # However the program was started, the verb is the last context's name: python -m secateur is the same.
    verb = [context.info_name] if context is not None and context.parent is not None else []
    message = mistake.format_message().rstrip(".")
    inner = mistake.__cause__
    got = f", got {inner.errors()[0]['input']!r}" if inner is not None and hasattr(inner, "errors") else ""
    return f"secateur: {message[:1].lower()}{message[1:]}{got}; see {' '.join(['secateur', *verb])} --help"
