"""Is the mean of several recoveries better than the best of them?

    python benchmarks/recovery_soup.py [--subjects demo,stories260k] [--keeps 0.7,0.5] [--seeds 0,1,2] [--tokens 30000]

Three recoveries of the same pruned model by LoRA, which differ in their seed (order of the text, adapters) or in their
learning rate (half, default, double); the first is in both. Best ingredient and greedy soup are chosen on the selection
set, uniform takes all; the evaluation set is only reported. Writes `benchmarks/results/recovery-soup.json` after every
cell (cells that it holds are not made again) and prints the table.
"""

import time
from pathlib import Path
from typing import Any

from recovery_subjects import Subject, arguments_of, begun_record, keep_cell, missing_cells, spread, subject
from transformers import PreTrainedModel

from secateur.cli.terminal import quiet_libraries
from secateur.recipe import Recipe
from secateur.recovery.recover import RecoveryRecord, recover
from secateur.recovery.several import Recovered, greedy_soup
from secateur.recovery.trainee import Finished
from secateur.runs.shelf import Shelf
from secateur.schema import derive_seed

RESULTS = Path(__file__).parent / "results" / "recovery-soup.json"
# Seed of a recovery beside the subject's, and factor on the recipe's learning rate.
KINDS: dict[str, tuple[tuple[int, float], ...]] = {
    "seeds": ((0, 1.0), (1, 1.0), (2, 1.0)),
    "rates": ((0, 1.0), (0, 0.5), (0, 2.0)),
}


def recovered_once(own: Subject, place: int, factor: float) -> tuple[PreTrainedModel, RecoveryRecord]:
    model = own.pruned()
    rate = factor * Recipe().rate(int(model.config.hidden_size))
    recipe = Recipe(method="lora", epochs=1, judgements=5, learning_rate=rate)
    seed = own.seed if place == 0 else derive_seed(own.seed, "soup", place)
    return recover(model, own.recovery(recipe, seed))


def run_one(own: Subject) -> dict[str, Any]:
    """Make the recoveries of all kinds, each once, and their soups; losses in nats per token."""
    begun = time.perf_counter()
    made = {
        each: recovered_once(own, *each) for each in dict.fromkeys(each for kind in KINDS.values() for each in kind)
    }
    cell: dict[str, Any] = {"dense": own.dense_loss, "before": own.evaluated(own.pruned()), "kinds": {}}
    for name, ingredients in KINDS.items():
        model = own.pruned()
        recovered = Recovered(model, Shelf())
        for place, each in enumerate(ingredients):
            recovered.keep(place, *made[each])
        judge = own.recovery(Recipe(method="lora")).judge(Finished(model))
        soup = greedy_soup(model, recovered, len(ingredients), judge)
        losses = {"greedy": {"selection": soup.loss, "evaluation": own.evaluated(model)}}
        for title, members in (("best", (soup.best,)), ("uniform", tuple(range(len(ingredients))))):
            recovered.set(model, members)
            losses[title] = {"selection": judge(), "evaluation": own.evaluated(model)}
        cell["kinds"][name] = losses | {"members": soup.members, "ingredients": soup.losses}
    return cell | {"seconds": time.perf_counter() - begun}


def table_of(cells: dict[str, dict[str, Any]]) -> str:
    """Write medians and ranges over seeds in Markdown; soups as differences from the best ingredient."""
    lines = [
        "| model | kept | differ in | in the greedy soup | greedy - best, selection | greedy - best, evaluation | "
        "uniform - best, selection | uniform - best, evaluation | best: share closed | greedy: share closed | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, keep, _ = key.split("/")
        for kind, losses in cell["kinds"].items():
            grouped.setdefault((name, keep, kind), []).append(cell | losses)
    for (name, keep, kind), own in grouped.items():
        gained = [
            spread([each[way][where] - each["best"][where] for each in own], 4)
            for way in ("greedy", "uniform")
            for where in ("selection", "evaluation")
        ]
        closed = [
            spread([(e["before"] - e[way]["evaluation"]) / (e["before"] - e["dense"]) for e in own])
            for way in ("best", "greedy")
        ]
        members = ", ".join(str(len(each["members"])) for each in own)
        lines.append(f"| {name} | {keep} | {kind} | {members} of 3 | {' | '.join([*gained, *closed])} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments_of(__doc__, RESULTS)
    parser.add_argument("--tokens", type=int, default=30_000)
    arguments = parser.parse_args()
    quiet_libraries()
    record = begun_record(arguments.out, {"tokens": arguments.tokens})
    for key, name, keep, seed in missing_cells(arguments, record):
        cell = run_one(subject(name, keep, seed, arguments.tokens))
        keep_cell(arguments.out, record, key, cell)
        print(f"{key}: {cell['seconds']:.0f} s", flush=True)
    print(table_of(record["cells"]))


if __name__ == "__main__":
    main()
