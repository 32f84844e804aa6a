"""What ranks architectures without a fit: the summed reconstruction error, or the summed measured replace-one losses.

    python benchmarks/sensitivities.py MODEL --data TEXT [--keep 0.8] [--draws 40]

Prints, for architectures drawn over the budget band, Kendall's tau of both sums with measured KL (selection set), the
selection KL of both additive optima, and per module the error and the measured loss of its widths.
"""

import argparse

import numpy as np

from secateur.cli import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel
from secateur.inputs import load_inputs
from secateur.predictor.quality import rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.search.additive import additive_optimum
from secateur.space.architecture import Architecture
from secateur.space.sampling import sample_architectures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--draws", type=int, default=40)
    arguments = parser.parse_args()
    quiet_libraries()
    layers = {
        "model": {"name": arguments.model},
        "data": {"sources": arguments.data},
        "budget": {"keep": arguments.keep},
    }
    inputs = load_inputs(resolve(build_config([layers])))
    space = inputs.space
    bank = build_bank(inputs.dense, calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], 4_096, 0), space.options)
    reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16)
    stitched = StitchedModel(inputs.walk, bank, reference)

    def kl(widths: tuple[int, ...]) -> float:
        return float(stitched.score(Architecture.from_widths(widths)).kl.mean())

    whole = Architecture.dense(inputs.dense.shape).widths
    errors = [dict(bank.errors(module)) for module in range(space.num_modules)]
    losses = [
        {width: kl((*whole[:module], width, *whole[module + 1 :])) for width in options}
        for module, options in enumerate(space.options)
    ]
    for module, options in enumerate(space.options):
        cells = (f"{width}: {errors[module][width]:.3f} {losses[module][width]:.3f}" for width in options)
        print(f"module {module}, width: error and replace-one loss in nats: {'; '.join(cells)}")
    drawn = sample_architectures(space, inputs.budget, arguments.draws, seed=0)
    measured = np.array([kl(architecture.widths) for architecture in drawn])
    for name, table in (("reconstruction error", errors), ("replace-one loss", losses)):
        summed = np.array([sum(map(dict.__getitem__, table, architecture.widths)) for architecture in drawn])
        levels = additive_optimum(space, inputs.budget, table)
        assert levels is not None, "the budget can be met"
        print(
            f"summed {name}: tau {rank_correlation(summed, measured):.2f} on {len(drawn)} draws (best drawn "
            f"{measured.min():.3f}); its additive optimum has KL {kl(space.architecture(levels).widths):.3f}"
        )


if __name__ == "__main__":
    main()
