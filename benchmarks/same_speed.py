"""Time a model against itself, again and again: how far ratios are from 1, and how often their interval holds it.

    python benchmarks/same_speed.py [MODEL] [--times 20] [--repeats 15]

Two models of the same speed have ratios of 1: what is seen beyond it is what a ratio of two different ones is off by.
"""

import argparse
import statistics

from rich.console import Console
from rich.table import Table

from secateur.cli.terminal import quiet_libraries
from secateur.demo import decoder_path
from secateur.evaluation.speed import TimedModel, compare_speed
from secateur.machine import settle_process
from secateur.model.loading import load_causal_model
from secateur.schema import derive_seed


def main() -> None:
    """Print a row per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=str(decoder_path()))
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet_libraries()
    models = []
    for name in ("first", "second"):
        model, _, _ = load_causal_model(arguments.model)
        models.append(TimedModel(name, model.requires_grad_(False), 1))
    ratios = []
    for time in range(arguments.times):
        seed = derive_seed(arguments.seed, "same speed", time)
        speed = compare_speed(models, arguments.prompt_tokens, arguments.new_tokens, 1, arguments.repeats, seed)
        ratios.append(speed.ratios[0])
    table = Table("ratio", "median", "lowest", "highest", "intervals with 1 in them")
    for figure in ("prefill", "decode", "throughput"):
        spreads = [getattr(ratio, figure) for ratio in ratios]
        medians = [spread.median for spread in spreads]
        held = sum(spread.low <= 1 <= spread.high for spread in spreads)
        table.add_row(
            figure,
            f"{statistics.median(medians):.3f}",
            f"{min(medians):.3f}",
            f"{max(medians):.3f}",
            f"{held} of {len(spreads)}",
        )
    Console().print(table)


if __name__ == "__main__":
    settle_process()
    main()
