"""How often a promised drop holds on windows that chose nothing, and how near the model is to the smallest that could.

    python benchmarks/max_drop.py MODEL --data TEXT [--limit 5% --limit 20% --limit 50%] [--seeds 10] [--quick]
    ... [--set section.field=value ...] [--sweep-set section.field=value ...] [--name stories260k] [--no-sweep]

One run per limit and seed: what it kept, and the drop on the evaluation windows. The sweep is the ordinary search and
prune at one share after another, with the same settings but for those of --sweep-set, and the first seed: the smallest
share whose drop on the EVALUATION windows is within the limit, which no run could know. It chooses by those windows:
a yardstick, not a method. Calibration is shared by runs of a seed.

Writes `benchmarks/results/max-drop-NAME.json` after every run, goes on with what is there, and prints the table.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from secateur.assignments import parse_assignment
from secateur.budget import Drop, parse_drop
from secateur.cli.terminal import quiet_libraries
from secateur.config import RunConfig, build_config, resolve, to_yaml
from secateur.inputs import load_inputs
from secateur.pipeline import remember_inputs
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Listener, silent
from secateur.runs.store import RunStore
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.drop import drop_record, smallest_stage, verify_stage
from secateur.stages.evaluate import evaluate_stage
from secateur.stages.prune import prune_stage
from secateur.stages.run import Run
from secateur.stages.search import search_stage

RESULTS = Path(__file__).parent / "results"
LIMITS = ("5%", "20%", "50%")
# Of decoder parameters; a sweep goes down from the first that is below what the runs kept plus this.
STEP, ABOVE = 0.02, 0.04
# A quick run says whether the benchmark works, and nothing about the product.
QUICK = (
    "search.measurements=30",
    "search.rounds=2",
    "search.reconstructed_tokens=4096",
    "data.calibration_tokens=8192",
)


def run_stages(config: RunConfig, folder: Path, calibrated_before: Path, listener: Listener = silent) -> dict[str, Any]:
    """Search, cut and evaluate, without an export, from a bank that an earlier run of the seed may have left."""
    root = RunFolder(folder)
    if calibrated_before.is_dir():
        shutil.copytree(calibrated_before, folder)
    folder.mkdir(parents=True, exist_ok=True)
    root.config.write_text(to_yaml(config))
    inputs = load_inputs(config)
    with root.held(), RunStore(root.database) as store:
        run = Run(config, inputs, root, store, listener)
        remember_inputs(run, 0.0)
        calibrated = calibrate_stage(run)
        if not calibrated_before.is_dir():
            shutil.copytree(folder, calibrated_before, ignore=shutil.ignore_patterns(".lock"))
        space, bank = calibrated.space, calibrated.bank
        if config.budget.max_drop is None:
            found = search_stage(run, space, bank)
            pruned, choice = prune_stage(run, bank, found)
        else:
            found = smallest_stage(run, space, bank)
            pruned, choice = verify_stage(run, bank, found)
        rows = evaluate_stage(run, pruned, choice, None).rows
        dense, result = rows[0], rows[-1]
        record = drop_record(run, pruned)
    return {
        "seed": config.seed,
        "kept": 1 - result.parameter_reduction,
        "drop": result.perplexity.value / dense.perplexity.value - 1,
        "num_measurements": found.num_measurements,
        "seconds": result.seconds,
    } | ({"record": record.model_dump(mode="json")} if record else {})


def table_of(record: dict[str, Any]) -> Table:
    """One line per limit."""
    table = Table(title="perplexity on evaluation windows, medians (lowest to highest)", title_justify="left")
    for title in ("limit", "seeds", "held", "drop", "kept", "verifications", "smallest of a sweep", "above it"):
        table.add_column(title, justify="right")
    for limit in dict.fromkeys(run["limit"] for run in record["runs"]):
        runs = [run for run in record["runs"] if run["limit"] == limit]
        smallest = record["smallest"].get(limit)

        def spread(values: list[float], form: str = ".3f") -> str:
            return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

        table.add_row(
            limit,
            str(len(runs)),
            f"{sum(run['record']['held'] for run in runs)} of {len(runs)}",
            spread([run["drop"] for run in runs], ".1%"),
            spread([run["kept"] for run in runs]),
            spread([len(run["record"]["verifications"]) for run in runs], ".0f"),
            f"{smallest:.3f}" if smallest else "",
            spread([run["kept"] - smallest for run in runs]) if smallest else "",
        )
    return table


def sweep(record: dict[str, Any], limit: Drop, title: str, run_at: Any) -> float | None:
    """Go down in steps from above what the runs kept; give the smallest share whose evaluation drop is within a limit.

    It ends when two shares in a row have lost more.
    """
    kept = [run["kept"] for run in record["runs"] if run["limit"] == title]
    share = min(round((max(kept) + ABOVE) / STEP) * STEP, 1 - STEP)
    smallest, missed = None, 0
    while missed < 2 and share > STEP:
        found = run_at(round(share, 4))
        if found["drop"] <= limit.most:
            smallest, missed = found["kept"], 0
        else:
            missed += 1
        share -= STEP
    return smallest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--limit", action="append")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    parser.add_argument("--sweep-set", action="append", default=[], dest="sweep_assignments")
    parser.add_argument("--name")
    parser.add_argument("--no-sweep", action="store_true")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console(width=160)
    settings = [*(QUICK if arguments.quick else ()), *arguments.assignments]
    seeds = min(arguments.seeds, 2) if arguments.quick else arguments.seeds
    limits = arguments.limit or list(LIMITS[1:2] if arguments.quick else LIMITS)
    name = arguments.name or Path(arguments.model).name.lower()
    path = RESULTS / f"max-drop-{name}.json"
    begun = json.loads(path.read_text()) if path.is_file() else {}
    record: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "model": Path(arguments.model).name,
        "data": [Path(source).name for source in arguments.data] or ["demo"],
        "settings": settings,
        "sweep_settings": arguments.sweep_assignments,
        "runs": [],
        "sweep": [],
        "smallest": {},
    }
    if [begun.get(part) for part in ("settings", "sweep_settings")] == [settings, arguments.sweep_assignments]:
        record |= {part: begun[part] for part in ("runs", "sweep", "smallest")}
    RESULTS.mkdir(exist_ok=True)

    def save() -> None:
        path.write_text(json.dumps(record, indent=1) + "\n")

    def config_of(seed: int, budget: dict[str, Any]) -> RunConfig:
        changes = arguments.sweep_assignments if "keep" in budget else []
        layers: list[dict[str, Any]] = [
            {"seed": seed, "model": {"name": arguments.model}, "budget": budget, "baselines": {"uniform": False}},
            *([{"data": {"sources": arguments.data}}] if arguments.data else []),
            *map(parse_assignment, [*settings, *changes]),
        ]
        return resolve(build_config(layers))

    with tempfile.TemporaryDirectory() as folder:

        def run_one(seed: int, budget: dict[str, Any]) -> dict[str, Any]:
            # The bank depends on the seed, and not on the budget.
            root = Path(folder) / "run"
            found = run_stages(config_of(seed, budget), root, Path(folder) / f"calibrated-{seed}")
            shutil.rmtree(root)
            return found

        for seed in range(seeds):
            for limit in limits:
                if not any(run["seed"] == seed and run["limit"] == limit for run in record["runs"]):
                    found = run_one(seed, {"max_drop": limit}) | {"limit": limit}
                    record["runs"].append(found)
                    save()
                    console.print(
                        f"{limit} seed {seed}: kept {found['kept']:.3f}, drop {found['drop']:.1%}, "
                        f"{len(found['record']['verifications'])} verifications, {found['seconds']:.0f} s"
                    )

        def run_at(share: float) -> dict[str, Any]:
            known = next((each for each in record["sweep"] if each["keep"] == share), None)
            if known is None:
                known = run_one(0, {"keep": share}) | {"keep": share}
                record["sweep"].append(known)
                save()
                console.print(f"sweep {share:g}: drop {known['drop']:.1%}")
            return known

        for limit in [] if arguments.no_sweep else limits:
            drop = parse_drop(limit)
            assert isinstance(drop, Drop), "runs have taken it"
            record["smallest"][limit] = sweep(record, drop, limit, run_at)
            save()
    console.print(table_of(record))


if __name__ == "__main__":
    main()
