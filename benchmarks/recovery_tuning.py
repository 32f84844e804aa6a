"""Does a rung say what the end will be, and is a tuned recipe better than the default?

    python benchmarks/recovery_tuning.py [--subjects demo,stories260k] [--keeps 0.7,0.5] [--seeds 0,1,2] [--shapes]

Every attempt is also trained to the end, which tuning does not do: only so can all rungs be compared with their ends.
Recovery sets are small, and the text alone is trained on, so that a cell takes a few minutes of one core; evaluation
windows are reported and choose nothing. `--shapes` also tries the other way to a rung: warm-up, a stable rate and a
cool-down, after which finalists would go on from before the cool-down. Writes
`benchmarks/results/recovery-tuning.json` after every cell (cells that it holds are not made again), prints the table.
"""

import math
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from recovery_subjects import Subject, arguments_of, begun_record, keep_cell, missing_cells, spread, subject
from scipy.stats import spearmanr
from transformers import PreTrainedModel

from secateur.cli.terminal import quiet_libraries
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery
from secateur.recovery.objective import CrossEntropy
from secateur.recovery.recover import tuning_of
from secateur.recovery.schedule import COOLDOWN
from secateur.recovery.training import unheard
from secateur.recovery.tuning import RUNG_JUDGEMENTS, Tuning, TuningRecord
from secateur.runs.shelf import Shelf

RESULTS = Path(__file__).parent / "results" / "recovery-tuning.json"


def evaluated(own: Subject, model: PreTrainedModel, recovery: Recovery, shelf: Shelf) -> float:
    """Give the evaluation loss that a finished training came to, or train where the shelf is empty."""
    trainee = recovery.trainee(model)
    recovery.training(trainee, CrossEntropy(), recovery.plan(model), shelf).run()
    loss = own.evaluated(trainee.judged())
    trainee.discard()
    return loss


def ends_of_all(tuning: Tuning, record: TuningRecord) -> list[float]:
    """Give every attempt's end: of finalists as they were, of the others now."""
    return [
        tuning.train(each.recipe, Shelf(), unheard, None).best.loss if each.end_loss is None else each.end_loss
        for each in record.attempts
    ]


def stable_shape(model: PreTrainedModel, recovery: Recovery, recipe: Recipe, rung_steps: int) -> tuple[float, float]:
    """Give rung and end of a recipe whose rate stays, and falls in the last fifth of what is trained.

    The warm-up of the rung is that of the whole: up to its cool-down it is the beginning of the whole training.
    """
    own = replace(recovery, recipe=recipe.model_copy(update={"schedule": "stable"}))
    whole = own.plan(model)
    warmup = min(0.8, whole.warmup_ratio * whole.steps / rung_steps)
    rung = replace(whole, steps=rung_steps, judgements=RUNG_JUDGEMENTS, warmup_ratio=warmup)
    losses = []
    for plan in (rung, whole):
        trainee = own.trainee(model)
        judgements = own.training(trainee, CrossEntropy(), plan, Shelf()).run().judgements
        losses.append(min(each.loss for each in judgements[1:] or judgements))
        trainee.discard()
    return losses[0], losses[1]


def correlation(pairs: list[tuple[float, float]]) -> float:
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def run_one(own: Subject, recipe: Recipe, shapes: bool) -> dict[str, Any]:
    """Tune once, and check it against everything trained to the end; losses in nats per token."""
    start, model = time.perf_counter(), own.pruned()
    recovery = own.recovery(recipe)
    pruned = own.evaluated(model)
    tuning = tuning_of(model, recovery, CrossEntropy())
    chosen, shelf, record = tuning.run()
    tuned_seconds = time.perf_counter() - start
    ends = ends_of_all(tuning, record)
    both = [(each.rung_loss, end) for each, end in zip(record.attempts, ends, strict=True)]
    fine = [(rung, end) for rung, end in both if rung is not None]
    default = record.default
    default_shelf = shelf if chosen.number == 0 else Shelf()
    found: dict[str, Any] = {
        "selection": {"default": default.end_loss, "tuned": chosen.end_loss, "best_of_all": min(ends)},
        "evaluation": {
            "dense": own.dense_loss,
            "pruned": pruned,
            "default": evaluated(own, model, replace(recovery, recipe=default.recipe), default_shelf),
            "tuned": evaluated(own, model, replace(recovery, recipe=chosen.recipe), shelf),
        },
        "spearman": correlation(fine),
        # The same, where what diverged before its rung counts as the worst there.
        "spearman_with_failed": correlation([(math.inf if rung is None else rung, end) for rung, end in both]),
        "failed": sum(each.failure is not None for each in record.attempts),
        "tokens": record.tokens,
        "tokens_of_all": record.tokens_of_all,
        "tokens_ratio": record.tokens / record.tokens_of_all,
        "chosen": chosen.recipe.model_dump(mode="json"),
        "attempts": [
            each.model_dump(mode="json") | {"end_of_all": end} for each, end in zip(record.attempts, ends, strict=True)
        ],
        "seconds": {"tuning": tuned_seconds},
    }
    if shapes:
        windows = tuning.rung_windows
        pairs = [
            stable_shape(model, recovery, each.recipe, windows // each.recipe.batch_windows)
            for each in record.attempts
            if each.failure is None
        ]
        found["stable"] = {"spearman": correlation(pairs), "pairs": pairs, "best": min(end for _, end in pairs)}
        # Of one finalist, rung and end, as a share of a whole training.
        found["stable"]["finalist_cost"] = 1 + COOLDOWN * recipe.rung
        found["fixed_finalist_cost"] = 1 + recipe.rung
    found["seconds"]["all"] = time.perf_counter() - start
    return found


def table_of(cells: dict[str, dict[str, Any]]) -> str:
    """One line per subject and one of all; medians, with ranges over seeds."""
    runs, groups = list(cells.values()), defaultdict(list)
    for key, cell in cells.items():
        name, keep, _ = key.split("/")
        groups[f"{name}, {keep} kept"].append(cell)
    heads = [
        "subject",
        "Spearman rung, end",
        "tuned - default, selection",
        "tuned - default, evaluation",
        "tokens of all",
    ]
    stable = all("stable" in run for run in runs)
    heads += ["Spearman, stable", "best end, stable - fixed"] if stable else []
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, own in (*groups.items(), ("all", runs)):
        line = [
            name,
            spread([run["spearman"] for run in own], 2),
            *(
                spread([run[role]["tuned"] - run[role]["default"] for run in own], 4)
                for role in ("selection", "evaluation")
            ),
            spread([run["tokens_ratio"] for run in own], 2),
        ]
        if stable:
            line.append(spread([run["stable"]["spearman"] for run in own], 2))
            line.append(spread([run["stable"]["best"] - run["selection"]["best_of_all"] for run in own], 4))
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments_of(__doc__, RESULTS)
    parser.add_argument("--attempts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--shapes", action="store_true")
    arguments = parser.parse_args()
    quiet_libraries()
    recipe = Recipe(
        method="lora", tokens=arguments.tokens, trials=arguments.attempts, batch_windows=4, judgements=4, distill=0.0
    )
    record = begun_record(arguments.out, {"recipe": recipe.model_dump(mode="json")})
    for key, name, keep, seed in missing_cells(arguments, record):
        cell = run_one(subject(name, keep, seed, arguments.tokens), recipe, arguments.shapes)
        keep_cell(arguments.out, record, key, cell)
        print(f"{key}: Spearman {cell['spearman']:.2f}, {cell['seconds']['all']:.0f} s", flush=True)
    print(table_of(record["cells"]))


if __name__ == "__main__":
    main()
