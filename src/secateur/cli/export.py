"""`secateur export`: another point of a finished run's front, or the result in 8 bits."""

from pathlib import Path
from typing import Annotated

import typer

from secateur.cli.options import FolderArgument
from secateur.cli.progress import JsonProgressOption, QuietOption, Showing
from secateur.cli.terminal import quiet_libraries, user_errors


def export_command(
    folder: FolderArgument,
    point: Annotated[
        int | None, typer.Option(help="K of a point of the Pareto front, as `secateur show DIR` lists them.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: weights in 8 bits (torchao); of the run's result, or of --point K.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; DIR/exported-K, or exported-int8, if not given.")
    ] = None,
    quiet: QuietOption = False,
    json_progress: JsonProgressOption = False,
) -> None:
    """Export another point of a finished run's Pareto front, or quantise; nothing is searched again."""
    with user_errors():
        quiet_libraries()
        from secateur.errors import ConfigError
        from secateur.stages.front import export_point

        showing = Showing(quiet, json_progress)
        if point is None and quantize is None:
            raise ConfigError("secateur export needs --point K, --quantize int8, or both")
        if quantize is not None:
            from secateur.stages.quantize import quantize_export

            source = folder / ("exported" if point is None else f"exported-{point}")
            with showing.progress(folder) as (shown, listener):
                if point is not None and not source.is_dir():
                    export_point(folder, point, None, listener)
                quantized = quantize_export(folder, source, quantize, out, listener)
            if shown.talks:
                shown.console.print(f"{quantize}: {quantized.note}", highlight=False, soft_wrap=True)
            shown.result(out or source.with_name(quantized.folder))
            return
        assert point is not None, "one of the two was given"
        with showing.progress(folder) as (shown, listener):
            record, row = export_point(folder, point, out, listener)
        state = ", recovered" if row.name == "recovered" else ""
        lines = [
            f"point {point}{state}: perplexity {row.perplexity.value:.4f} ({row.perplexity.protocol}), "
            f"KL {row.kl:.4f}, {record.num_parameters:,} parameters",
            *(f"{name}: perplexity {each.value:.4f}" for name, each in row.groups.items()),
            *([f"disparity {row.disparity:.4f}"] if row.disparity is not None else []),
        ]
        for line in lines if shown.talks else ():
            shown.console.print(line, highlight=False, soft_wrap=True)
        shown.result(out or folder / record.folder)
