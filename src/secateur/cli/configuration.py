"""`secateur init` and `secateur config`: the configuration as a file, commented, checked, and as a JSON schema."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.options import DataOption
from secateur.cli.terminal import user_errors


def init_command(
    file: Annotated[Path, typer.Argument(help="File to write.", metavar="FILE")] = Path("run.yaml"),
    model: Annotated[str, typer.Option(help="Local Hugging Face folder, hub id, or `demo`.")] = "demo",
    keep: Annotated[float, typer.Option(help="Share of the decoder-layer parameters that may stay.")] = 0.75,
    data: DataOption = None,
) -> None:
    """Write a configuration with every setting, its default and what it means."""
    with user_errors():
        from secateur.config import build_config
        from secateur.config_file import commented_yaml
        from secateur.errors import ConfigError

        given: dict[str, dict[str, Any]] = {"model": {"name": model}, "budget": {"keep": keep}}
        if data or model == "demo":
            given["data"] = {"sources": list(data or ["demo"])}
        build_config([given])
        if file.exists():
            raise ConfigError(f"{str(file)!r} exists already; give another name, or remove it first")
        if not file.absolute().parent.is_dir():
            raise ConfigError(f"the folder of {str(file)!r} does not exist; make it first")
        file.write_text(commented_yaml(given), encoding="utf-8")
        typer.echo(f"{file}: {'change it, then' if data or model == 'demo' else 'name your text in it, then'}")
        typer.echo(f"secateur prune --config {file}")


def config_command(
    file: Annotated[
        Path | None, typer.Argument(help="Configuration to check; defaults if not given.", metavar="FILE")
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema instead, for editors.")] = False,
) -> None:
    """Check a configuration and print it whole, defaults included."""
    with user_errors():
        from secateur.config import build_config, read_yaml, to_yaml
        from secateur.config_file import config_schema

        if schema:
            typer.echo(config_schema())
            return
        typer.echo(to_yaml(build_config([read_yaml(file)] if file else [])), nl=False)
