"""How much disparity between groups of text can be had for little mean perplexity, on windows that chose nothing.

    python benchmarks/groups.py MODEL --group tinystories=FILE --group wikitext2=FILE --seeds 0,1,2,3,4 [--keep 0.8]
    ... [--data TEXT ...] [--within 0.02] [--set section.field=value ...] [--name stories260k]

One run per seed. Its point of best quality and its point of least disparity within so much of that are both cut,
reconstructed and given their gains, and compared on the groups' evaluation windows. Calibration text is the groups' own
where --data names no other. Writes `benchmarks/results/groups-NAME.json` after every seed and prints the table.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from secateur.assignments import parse_assignment, parse_list, parse_texts
from secateur.cli.terminal import quiet_libraries
from secateur.config import RunConfig, build_config, resolve
from secateur.pipeline import run_pipeline
from secateur.report.live import drawn_progress
from secateur.report.record import ModelRow
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.evaluate import evaluated, evaluation_sets
from secateur.stages.front import cut_point, finished_run, read_front

RESULTS = Path(__file__).parent / "results"


def mean_perplexity(row: ModelRow) -> float:
    """Geometric mean over groups."""
    return math.exp(statistics.mean(math.log(each.value) for each in row.groups.values()))


def figures(row: ModelRow, measured: dict[str, float]) -> dict[str, Any]:
    return {
        "perplexity": {name: each.value for name, each in row.groups.items()},
        "mean_perplexity": mean_perplexity(row),
        "disparity": row.disparity,
        "decoder_parameters": row.cost.decoder_parameters,
        "as_selected": measured,
    }


def run_one(config: RunConfig, console: Console) -> dict[str, Any]:
    """Search once; evaluate both points."""
    with tempfile.TemporaryDirectory() as folder, drawn_progress(console) as listener:
        root = Path(folder) / "run"
        report = run_pipeline(config, root, listener)
        front = read_front(root)
        chosen = next(point for point in front.points if point.chosen)
        found: dict[str, Any] = {}
        with finished_run(root, listener) as run:
            sets, bank = evaluation_sets(run), calibrate_stage(run).bank
            for name, point in (("best_quality", front.points[0]), ("least_disparity", chosen)):
                pruned, _ = cut_point(run, bank, front, point)
                row = evaluated(run, sets, name, run.inputs.shape, point.architecture, pruned, 0.0)
                found[name] = figures(row, point.objectives)
    best, least = found["best_quality"], found["least_disparity"]
    return {
        "seed": config.seed,
        "dense": {name: each.value for name, each in report.row("dense").groups.items()},
        **found,
        "disparity_ratio": least["disparity"] / best["disparity"],
        "mean_perplexity_ratio": least["mean_perplexity"] / best["mean_perplexity"],
        "front": [{"objectives": point.objectives, "log_ratios": point.log_ratios} for point in front.points],
        "kendall_tau": {name: quality.kendall_tau for name, quality in report.rounds[-1].targets.items()},
    }


def table_of(runs: list[dict[str, Any]], keep: float) -> Table:
    """One line per seed, evaluation windows."""
    table = Table(title=f"{keep:g} kept: best quality -> least disparity, evaluation windows", title_justify="left")
    for title in ("seed", "disparity", "ratio", "mean perplexity", "ratio", "as selected: disparity", "mean"):
        table.add_column(title, justify="right")
    for run in runs:
        best, least = run["best_quality"], run["least_disparity"]
        before, after = best["as_selected"], least["as_selected"]
        table.add_row(
            str(run["seed"]),
            f"{best['disparity']:.3f} -> {least['disparity']:.3f}",
            f"{run['disparity_ratio']:.3f}",
            f"{best['mean_perplexity']:.3f} -> {least['mean_perplexity']:.3f}",
            f"{run['mean_perplexity_ratio']:.3f}",
            f"{before['disparity']:.3f} -> {after['disparity']:.3f}",
            f"{math.exp(after['quality'] - before['quality']):.3f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--group", action="append", required=True, metavar="NAME=FILE")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--within", type=float, default=0.02)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--name")
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console(width=160)
    groups = parse_texts(arguments.group, "--group")
    name = arguments.name or Path(arguments.model).name.lower()
    record: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "model": Path(arguments.model).name,
        "groups": {group: Path(source).name for group, source in groups.items()},
        "data": [Path(source).name for source in arguments.data or groups.values()],
        "keep": arguments.keep,
        "within": arguments.within,
        "settings": arguments.assignments,
        "runs": [],
    }
    RESULTS.mkdir(exist_ok=True)
    for seed in parse_list("--seeds", arguments.seeds, int):
        layers: list[dict[str, Any]] = [
            {"seed": seed, "model": {"name": arguments.model}, "budget": {"keep": arguments.keep}},
            {"data": {"sources": arguments.data or list(groups.values()), "groups": groups}},
            {"search": {"choose": "least_disparity", "within": arguments.within}},
            *map(parse_assignment, arguments.assignments),
        ]
        console.print(f"seed {seed}")
        record["runs"].append(run_one(resolve(build_config(layers)), console))
        (RESULTS / f"groups-{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(table_of(record["runs"], arguments.keep))


if __name__ == "__main__":
    main()
