"""`secateur soup`: finished recoveries of the same pruned model become one."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import DataOption, DeviceOption
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing
from secateur.cli.terminal import quiet_libraries, user_errors


def soup_command(
    ingredients: Annotated[
        list[Path], typer.Argument(help="Folders of recovered models or their adapters; two or more.", metavar="DIR...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    method: Annotated[
        str, typer.Option(help="greedy: what helps on a share of --data goes in, best first; uniform: all of them.")
    ] = "greedy",
    data: DataOption = None,
    base: Annotated[Path | None, typer.Option(help="Folder of the model that adapters belong to.")] = None,
    device: DeviceOption = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run the modelling file that comes with a model.")
    ] = False,
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
) -> None:
    """Average recovered models into one that is no worse than the best of them on the text that chose."""
    with user_errors():
        showing = Showing(quiet, json_progress)
        quiet_libraries()
        from secateur.report.soup import soup_table, verdict
        from secateur.stages.soup import SoupRequest, make_soup

        wanted = SoupRequest(tuple(ingredients), out, method, tuple(data or ()), base, device, trust_remote_code)
        with showing.progress(out) as (shown, listener):
            report = make_soup(wanted, listener)
        if shown.talks:
            shown.console.print(soup_table(report))
            said = verdict(report)
            if said is not None:
                shown.console.print(said, highlight=False, soft_wrap=True)
        shown.result(out, out / "soup.json")
