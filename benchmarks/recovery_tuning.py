"""Does a rung say what the end will be, and is a tuned recipe better than the default?

    python benchmarks/recovery_tuning.py --run demo-0.7=DIR --run stories260k-0.5=DIR [--seeds 0,1,2] [--shapes]

DIR is a finished run (`secateur prune MODEL --keep 0.7 --out DIR`), whose exported model is recovered. Every attempt is
also trained to the end, which tuning does not do: only so can all rungs be compared with their ends. Recovery sets are
small, so that a subject and seed take a few minutes of one core; evaluation windows are reported and choose nothing.
`--shapes` also tries the other way to a rung: warm-up, a stable rate and a cool-down, after which finalists would go on
from before the cool-down. Writes `benchmarks/results/recovery-tuning.json` after every subject and seed, and prints a
Markdown table of its medians.
"""

import argparse
import json
import math
import platform
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel

from secateur.assignments import parse_list, parse_texts
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, read_yaml
from secateur.data import Role, assign_documents, build_token_sets
from secateur.given import dense_of
from secateur.model.loading import load_causal_model
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.objective import CrossEntropy, mean_loss
from secateur.recovery.recover import tuning_of
from secateur.recovery.schedule import COOLDOWN
from secateur.recovery.text import RecoverySet, build_recovery_set
from secateur.recovery.training import unheard
from secateur.recovery.tuning import RUNG_JUDGEMENTS, Tuning, TuningRecord
from secateur.runs.folder import RunFolder
from secateur.runs.shelf import Shelf

RESULTS = Path(__file__).parent / "results"
WINDOWS = 8


@dataclass(frozen=True)
class Subject:
    """A pruned model in a folder, and the texts around it."""

    folder: Path
    recovery_set: RecoverySet
    selection: Int[Tensor, "windows length"]
    evaluation: Int[Tensor, "windows length"]

    def model(self) -> PreTrainedModel:
        return load_causal_model(str(self.folder))[0]


def subject(run: Path, tokens: int) -> Subject:
    """Read a finished run; what it calibrated on is what is trained on."""
    folder = RunFolder(run)
    config = build_config([read_yaml(folder.config)])
    data = config.data
    documents = assign_documents(list(data.sources), {}, data.text_field)
    tokenizer = dense_of(config).tokenizer
    wanted = {Role.SELECTION: data.selection_tokens, Role.EVALUATION: data.evaluation_tokens}
    sets = build_token_sets({role: documents[role] for role in wanted}, tokenizer, data.sequence_length, wanted)
    texts = build_recovery_set({"text": documents[Role.CALIBRATION]}, tokenizer, data.sequence_length, tokens)
    return Subject(folder.exported, texts, sets[Role.SELECTION].tokens, sets[Role.EVALUATION].tokens)


def evaluated(model: PreTrainedModel, recovery: Recovery, recipe: Recipe, shelf: Shelf, tokens: Tensor) -> float:
    """Give the loss that a finished training came to, or train where the shelf is empty."""
    own = replace(recovery, recipe=recipe)
    trainee = own.trainee(model)
    own.training(trainee, CrossEntropy(), own.plan(model), shelf).run()
    loss = mean_loss(trainee.judged(), tokens, WINDOWS)
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


def run_one(name: str, about: Subject, recipe: Recipe, seed: int, shapes: bool) -> dict[str, Any]:
    """Tune once, and check it against everything trained to the end."""
    start, model = time.perf_counter(), about.model()
    recovery = Recovery(recipe, Texts(about.recovery_set, about.selection), seed, WINDOWS * about.selection.shape[1])
    pruned = {"selection": mean_loss(model, about.selection, WINDOWS)}
    pruned["evaluation"] = mean_loss(model, about.evaluation, WINDOWS)
    tuning = tuning_of(model, recovery, CrossEntropy())
    chosen, shelf, record = tuning.run()
    tuned_seconds = time.perf_counter() - start
    ends = ends_of_all(tuning, record)
    both = [(each.rung_loss, end) for each, end in zip(record.attempts, ends, strict=True)]
    fine = [(rung, end) for rung, end in both if rung is not None]
    default = record.default
    default_shelf = shelf if chosen.number == 0 else Shelf()
    found: dict[str, Any] = {
        "subject": name,
        "seed": seed,
        "pruned": pruned,
        "selection": {"default": default.end_loss, "tuned": chosen.end_loss, "best_of_all": min(ends)},
        "evaluation": {
            "default": evaluated(model, recovery, default.recipe, default_shelf, about.evaluation),
            "tuned": evaluated(model, recovery, chosen.recipe, shelf, about.evaluation),
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


def spread(values: list[float], digits: int = 3) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table_of(runs: list[dict[str, Any]]) -> str:
    """One line per subject and one of all; medians, with ranges over seeds."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        groups[run["subject"]].append(run)
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
        cells = [
            name,
            spread([run["spearman"] for run in own], 2),
            *(
                spread([run[role]["tuned"] - run[role]["default"] for run in own], 4)
                for role in ("selection", "evaluation")
            ),
            spread([run["tokens_ratio"] for run in own], 2),
        ]
        if stable:
            cells.append(spread([run["stable"]["spearman"] for run in own], 2))
            cells.append(spread([run["stable"]["best"] - run["selection"]["best_of_all"] for run in own], 4))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--attempts", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=24_576)
    parser.add_argument("--batch-windows", type=int, default=4)
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS / "recovery-tuning.json")
    arguments = parser.parse_args()
    quiet_libraries()
    recipe = Recipe(
        method="lora",
        tokens=arguments.tokens,
        trials=arguments.attempts,
        batch_windows=arguments.batch_windows,
        judgements=4,
    )
    record: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "recipe": recipe.model_dump(mode="json"),
        "runs": [],
    }
    arguments.out.parent.mkdir(exist_ok=True)
    for name, folder in parse_texts(arguments.run, "--run").items():
        about = subject(Path(folder), arguments.tokens)
        for seed in parse_list("--seeds", arguments.seeds, int):
            run = run_one(name, about, recipe, seed, arguments.shapes)
            record["runs"].append(run)
            arguments.out.write_text(json.dumps(record, indent=1) + "\n")
            print(f"{name}, seed {seed}: Spearman {run['spearman']:.2f}, {run['seconds']['all']:.0f} s", flush=True)
    print(table_of(record["runs"]))


if __name__ == "__main__":
    main()
