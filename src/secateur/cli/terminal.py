"""What every verb does at a terminal: errors in one line, libraries that keep quiet, how to go on after Ctrl-C."""

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from secateur.errors import SecateurError


def quiet_libraries() -> None:
    """Keep transformers' own bars and notices, and the hub client's, out of the run's output."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def resumable(begun: Path, way: str | None = None) -> Iterator[None]:
    """Say after Ctrl-C how to go on, if there is something to go on with.

    Args:
        way: `secateur resume` if not given.
    """
    try:
        yield
    except KeyboardInterrupt:
        hint = f"go on with: {way or f'secateur resume {begun.parent}'}" if begun.is_file() else "nothing was written"
        typer.echo(f"\ninterrupted; {hint}", err=True)
        raise typer.Exit(130) from None


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn an error that was raised on purpose into one line and its exit code."""
    # Where torchao is installed, transformers imports it, and it names the GPU kernels that it does not find and what
    # torch thinks of its enums: before anything heavy is imported, since that is when it speaks.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    except SecateurError as error:
        typer.echo(f"secateur: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(error.exit_code) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            name = str(error.filename)
            said = f"{name[:60]!r}... is too long for a path, {len(name):,} characters; give a shorter one"
            typer.echo(f"secateur: {said}", err=True)
            raise typer.Exit(2) from error
        if not is_disk_full(error):
            raise
        typer.echo(
            "secateur: the disk is full; what was finished is kept: make room, and go on with the same command or "
            "`secateur resume`",
            err=True,
        )
        raise typer.Exit(1) from error


def is_disk_full(error: BaseException) -> bool:
    """Say whether there was no room: Python, SQLite and safetensors each say it in their way."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "disk is full" in str(error) or "No space left on device" in str(error)
