"""How many calibration tokens, and how hard to pull the sequential solve: selection KL of one architecture.

    python benchmarks/reconstruction.py MODEL --data TEXT [--keep 0.8]

The architecture is the additive optimum at the budget, from the largest calibration set. Every cell is the selection KL
after `reconstruct_in_sequence` once / twice in a row; `bank` is the least-squares solution it starts from.
"""

import argparse

import torch

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import score_model
from secateur.inputs import load_inputs
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.search.additive import additive_optimum

TOKENS = (262_144, 131_072, 65_536, 32_768)
RIDGES = (0.01, 0.03, 0.1, 0.3)
BATCH_TOKENS = 4_096
CACHE_BYTES = 1 << 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    arguments = parser.parse_args()
    quiet_libraries()
    architecture = None
    for tokens in TOKENS:
        data = {"sources": arguments.data, "calibration_tokens": tokens, "selection_tokens": 16_384}
        layers = {"model": {"name": arguments.model}, "data": data, "budget": {"keep": arguments.keep}}
        inputs = load_inputs(resolve(build_config([layers])))
        calibration = inputs.sets[Role.CALIBRATION]
        statistics = calibrate(inputs.dense, calibration, BATCH_TOKENS, seed=0)
        bank = build_bank(inputs.dense, statistics, inputs.space.options)
        if architecture is None:
            errors = [bank.errors(module) for module in range(inputs.space.num_modules)]
            levels = additive_optimum(inputs.space, inputs.budget, errors)
            assert levels is not None, "the budget can be met"
            architecture = inputs.space.architecture(levels)
            print("architecture", architecture.widths)
        reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16)

        def kl(model: torch.nn.Module, inputs=inputs, reference=reference) -> float:
            return float(score_model(model, inputs.dense.family, inputs.walk, reference).kl.mean())

        streams = DenseStreams(inputs.walk, calibration, BATCH_TOKENS, calibration.num_tokens, CACHE_BYTES)
        cells = [f"bank {kl(prune(inputs.dense, bank, architecture)):.3f}"]
        for ridge in RIDGES:
            pruned = prune(inputs.dense, bank, architecture)
            passes = []
            for _ in range(2):
                reconstruct_in_sequence(inputs.dense, inputs.walk, pruned, architecture, streams, ridge)
                passes.append(f"{kl(pruned):.3f}")
            cells.append(f"ridge {ridge}: {' / '.join(passes)}")
        print(f"{calibration.num_tokens:,} calibration tokens: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
