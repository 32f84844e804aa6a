"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[str, typer.Argument(help="Local Hugging Face folder, hub id, or `demo`.", metavar="MODEL")]
OptionalModelArgument = Annotated[
    str | None,
    typer.Argument(help="Local Hugging Face folder, hub id, or `demo`; else what --config names.", metavar="MODEL"),
]
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
