"""Record (architecture, KL) pairs inside the budget band, with everything that predictors may learn from.

    python benchmarks/record_pairs.py MODEL --data TEXT --name NAME --keep 0.8 [--pairs 600] [--widths 0]

Architectures are drawn over a band of 1.5 % and measured by slices of the bank on the selection set; beside them stand
reconstruction errors, removed importance, and the sensitivities around the uniform architecture and the additive
optimum at `--widths` widths per module (0: all). Writes benchmarks/data/pairs-NAME-KEEP.json, which
benchmarks/predictors.py and the tests read.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure
from secateur.evaluation.stitched import StitchedModel
from secateur.inputs import load_inputs
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.search.propose import heuristics
from secateur.search.sensitivity import measure_sensitivities
from secateur.search.task import SearchTask
from secateur.space.candidate import Candidate, Measurement, Protocol
from secateur.space.sampling import sample_architectures

DATA = Path(__file__).parent / "data"
BAND = 0.015
CENTRES = ("uniform", "additive")
PROTOCOL = Protocol(model="", tokens="", num_tokens=0, sequence_length=0, dtype="", bank="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--name", required=True)
    parser.add_argument("--keep", type=float, default=0.8)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--widths", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    layers = {
        "model": {"name": arguments.model},
        "data": {"sources": arguments.data},
        "budget": {"keep": arguments.keep, "band": BAND},
    }
    inputs = load_inputs(resolve(build_config([layers])))
    space, modules = inputs.space, range(inputs.space.num_modules)
    statistics = calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], 4_096, 0)
    bank = build_bank(inputs.dense, statistics, space.options)
    reference = DenseReference(inputs.walk, inputs.sets[Role.SELECTION], 16)
    stitched = StitchedModel(inputs.walk, bank, reference)

    def measure_all(batch: list[Candidate]) -> list[Measurement]:
        found = {}
        for number, measured in enumerate(measure(stitched, [each.architecture for each in batch], PROTOCOL)):
            found[measured.architecture.key] = measured
            if number % 50 == 0:
                print(f"{number} of {len(batch)}", flush=True)
        return [found[candidate.architecture.key] for candidate in batch]

    task = SearchTask(
        space=space,
        budget=inputs.budget,
        errors=[bank.errors(module) for module in modules],
        measure=measure_all,
        num_measurements=0,
        num_rounds=0,
        initial_share=0.5,
        seed=0,
    )
    widths = arguments.widths or max(map(len, space.options))
    named: dict[str, tuple[int, ...]] = {}
    for levels, name in heuristics(task).items():
        named.setdefault(name, levels)
    sensitivities = {}
    for name in CENTRES:
        sensed = measure_sensitivities(replace(task), {named[name]: name}, widths * space.num_modules + 1)
        sensitivities[name] = {
            "change": [curve.tolist() for curve in sensed.sensitivities[0].change],
            "measurements": sensed.num_measurements,
        }
    drawn = sample_architectures(space, inputs.budget, arguments.pairs, seed=0)
    measured = measure_all([task.candidate(space.levels(each), "sampled") for each in drawn])
    removed = []
    for module, options in enumerate(space.options):
        scores = statistics[module].taylor[bank.modules[module].order]
        removed.append([float(scores[width:].sum() / scores.sum()) for width in options])
    record = {
        "model": Path(arguments.model).name,
        "keep": arguments.keep,
        "band": BAND,
        "shape": {
            "hidden_size": space.shape.hidden_size,
            "num_layers": space.shape.num_layers,
            "num_query_heads": space.shape.num_query_heads,
            "num_kv_heads": space.shape.num_kv_heads,
            "head_dim": space.shape.head_dim,
            "ffn_width": space.shape.ffn_width,
            "vocab_size": space.shape.vocab_size,
            "attention": vars(space.shape.attention),
            "mlp": vars(space.shape.mlp),
            "parameters_outside": space.shape.parameters_outside,
        },
        "options": space.options,
        "errors": [[bank.errors(module)[width] for width in space.options[module]] for module in modules],
        "removed_importance": removed,
        "sensitivities": sensitivities,
        "levels": [space.levels(each) for each in drawn],
        "kl": [measurement.kl for measurement in measured],
    }
    DATA.mkdir(exist_ok=True)
    path = DATA / f"pairs-{arguments.name}-{arguments.keep:g}.json"
    path.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(path.name)


if __name__ == "__main__":
    main()
