"""What is known of architectures before any is measured: errors, and losses of single changes, estimated or measured.

    python benchmarks/sensitivities.py MODEL --data TEXT --name NAME [--keep 0.8] [--draws 200] [--seeds 4]

Three questions, all measured by slices of the bank on the selection set:
1. Replace one module of the dense model: how well do the reconstruction error and the estimate from gradients
   (`estimate_single_changes`) agree with the measured loss, over all modules and widths?
2. Architectures drawn over the budget band: how well does the sum of each table rank them, and how good is its additive
   optimum? Besides the tables around the dense model, those around the uniform architecture, and their mean over the
   centres of `estimated_optimum`.
3. A search of 60 measurements, with and without that optimum: the best of its first set, and what it chooses.

Seconds are of one estimate and of one measurement of a candidate alone. Writes
benchmarks/results/sensitivities-NAME-KEEP.json.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure
from secateur.evaluation.stitched import StitchedModel
from secateur.inputs import load_inputs
from secateur.predictor.quality import rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.single_changes import SingleChanges, estimate_single_changes
from secateur.search.additive import additive_optimum
from secateur.search.methods import SEARCHES
from secateur.search.propose import initial_candidates
from secateur.search.task import SearchTask
from secateur.search.uniform import nearest_levels, uniform_architectures
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement, Protocol
from secateur.space.cost import Budget
from secateur.space.repair import repair
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import Levels, SearchSpace

RESULTS = Path(__file__).parent / "results"
PROTOCOL = Protocol(model="", tokens="", num_tokens=0, sequence_length=0, dtype="", bank="")
# Of a search with so many measurements and the default share.
MEASUREMENTS, ROUNDS = 60, 8
# Optima around which estimates are made again.
CENTRES = 4
Table = Sequence[Mapping[int, float]]


def agreement(tables: dict[str, Table], measured: Table) -> dict[str, dict[str, float]]:
    """Rank correlations over all modules and widths but the dense ones, where all tables are 0."""

    def flat(table: Table) -> np.ndarray:
        return np.array([value for module in table for _, value in sorted(module.items())[:-1]])

    truth = flat(measured)
    return {
        name: {"tau": rank_correlation(flat(table), truth), "spearman": float(spearmanr(flat(table), truth).statistic)}
        for name, table in tables.items()
    }


def mean_of(estimates: Sequence[SingleChanges]) -> Table:
    modules = zip(*(each.changes for each in estimates), strict=True)
    return [{width: float(np.mean([m[width] for m in module])) for width in module[0]} for module in modules]


def estimated_optimum(
    space: SearchSpace, budget: Budget, estimate: Callable[[Architecture], SingleChanges]
) -> Architecture | None:
    """Give what estimates lead to: around the uniform architectures, then around the optimum of their mean, and so on.

    Of the optima it is the one with the least loss, which every estimate measures by the way.
    """
    rng = np.random.default_rng(0)
    near = (nearest_levels(space, architecture) for architecture in uniform_architectures(space.shape, budget))
    repaired = (repair(space, levels, budget, rng) for levels in near)
    known = [estimate(space.architecture(levels)) for levels in dict.fromkeys(repaired) if levels is not None]
    losses: dict[Levels, float] = {}
    while known and len(losses) < CENTRES:
        optimum = additive_optimum(space, budget, mean_of(known))
        if optimum is None or optimum in losses:
            break
        known.append(estimate(space.architecture(optimum)))
        losses[optimum] = known[-1].loss
    return space.architecture(min(losses, key=lambda levels: (losses[levels], levels))) if losses else None


def searched(task: SearchTask, optimum: Architecture | None, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Give the best of the first set and the choice, with and without the optimum, by seed."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, heuristics in (("without", {}), ("with", {"estimated": optimum} if optimum else {})):
        found[name] = {"first": [], "chosen": []}
        for seed in range(seeds):
            own = replace(task, seed=seed, heuristics=heuristics)
            first = task.measure(initial_candidates(own, round(MEASUREMENTS * task.initial_share)))
            found[name]["first"].append(min(m.kl for m in first if m.kl is not None))
            chosen = SEARCHES["secateur"](own).best.kl
            assert chosen is not None, "the best did not fail"
            found[name]["chosen"].append(chosen)
            print(f"{name}, seed {seed}: first {found[name]['first'][-1]:.4f}, chosen {chosen:.4f}", flush=True)
    return found


class Bench:
    """A model with its bank, and what measures and estimates on it."""

    def __init__(self, model: str, data: list[str], keep: float) -> None:
        layers = {"model": {"name": model}, "data": {"sources": data}, "budget": {"keep": keep}}
        config = resolve(build_config([layers]))
        inputs = self.inputs = load_inputs(config)
        self.space, self.budget = inputs.space, inputs.budget
        statistics_ = calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], 4_096, 0)
        self.bank = build_bank(inputs.dense, statistics_, self.space.options)
        reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16)
        self.stitched = StitchedModel(inputs.walk, self.bank, reference)
        self.dense = Architecture.dense(inputs.dense.shape)
        self.known: dict[str, Measurement] = {}
        self.task = SearchTask(
            space=self.space,
            budget=self.budget,
            errors=[self.bank.errors(module) for module in range(self.space.num_modules)],
            measure=self.measure_all,
            num_measurements=MEASUREMENTS,
            num_rounds=ROUNDS,
            initial_share=config.search.initial_share,
            seed=0,
        )

    def measure_all(self, batch: list[Candidate]) -> list[Measurement]:
        missing = [each.architecture for each in batch if each.architecture.key not in self.known]
        self.known.update({each.architecture.key: each for each in measure(self.stitched, missing, PROTOCOL)})
        return [self.known[candidate.architecture.key] for candidate in batch]

    def kl(self, architecture: Architecture) -> float:
        return float(self.stitched.score(architecture).kl.mean())

    def estimate(self, architecture: Architecture) -> SingleChanges:
        tokens = self.inputs.sets[Role.CALIBRATION]
        found = estimate_single_changes(self.inputs.dense, self.bank, architecture, tokens, 4_096, seed=0)
        assert found is not None, "for models that there are estimates of"
        return found

    def replaced(self) -> Table:
        """Measure the dense model with one module replaced, for all modules and widths."""
        own = self.dense.widths
        return [
            {width: self.kl(Architecture.from_widths((*own[:m], width, *own[m + 1 :]))) for width in options}
            for m, options in enumerate(self.space.options)
        ]

    def judged(self, table: Table, drawn: list[Architecture], measured: np.ndarray) -> dict[str, float | None]:
        """Give how well a table's sum ranks, and the KL of its additive optimum."""
        summed = np.array([sum(map(dict.__getitem__, map(dict, table), each.widths)) for each in drawn])
        levels = additive_optimum(self.space, self.budget, table)
        best = None if levels is None else self.kl(self.space.architecture(levels))
        return {"tau": rank_correlation(summed, measured), "optimum": best}


