"""Secateur against uniform LLM-Pruner at the same parameter count, side by side, over seeds.

    python benchmarks/against_uniform.py                          the embedded demo model
    python benchmarks/against_uniform.py MODEL --data TEXT        any other
    ... --keep 0.8 --keep 0.5 --seed 0 --seed 1 --seed 2 --name stories260k

Every figure is an evaluation perplexity of one run of the pipeline, which measures dense, baseline and result on the
same windows. Writes `benchmarks/results/NAME.json` and prints the table of it.
"""

import argparse
import json
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from secateur.assignments import parse_assignment
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.pipeline import run_pipeline
from secateur.report.live import drawn_progress
from secateur.report.record import Report

RESULTS = Path(__file__).parent / "results"


def run_one(model: str, data: list[str], keep: float, seed: int, assignments: list[str], console: Console) -> Report:
    layers: list[dict[str, Any]] = [
        {"seed": seed, "model": {"name": model}, "budget": {"keep": keep}},
        *([{"data": {"sources": data}}] if data else []),
        *map(parse_assignment, assignments),
    ]
    with tempfile.TemporaryDirectory() as folder, drawn_progress(console) as listener:
        console.print(f"keep {keep}, seed {seed}")
        return run_pipeline(resolve(build_config(layers)), Path(folder) / "run", listener)


def figures(report: Report) -> dict[str, Any]:
    """Keep of one run what the table shows."""
    quality = report.rounds[-1].quality
    return {
        "keep": report.keep,
        "seed": report.seed,
        "perplexity": {row.name: row.perplexity.value for row in report.rows},
        "decoder_parameters": {row.name: row.cost.decoder_parameters for row in report.rows},
        "ratio_to": {
            name: report.row("secateur").perplexity.value / report.row(name).perplexity.value
            for name in report.excess_log_perplexity_left
        },
        "excess_log_perplexity_left": report.excess_log_perplexity_left,
        "num_measurements": report.num_measurements,
        "kendall_tau": quality.kendall_tau,
        "kendall_tau_reduction_only": quality.kendall_tau_reduction_only,
    }


def table_of(runs: list[dict[str, Any]]) -> Table:
    """Medians over seeds, with the range."""
    table = Table(title="evaluation perplexity, median over seeds (lowest to highest)", title_justify="left")
    titles = (
        "keep",
        "seeds",
        "dense",
        "uniform",
        "uniform, wide",
        "Secateur",
        "of uniform",
        "of wide",
        "excess left",
        "tau",
    )
    for title in titles:
        table.add_column(title, justify="right")
    for keep in sorted({run["keep"] for run in runs}, reverse=True):
        chosen = [run for run in runs if run["keep"] == keep]

        def spread(*path: str, of: list[dict[str, Any]] = chosen) -> str:
            values = []
            for run in of:
                value: Any = run
                for part in path:
                    value = value.get(part) if isinstance(value, dict) else None
                if value is not None:
                    values.append(value)
            if not values:
                return ""
            return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"

        table.add_row(
            str(keep),
            str(len(chosen)),
            spread("perplexity", "dense"),
            spread("perplexity", "uniform"),
            spread("perplexity", "uniform-wide"),
            spread("perplexity", "secateur"),
            spread("ratio_to", "uniform"),
            spread("ratio_to", "uniform-wide"),
            spread("excess_log_perplexity_left", "uniform"),
            spread("kendall_tau"),
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--keep", action="append", type=float)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--name", default="demo")
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console(width=280)
    runs = [
        figures(run_one(arguments.model, arguments.data, keep, seed, arguments.assignments, console))
        for keep in arguments.keep or [0.8, 0.5]
        for seed in arguments.seed or [0, 1, 2]
    ]
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "model": Path(arguments.model).name,
        "data": [Path(source).name for source in arguments.data] or ["demo"],
        "settings": arguments.assignments,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    console.print(table_of(runs))


if __name__ == "__main__":
    main()
