"""How good is what a search chooses with few measurements? Regret against the best architecture that is known.

    python benchmarks/regret.py MODEL --data TEXT --name NAME [--keep 0.8] [--seeds 0,1,2,3,4] [--try FIELD=VALUE ...]

One bank and one selection set; every search measures by slices of the bank, so that nothing but the search differs.
Secateur has 60 measurements, evolutionary search 180, random search 300, all inside the same budget band. The regret is
the KL of what is chosen less the lowest KL that anything here has found, a longer search of its own (240 measurements)
included. `--try` runs Secateur once more with another setting; who decides by that takes other seeds than who reports.
Writes benchmarks/results/regret-NAME.json.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.table import Table

from secateur.assignments import parse_list
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure
from secateur.evaluation.stitched import StitchedModel
from secateur.inputs import Inputs, load_inputs
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.schema import derive_seed
from secateur.search.methods import SEARCHES
from secateur.search.task import SearchTask
from secateur.space.candidate import Candidate, Measurement, Protocol

RESULTS = Path(__file__).parent / "results"
SECATEUR, EVOLUTIONARY, RANDOM, LONG = 60, 180, 300, 240
ROUNDS = 8
PROTOCOL = Protocol(model="", tokens="", num_tokens=0, sequence_length=0, dtype="", bank="")


def measuring(inputs: Inputs) -> Callable[[list[Candidate]], list[Measurement]]:
    """Give what measures by slices; the same architecture is measured once for all searches."""
    tokens = inputs.sets[Role.CALIBRATION]
    statistics_ = calibrate(inputs.dense, tokens, 4_096, derive_seed(0, "calibrate"))
    bank = build_bank(inputs.dense, statistics_, inputs.space.options)
    reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16)
    stitched = StitchedModel(inputs.walk, bank, reference)
    known: dict[str, Measurement] = {}

    def measure_all(batch: list[Candidate]) -> list[Measurement]:
        missing = [each.architecture for each in batch if each.architecture.key not in known]
        known.update({each.architecture.key: each for each in measure(stitched, missing, PROTOCOL)})
        return [known[candidate.architecture.key] for candidate in batch]

    measure_all.bank = bank  # type: ignore[attr-defined]
    return measure_all


def searches(variants: list[dict[str, Any]]) -> dict[str, Callable[[SearchTask], float]]:
    """Name the searches that are compared; each gives the KL of what it chooses."""

    def run(method: str, count: int, **settings: Any) -> Callable[[SearchTask], float]:
        def chosen(task: SearchTask) -> float:
            kl = SEARCHES[method](replace(task, num_measurements=count, **settings)).best.kl
            assert kl is not None, "the best did not fail"
            return kl

        return chosen

    named = {
        f"secateur, {SECATEUR}": run("secateur", SECATEUR),
        f"evolutionary, {EVOLUTIONARY}": run("evolutionary", EVOLUTIONARY),
        f"random, {RANDOM}": run("random", RANDOM),
    }
    for variant in variants:
        text = ", ".join(f"{field}={value}" for field, value in variant.items())
        named[f"secateur, {SECATEUR}, {text}"] = run("secateur", SECATEUR, **variant)
    return named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--name", required=True)
    parser.add_argument("--keep", action="append", type=float)
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--try", action="append", default=[], dest="variants", metavar="FIELD=VALUE")
    arguments = parser.parse_args()
    quiet_libraries()
    variants = [
        {field: yaml.safe_load(value)} for field, _, value in (each.partition("=") for each in arguments.variants)
    ]
    named = searches(variants)
    seeds = parse_list("--seeds", arguments.seeds, int)
    rows = []
    console = Console(width=120)
    for keep in arguments.keep or [0.8, 0.5]:
        layers = {"model": {"name": arguments.model}, "data": {"sources": arguments.data}, "budget": {"keep": keep}}
        config = resolve(build_config([layers]))
        inputs = load_inputs(config)
        measure_all = measuring(inputs)
        bank = measure_all.bank  # type: ignore[attr-defined]
        found: dict[str, list[float]] = {name: [] for name in named}
        best = float("inf")
        for place, seed in enumerate(seeds):
            task = SearchTask(
                space=inputs.space,
                budget=inputs.budget,
                errors=[bank.errors(module) for module in range(inputs.space.num_modules)],
                measure=measure_all,
                num_measurements=SECATEUR,
                num_rounds=ROUNDS,
                initial_share=config.search.initial_share,
                seed=seed,
                predictor=config.search.predictor,
                acquisition=config.search.acquisition,
                sensitivity_share=config.search.sensitivity_share,
                shrinks=config.search.shrink,
                least_improvement=config.search.least_improvement,
            )
            for name, search in named.items():
                found[name].append(search(task))
                print(f"{keep:g} kept, seed {seed}, {name}: {found[name][-1]:.4f}", flush=True)
            if place < 2:
                long = SEARCHES["secateur"](replace(task, num_measurements=LONG, least_improvement=0.0)).best.kl
                best = min(best, long or best)
        best = min(best, *(kl for values in found.values() for kl in values))
        regrets = {name: [kl - best for kl in values] for name, values in found.items()}
        of_random = statistics.mean(regrets[f"random, {RANDOM}"])
        table = Table(title=f"{keep:g} kept, {len(seeds)} seeds; best known KL {best:.4f}", title_justify="left")
        for heading in ("search, measurements", "regret, mean", "lowest to highest", "of random's"):
            table.add_column(heading)
        for name, values in regrets.items():
            mean = statistics.mean(values)
            share = mean / of_random
            table.add_row(name, f"{mean:.4f}", f"{min(values):.4f} to {max(values):.4f}", f"{share:.2f}")
            rows.append({"keep": keep, "search": name, "kl": found[name], "best_known": best, "of_random": share})
        console.print(table)
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
        "model": Path(arguments.model).name,
        "seeds": seeds,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"regret-{arguments.name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
