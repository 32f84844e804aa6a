"""Do slices of the bank rank architectures as their final reconstruction does? Kendall tau of cheap measurements.

    python benchmarks/ranking.py MODEL --data TEXT [--keep 0.8 --keep 0.5 --seed 0 --seed 1]

A search by slices gives 96 measured architectures; a number of its best half are reconstructed on the whole calibration
set. Every row of the table is the rank correlation, with that, of a cheaper measurement of the same architectures.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.inputs import load_inputs
from secateur.predictor.quality import rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.search.rounds import search_rounds
from secateur.search.task import SearchTask
from secateur.space.candidate import Candidate, Measurement, Protocol

NUM_MEASUREMENTS = 96
NUM_RECONSTRUCTED = 24
# On how many calibration tokens a candidate is reconstructed before it is measured.
TOKENS = (4_096, 8_192, 16_384)


def correlations(model: str, data: list[str], keep: float, seed: int) -> dict[str, float]:
    """Kendall tau with the KL after reconstruction on the whole calibration set, per cheaper measurement."""
    layers = {"model": {"name": model}, "data": {"sources": data}, "budget": {"keep": keep}, "seed": seed}
    config = resolve(build_config([layers]))
    inputs, batch_tokens = load_inputs(config), config.evaluation.batch_tokens
    calibration, selection = inputs.sets[Role.CALIBRATION], inputs.sets[Role.SELECTION]
    statistics = calibrate(inputs.dense, calibration, batch_tokens, seed=seed)
    bank = build_bank(inputs.dense, statistics, inputs.space.options)
    reference = DenseReference(inputs.walk, selection, max(1, batch_tokens // selection.sequence_length))
    stitched = StitchedModel(inputs.walk, bank, reference)
    protocol = Protocol(
        model=inputs.fingerprints["model"],
        tokens=selection.fingerprint,
        num_tokens=selection.num_tokens,
        sequence_length=selection.sequence_length,
        dtype=str(inputs.dense.model.dtype),
        bank="",
    )

    def measure_batch(batch: list[Candidate]) -> list[Measurement]:
        measured = measure(stitched, [candidate.architecture for candidate in batch], protocol)
        by_key = {measurement.architecture.key: measurement for measurement in measured}
        return [by_key[candidate.architecture.key] for candidate in batch]

    found = search_rounds(
        SearchTask(
            space=inputs.space,
            budget=inputs.budget,
            errors=[bank.errors(module) for module in range(inputs.space.num_modules)],
            measure=measure_batch,
            num_measurements=NUM_MEASUREMENTS,
            num_rounds=config.search.rounds,
            initial_share=config.search.initial_share,
            seed=seed,
        )
    )
    half = found.finalists[: len(found.finalists) // 2]
    chosen = [half[place] for place in np.linspace(0, len(half) - 1, NUM_RECONSTRUCTED).astype(int)]

    def reconstructed_on(num_tokens: int) -> np.ndarray:
        streams = DenseStreams(inputs.walk, calibration, batch_tokens, num_tokens, config.evaluation.cache_bytes)
        values = []
        for measurement in chosen:
            pruned = prune(inputs.dense, bank, measurement.architecture)
            ridge = config.pruning.sequential_ridge
            reconstruct_in_sequence(inputs.dense, inputs.walk, pruned, measurement.architecture, streams, ridge)
            values.append(float(score_model(pruned, inputs.dense.family, inputs.walk, reference).kl.mean()))
        return np.array(values)

    final = reconstructed_on(calibration.num_tokens)
    cheap = {"slices of the bank": np.array([m.kl for m in chosen], dtype=float)}
    cheap |= {f"reconstructed on {tokens:,} tokens": reconstructed_on(tokens) for tokens in TOKENS}
    return {name: rank_correlation(values, final) for name, values in cheap.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--keep", action="append", type=float)
    parser.add_argument("--seed", action="append", type=int)
    arguments = parser.parse_args()
    quiet_libraries()
    keeps, seeds = arguments.keep or [0.8, 0.5], arguments.seed or [0, 1]
    table = Table(title=f"Kendall tau over {NUM_RECONSTRUCTED} architectures; seeds {seeds}", title_justify="left")
    table.add_column("measured by")
    columns = []
    for keep in keeps:
        table.add_column(f"{keep:g} kept")
        columns.append([correlations(arguments.model, arguments.data, keep, seed) for seed in seeds])
    for name in columns[0][0]:
        table.add_row(name, *(", ".join(f"{each[name]:.2f}" for each in column) for column in columns))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
