"""Does a first sample whose candidates share their first modules teach a predictor as much as one that fills the band?

    python benchmarks/sharing.py MODEL --data TEXT --recorded stories260k-0.8 [--seeds 6] [--counts 25 50 100]

Candidates that agree in their first modules are measured from where they differ, so the work is the number of distinct
prefixes. Samples are drawn by each rule, measured by slices of the bank as benchmarks/record_pairs.py does, and the
default predictor fitted on them is judged by Kendall tau on the recorded pairs of the same model and budget, which were
drawn the ordinary way. Every rule has as many measurements. Writes benchmarks/results/sharing.json, in which what was
not recorded anew stays.

Rules: `ordinary` is `space_filling`, `plain draws` what it chooses from. `K of each half` draws stems by it, and K
candidates for each that keep its first half and fill the band with the rest (`third`: the first third). `near ties` is
`space_filling` that takes, among candidates within a tenth of the furthest, the one that shares most with what is
chosen already.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from recorded import Recorded, read_recorded

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel
from secateur.inputs import load_inputs
from secateur.predictor.choice import AUTO, fit_predictor
from secateur.predictor.protocol import Pairs
from secateur.predictor.quality import rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.schema import derive_seed
from secateur.space.cost import Budget
from secateur.space.encoding import FeatureSource, feature_table
from secateur.space.sampling import sample_architectures, space_filling
from secateur.space.search_space import Levels, SearchSpace

RESULTS = Path(__file__).parent / "results" / "sharing.json"
BAND = 0.015
NEAR, POOL = 0.9, 16
Rule = Callable[[SearchSpace, Budget, int, int], list[Levels]]


def ordinary(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Levels]:
    return space_filling(space, budget, count, [], seed)


def plain(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Levels]:
    return [space.levels(each) for each in sample_architectures(space, budget, count, derive_seed(seed, "plain"))]


def stems(share: float, each: int) -> Rule:
    """Draw stems, and so many candidates of each; stem by stem, so that a smaller sample is the first of a larger."""

    def drawn(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Levels]:
        depth = round(share * space.num_modules)
        found: list[Levels] = []
        for index, stem in enumerate(space_filling(space, budget, -(-count // each), [], seed)):
            kept = tuple((options[level],) for options, level in zip(space.options, stem, strict=True))
            rest = SearchSpace(space.shape, (*kept[:depth], *space.options[depth:]))
            others = sample_architectures(rest, budget, 4 * each, derive_seed(seed, "stem", index))
            own = [stem, *(space.levels(architecture) for architecture in others)]
            found += list(dict.fromkeys(own))[:each]
        return found[:count]

    return drawn


def near_ties(space: SearchSpace, budget: Budget, count: int, seed: int) -> list[Levels]:
    pool = np.array([space.levels(each) for each in sample_architectures(space, budget, POOL * count, seed)])
    places = np.column_stack([np.array(o)[pool[:, m]] / max(o[-1], 1) for m, o in enumerate(space.options)])
    near = np.full(len(pool), 1e9)
    shared = np.zeros(len(pool))
    chosen = []
    for _ in range(min(count, len(pool))):
        ties = np.flatnonzero(near >= NEAR * near.max())
        best = int(ties[shared[ties].argmax()])
        chosen.append(tuple(pool[best].tolist()))
        near = np.minimum(near, np.abs(places - places[best]).sum(1))
        near[best] = -1.0
        shared = np.maximum(shared, np.cumprod(pool == pool[best], axis=1).sum(1))
    return chosen


RULES: dict[str, Rule] = {
    "ordinary": ordinary,
    "plain draws": plain,
    "near ties": near_ties,
    "2 of each third": stems(1 / 3, 2),
    "2 of each half": stems(1 / 2, 2),
    "4 of each half": stems(1 / 2, 4),
}


def work(rows: list[Levels]) -> float:
    """Give the share of modules that are run when candidates are measured in order, each from where it differs."""
    prefixes = {row[:depth] for row in rows for depth in range(1, len(row) + 1)}
    return len(prefixes) / sum(map(len, rows))


def tau(recorded: Recorded, rows: list[Levels], kl: list[float]) -> float:
    """Fit the default predictor on pairs, and judge it on the recorded ones that are not among them."""
    table = feature_table(FeatureSource(recorded.space, recorded.source.errors))
    parameters = np.array([float(recorded.space.decoder_parameters(row)) for row in rows])
    pairs = Pairs(table.layout, table.features(np.array(rows)), np.array(kl))
    predictor, _ = fit_predictor(AUTO, pairs, parameters, 0)
    unseen = [place for place, row in enumerate(recorded.levels.tolist()) if tuple(row) not in set(rows)]
    return rank_correlation(predictor.predict(table.features(recorded.levels[unseen])), recorded.kl[unseen])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--recorded", required=True)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--counts", type=int, nargs="+", default=[25, 50, 100])
    arguments = parser.parse_args()
    quiet_libraries()
    budget = {"keep": float(arguments.recorded.rpartition("-")[2]), "band": BAND}
    layers = {"model": {"name": arguments.model}, "data": {"sources": arguments.data}, "budget": budget}
    inputs = load_inputs(resolve(build_config([layers])))
    recorded, space = read_recorded(arguments.recorded), inputs.space
    bank = build_bank(inputs.dense, calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], 4_096, 0), space.options)
    stitched = StitchedModel(inputs.walk, bank, DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16))
    known = dict(zip(map(tuple, recorded.levels.tolist()), recorded.kl.tolist(), strict=True))
    found: dict[str, dict] = {
        name: {str(n): {"tau": [], "work": []} for n in arguments.counts} for name in arguments.rules
    }
    for seed in range(arguments.seeds):
        for name in arguments.rules:
            rows = RULES[name](space, inputs.budget, max(arguments.counts), seed)
            missing = sorted(set(rows) - set(known))
            scores = stitched.scores([space.architecture(row) for row in missing])
            known |= {row: float(score.kl.mean()) for row, score in zip(missing, scores, strict=True)}
            for count in arguments.counts:
                cell = found[name][str(count)]
                cell["tau"].append(tau(recorded, rows[:count], [known[row] for row in rows[:count]]))
                cell["work"].append(work(rows[:count]))
            last = {n: (round(c["tau"][-1], 3), round(c["work"][-1], 2)) for n, c in found[name].items()}
            print(f"seed {seed}, {name}: tau and work by number of pairs {last}", flush=True)
    for name, cells in found.items():
        means = (
            f"{n}: {np.mean(c['tau']):.3f} +- {np.std(c['tau']):.3f}, {np.mean(c['work']):.2f}"
            for n, c in cells.items()
        )
        print(f"{name}: {'; '.join(means)}")
    record = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rules = record.get(arguments.recorded, {}).get("rules", {})
    record[arguments.recorded] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rules": rules | found,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
