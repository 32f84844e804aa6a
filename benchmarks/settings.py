"""Which value of a setting is better? KL of the pruned model on text that neither a search nor a report reads.

    python benchmarks/settings.py MODEL --data TEXT --try search.rounds=3 --try search.rounds=8 [--keep --seed]

Defaults are decided by this and never by evaluation data: the judging set is what the documents of the selection role
give beyond the tokens that the search selects on. One cell is one search and pruning; all share a calibration pass per
seed. Every cell is printed as it is made, the table at the end has medians and the range over seeds.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from secateur.assignments import parse_assignment
from secateur.cli.terminal import quiet_libraries
from secateur.config import RunConfig, build_config, resolve
from secateur.data import Role, TokenSet
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import score_model
from secateur.inputs import Inputs, define_limits, load_inputs
from secateur.pruning.calibration import ModuleStatistics, calibrate
from secateur.runs.folder import RunFolder
from secateur.runs.progress import silent
from secateur.runs.store import RunStore
from secateur.schema import derive_seed
from secateur.stages.calibrate import build_run_bank
from secateur.stages.prune import prune_stage
from secateur.stages.run import Run
from secateur.stages.search import search_stage

JUDGING_TOKENS = 32_768


def load_with_judge(config: RunConfig) -> tuple[Inputs, TokenSet]:
    """Load a run's inputs, and the windows of the selection role that follow those the run selects on.

    Raises:
        SystemExit: The text has too few of them.
    """
    used = config.data.selection_tokens
    data = config.data.model_copy(update={"selection_tokens": used + JUDGING_TOKENS})
    inputs = load_inputs(config.model_copy(update={"data": data}))
    windows = inputs.sets[Role.SELECTION].tokens
    first = used // config.data.sequence_length
    if (len(windows) - first) * config.data.sequence_length < JUDGING_TOKENS:
        raise SystemExit(f"the text has fewer than {JUDGING_TOKENS:,} judging tokens; give more with --data")
    sets = inputs.sets | {Role.SELECTION: TokenSet(Role.SELECTION, windows[:first])}
    return replace(inputs, sets=sets), TokenSet(Role.SELECTION, windows[first:])


def judged(config: RunConfig, inputs: Inputs, gathered: list[ModuleStatistics], judge: DenseReference) -> float:
    """Search and prune with one configuration; KL to the dense model on the judging set."""
    space, budget = define_limits(config, inputs.dense)
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        with RunStore(folder.database) as store:
            run = Run(config, replace(inputs, space=space, budget=budget), folder, store, silent)
            bank = build_run_bank(run, gathered, space)
            pruned, _ = prune_stage(run, bank, search_stage(run, space, bank))
    return float(score_model(pruned, inputs.dense.family, inputs.walk, judge).kl.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--try", action="append", required=True, dest="settings", metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--keep", action="append", type=float)
    parser.add_argument("--seed", action="append", type=int)
    arguments = parser.parse_args()
    quiet_libraries()
    base = {"model": {"name": arguments.model}, "data": {"sources": arguments.data}}
    keeps, seeds = arguments.keep or [0.8, 0.5], arguments.seed or [0, 1, 2]
    config = resolve(build_config([base]))
    (inputs, judging), batch_tokens = load_with_judge(config), config.evaluation.batch_tokens
    judge = DenseReference(inputs.walk, judging, max(1, batch_tokens // config.data.sequence_length))
    cells: dict[tuple[str, float], list[float]] = defaultdict(list)
    for seed in seeds:
        gathered = calibrate(
            inputs.dense, inputs.sets[Role.CALIBRATION], batch_tokens, derive_seed(seed, "calibrate"), fisher=True
        )
        for keep in keeps:
            for setting in arguments.settings:
                layers = [base, {"seed": seed, "budget": {"keep": keep}}, parse_assignment(setting)]
                value = judged(resolve(build_config(layers)), inputs, gathered, judge)
                cells[setting, keep].append(value)
                print(f"{keep:g} kept, seed {seed}, {setting}: {value:.4f}", flush=True)
    table = Table(title=f"KL on {JUDGING_TOKENS:,} judging tokens; seeds {seeds}", title_justify="left")
    for heading in ("setting", *(f"{keep:g} kept" for keep in keeps)):
        table.add_column(heading)
    for setting in arguments.settings:
        texts = [
            f"{statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"
            for values in (cells[setting, keep] for keep in keeps)
        ]
        table.add_row(setting, *texts)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
