"""What a short training gives back of what the cut took: with and without a teacher, from repaired weights and others.

    python benchmarks/recovery.py [--subjects demo,stories260k] [--keeps 0.7,0.5] [--seeds 0,1,2] [--ways lora,...]

Every way is planned for as many steps on the same text (a training that begins again takes more, and `tokens` counts
them), and is compared on the evaluation set, which chose nothing. Plainly cut is the same architecture without
reconstruction; what is left is compared with what the reconstructed model lost, whatever a way began with. Other parts
have files of their own: recovery_tuning, recovery_soup, recovery_robust, recovery_front, recovery_scratch. Writes
`benchmarks/results/recovery.json` after every cell (cells that it holds are not made again) and prints the table.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery_subjects import Subject, arguments_of, begun_record, keep_cell, spread, subject

from secateur.assignments import parse_list
from secateur.cli.terminal import quiet_libraries
from secateur.recipe import Recipe
from secateur.recovery.recover import recover

RESULTS = Path(__file__).parent / "results" / "recovery.json"
# Of the recovery set: the demo's stream never ends, and is gone through once; the text of stories260K does, twice.
# Three to four minutes on one core.
TOKENS = {"demo": 160_000, "stories260k": 320_000}
EPOCHS = {"demo": 1.0, "stories260k": 2.0}


@dataclass(frozen=True)
class Way:
    """One recovery: settings beside the default recipe's, from which weights, and on how much of the tokens."""

    settings: dict[str, Any]
    plain: bool = False
    share: float = 1.0


WAYS = {
    "lora": Way({"method": "lora"}),
    "lora, text alone": Way({"method": "lora", "distill": 0.0}),
    "lora, from plainly cut": Way({"method": "lora"}, plain=True),
    "lora, an eighth of the tokens": Way({"method": "lora"}, share=0.125),
    "lora, an eighth, from plainly cut": Way({"method": "lora"}, plain=True, share=0.125),
}


def run_one(own: Subject, way: Way) -> dict[str, Any]:
    """Recover once; losses in nats per token, on the selection set and (reported only) on the evaluation set."""
    recipe = Recipe(epochs=way.share * EPOCHS[own.name], **way.settings)
    model = own.plainly_cut() if way.plain else own.pruned()
    before, begun = own.evaluated(model), time.perf_counter()
    recovered, record = recover(model, own.recovery(recipe))
    seconds, after = time.perf_counter() - begun, own.evaluated(recovered)
    training = record.training
    return {
        "evaluation": {"dense": own.dense_loss, "before": before, "after": after},
        "closed": own.closed(before, after),
        # Of what the run's own result still has beyond dense: for ways that start elsewhere.
        "left_of_reconstructed": (after - own.dense_loss) / (own.evaluated(own.pruned()) - own.dense_loss),
        "selection": {"before": training.judgements[0].loss, "after": training.best.loss},
        "steps": training.steps,
        "tokens": training.tokens,
        "learning_rate": record.learning_rate,
        "trained_parameters": record.trained_parameters,
        "rollbacks": len(training.rollbacks),
        "restarts": list(training.restarts),
        "seconds": seconds,
    }


def table_of(cells: dict[str, dict[str, Any]]) -> str:
    """Write medians and ranges over seeds in Markdown, a line per subject and way."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, keep, _, way = key.split("/")
        grouped.setdefault((name, keep, way), []).append(cell)
    lines = [
        "| model | kept | way | excess loss closed | left of the reconstructed model's | "
        "evaluation loss: dense, pruned, recovered | seconds | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, keep, way), own in grouped.items():
        losses = ", ".join(
            f"{statistics.median([cell['evaluation'][part] for cell in own]):.3f}"
            for part in ("dense", "before", "after")
        )
        closed = spread([cell["closed"] for cell in own])
        seconds = f"{statistics.median([cell['seconds'] for cell in own]):.0f}"
        left = spread([cell["left_of_reconstructed"] for cell in own], 3)
        lines.append(f"| {name} | {keep} | {way} | {closed} | {left} | {losses} | {seconds} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments_of(__doc__, RESULTS)
    parser.add_argument("--ways", default=";".join(WAYS), help="names with semicolons between")
    arguments = parser.parse_args()
    quiet_libraries()
    ways = [way.strip() for way in arguments.ways.split(";")]
    record = begun_record(
        arguments.out,
        {"tokens": TOKENS, "epochs": EPOCHS, "ways": {name: asdict(way) for name, way in WAYS.items()}},
    )
    for seed in parse_list("--seeds", arguments.seeds, int):
        for name in parse_list("--subjects", arguments.subjects, str):
            for keep in parse_list("--keeps", arguments.keeps, float):
                wanted = [way for way in ways if f"{name}/{keep:g}/{seed}/{way}" not in record["cells"]]
                own = subject(name, keep, seed, TOKENS[name]) if wanted else None
                for way in wanted:
                    assert own is not None, "there is something to do"
                    cell = run_one(own, WAYS[way])
                    print(f"{name}, {keep:g} kept, seed {seed}, {way}: closed {cell['closed']:.2f}", flush=True)
                    keep_cell(arguments.out, record, f"{name}/{keep:g}/{seed}/{way}", cell)
    print(table_of(record["cells"]))


if __name__ == "__main__":
    main()
