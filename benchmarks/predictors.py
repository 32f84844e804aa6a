"""Which predictor ranks unseen architectures best? Kendall tau on what a comparison has measured, with nothing added.

    python benchmarks/predictors.py FOLDER [FOLDER ...]    of `secateur compare ... --methods all`

Per seed and budget a predictor is fitted on the first 48 and 96 measurements by slices of Secateur's own cell, and
judged on those of EvoPress, Puzzle and random search in the same order and budget; and it is cross-validated on
Secateur's measurements after reconstruction. Figures are means over seeds and budgets: tau among all, and among the
best third.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import KFold

from secateur.cli import quiet_libraries
from secateur.comparison_folder import ComparisonFolder, read_config
from secateur.config import RunConfig, build_config, read_yaml
from secateur.data import Role
from secateur.inputs import Inputs, define_limits, load_inputs
from secateur.predictor.choice import PREDICTORS
from secateur.predictor.quality import Fit, rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.runs.store import RunStore
from secateur.schema import derive_seed
from secateur.space.candidate import Measurement
from secateur.space.encoding import FeatureTable, feature_table
from secateur.space.search_space import SearchSpace

OTHERS = ("evolutionary", "additive", "random")
PAIRS = (48, 96)
FOLDS = 8


class Measured:
    """What was measured at one budget with one seed, as features and log KL."""

    def __init__(self, folder: ComparisonFolder, config: RunConfig, inputs: Inputs, table: FeatureTable) -> None:
        self.monotone = table.monotone
        space, budget = define_limits(config, inputs.dense)
        suffix = f"{config.pruning.importance}-sequential-keep-{config.budget.keep:g}-seed-{config.seed}"
        own = self._read(folder, f"secateur-{suffix}")
        protocols = sorted(own, key=lambda protocol: -len(own[protocol]))
        slices, reconstructed = protocols[0], protocols[1]
        others: dict[str, Measurement] = {}
        for method in OTHERS:
            others |= self._read(folder, f"{method}-{suffix}").get(slices, {})
        kept = [other for key, other in others.items() if key not in own[slices]]
        kept = [m for m in kept if budget.admits(space.decoder_parameters(space.levels(m.architecture)))]
        self.slices = self._pairs(list(own[slices].values()), space, table)
        self.others = self._pairs(kept, space, table)
        self.reconstructed = self._pairs(list(own[reconstructed].values()), space, table)

    @staticmethod
    def _read(folder: ComparisonFolder, name: str) -> dict[str, dict[str, Measurement]]:
        found: dict[str, dict[str, Measurement]] = defaultdict(dict)
        with RunStore(folder.cell(name).database) as store:
            for measurement in map(Measurement.model_validate_json, store.all_measurements()):
                if measurement.kl is not None:
                    found[measurement.protocol][measurement.architecture.key] = measurement
        return found

    @staticmethod
    def _pairs(measured: list[Measurement], space: SearchSpace, table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
        levels = np.array([space.levels(measurement.architecture) for measurement in measured])
        return table.features(levels), np.array([measurement.kl for measurement in measured], dtype=float)


def correlations(predicted: Float[np.ndarray, " pairs"], kl: Float[np.ndarray, " pairs"]) -> tuple[float, float]:
    """Kendall tau among all, and among the best third."""
    best = np.argsort(kl)[: len(kl) // 3]
    return rank_correlation(predicted, kl), rank_correlation(predicted[best], kl[best])


def judged(fit: Fit, measured: Measured) -> list[tuple[float, float]]:
    """Judge a predictor in all columns of the table."""
    features, kl = measured.slices
    unseen, truth = measured.others
    columns = [
        correlations(fit(features[:pairs], kl[:pairs], measured.monotone, 0).predict(unseen), truth) for pairs in PAIRS
    ]
    features, kl = measured.reconstructed
    predicted = np.zeros(len(kl))
    for fitted, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(features):
        predicted[held_out] = fit(features[fitted], kl[fitted], measured.monotone, 0).predict(features[held_out])
    return [*columns, correlations(predicted, kl)]


def measured_in(folder: ComparisonFolder) -> list[Measured]:
    """Read every seed and budget of a comparison; the features need its banks, which are built again."""
    found = []
    begun = read_config(folder)
    for seed in begun.seeds:
        configs = [
            build_config([read_yaml(path)])
            for path in sorted(folder.root.glob(f"cells/secateur-*-sequential-keep-*-seed-{seed}/config.yaml"))
        ]
        if not configs:
            continue
        inputs = load_inputs(configs[0])
        tokens, batch = inputs.sets[Role.CALIBRATION], configs[0].evaluation.batch_tokens
        statistics = calibrate(inputs.dense, tokens, batch, derive_seed(seed, "calibrate"))
        pruning = configs[0].pruning
        bank_seed = derive_seed(seed, "bank")
        bank = build_bank(
            inputs.dense,
            statistics,
            inputs.space.options,
            pruning.importance,
            "least_squares",
            pruning.ridge,
            bank_seed,
        )
        table = feature_table(inputs.space, [bank.errors(module) for module in range(inputs.space.num_modules)])
        found += [Measured(folder, config, inputs, table) for config in configs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    arguments = parser.parse_args()
    quiet_libraries()
    everything = [measured for path in arguments.folder for measured in measured_in(ComparisonFolder(path))]
    table = Table(title=f"Kendall tau, mean of {len(everything)} seeds and budgets: all / best third")
    for heading in ("predictor", *(f"{pairs} pairs, slices" for pairs in PAIRS), "after reconstruction"):
        table.add_column(heading)
    for name, fit in PREDICTORS.items():
        means = np.mean([judged(fit, measured) for measured in everything], axis=0)
        table.add_row(name, *(f"{among_all:.2f} / {among_best:.2f}" for among_all, among_best in means))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