def timed(run: Callable[[Architecture], object], architecture: Architecture) -> float:
    begun = time.perf_counter()
    run(architecture)
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--name", required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=4, help="searches with and without; 0: none")
    arguments = parser.parse_args()
    quiet_libraries()
    bench = Bench(arguments.model, arguments.data, arguments.keep)
    drawn = sample_architectures(bench.space, bench.budget, arguments.draws, seed=0)
    seconds = {"estimate": timed(bench.estimate, bench.dense)}
    seconds["measurement"] = statistics.median(timed(bench.kl, each) for each in drawn[:20])
    print(f"seconds {seconds}", flush=True)
    made: list[SingleChanges] = []

    def estimate(architecture: Architecture) -> SingleChanges:
        made.append(bench.estimate(architecture))
        return made[-1]

    optimum = estimated_optimum(bench.space, bench.budget, estimate)
    replaced = bench.replaced()
    alone = {"reconstruction error": bench.task.errors, "estimated around dense": bench.estimate(bench.dense).changes}
    agreed = agreement(alone, replaced)
    for name, row in agreed.items():
        print(f"replace one, {name}: tau {row['tau']:.3f}, Spearman {row['spearman']:.3f}", flush=True)
    tables: dict[str, Table] = alone | {
        "measured around dense": replaced,
        "estimated around uniform": made[0].changes,
        f"estimated, mean of {len(made)} centres": mean_of(made),
    }
    measured = np.array([bench.kl(architecture) for architecture in drawn])
    sums = {}
    for name, table in tables.items():
        sums[name] = bench.judged(table, drawn, measured)
        print(f"summed, {name}: tau {sums[name]['tau']:.3f}, KL of its optimum {sums[name]['optimum']}", flush=True)
    best = bench.kl(optimum) if optimum else None
    print(f"best of {len(drawn)} draws {measured.min():.4f}; optimum of the estimates {best}", flush=True)
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "model": Path(arguments.model).name,
        "keep": arguments.keep,
        "seconds": seconds,
        "replace_one": agreed,
        "summed": sums,
        "best_drawn": float(measured.min()),
        "estimated_optimum": best,
        "search": searched(bench.task, optimum, arguments.seeds),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"sensitivities-{arguments.name}-{arguments.keep:g}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
