"""`secateur doctor`: what this installation has, and what it could have."""

from typing import Annotated

import typer

from secateur.cli.terminal import quiet_libraries, user_errors

GIB = 1 << 30


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for a bug report or a script.")] = False,
) -> None:
    """Say which versions, devices and memory there are, and what each extra would add."""
    with user_errors():
        quiet_libraries()
        from rich.console import Console
        from rich.markup import escape

        from secateur.doctor import diagnose

        found = diagnose()
        if as_json:
            typer.echo(found.model_dump_json(indent=2))
            raise typer.Exit(0 if found.healthy else 1)
        console = Console(highlight=False, soft_wrap=True)

        def say(mark: str, text: str) -> None:
            style = {"ok": "green", "no": "yellow", "!!": "bold red"}[mark]
            console.print(f"[{style}]{mark}[/]  {escape(text)}")

        def say_extra(name: str, adds: str, more: str) -> None:
            say("no" if more else "ok", f"{name:<12} {adds:<52} {more}".rstrip())

        console.print(f"secateur {found.secateur}, Python {found.python}, {found.system}")
        say("ok", ", ".join(f"{name} {installed}" for name, installed in found.versions.items()))
        for name, wanted in found.outdated.items():
            say("!!", f"{name}: {wanted} is not what Secateur was made for; pip install --upgrade secateur")
        for device in found.devices:
            memory = f"{device.free_bytes / GIB:.1f} of {device.memory_bytes / GIB:.1f} GiB free"
            say("ok", f"{device.name}: {memory}, measures candidates in {bfloat16(device.bfloat16)}")
        if len(found.devices) == 1:
            say("no", "no CUDA device: models are computed on the CPU")
        say("ok", f"{found.threads} threads on {found.cores} cores, {found.disk_free_bytes / GIB:.0f} GiB free on disk")
        console.print("extras")
        for extra in found.extras:
            say_extra(extra.name, extra.adds, extra.install if extra.missing else "")
        raise typer.Exit(0 if found.healthy else 1)


def bfloat16(fast: bool) -> str:
    return "bfloat16" if fast else "float32 (no fast bfloat16)"
