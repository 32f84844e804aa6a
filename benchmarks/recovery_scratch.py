"""A pruned and recovered model against as many parameters that are trained from scratch on the same tokens.

    python benchmarks/recovery_scratch.py [--subjects demo,stories260k] [--keeps 0.7,0.5] [--seeds 0,1,2] [--tokens N]

From scratch: the pruned architecture, and one of layers alike with as many parameters; weights as transformers draws
them from the config, every weight trained, the same batches, and the best of `RATES` on the selection set. With four
times the tokens, all of them other text, the rate that was best on the first quarter is taken. The evaluation set is
only reported. What the dense model was once trained on is not counted: it is what pruning starts from. Writes
`benchmarks/results/recovery-scratch.json` after every cell (cells that it holds are not made again), prints the table.
"""

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recovery_subjects import Subject, arguments_of, begun_record, keep_cell, missing_cells, spread, subject
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from secateur.cli.terminal import quiet_libraries
from secateur.model.loading import read_config
from secateur.recipe import Recipe
from secateur.recovery.assembly import Texts
from secateur.recovery.recover import recover
from secateur.recovery.text import RecoverySet
from secateur.schema import derive_seed

RESULTS = Path(__file__).parent / "results" / "recovery-scratch.json"
RATES = (3e-3, 1e-2)
TIMES = (1, 4)


def first_windows(whole: RecoverySet, tokens: int) -> RecoverySet:
    """Give what so many tokens of a recovery set are."""
    places = torch.arange(min(len(whole), max(1, tokens // whole.tokens.shape[1])))
    return RecoverySet(whole.tokens[places], whole.counted[places], whole.domains[places], whole.domain_names)


def trained(own: Subject, model: PreTrainedModel, text: RecoverySet, settings: dict[str, Any]) -> dict[str, Any]:
    """Train a model once on a text; losses in nats per token."""
    recovery = own.recovery(Recipe(**({"epochs": 1, "judgements": 5} | settings)))
    begun = time.perf_counter()
    done, record = recover(model, replace(recovery, texts=Texts(text, own.selection)))
    seconds = time.perf_counter() - begun
    return {
        "selection": record.training.best.loss,
        "evaluation": own.evaluated(done),
        "learning_rate": record.learning_rate,
        "tokens": record.training.tokens,
        "rollbacks": len(record.training.rollbacks),
        "parameters": sum(each.numel() for each in done.parameters()),
        "seconds": seconds,
    }


def drawn(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """Give a model with weights as transformers draws them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "scratch"))
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)


def uniform_config(own: Subject, wanted: int) -> PreTrainedConfig:
    """Give a stock config of layers alike with as many parameters as wanted: heads in proportion, then FFN width."""
    dense = own.inputs.dense
    heads = max(1, round(own.keep * dense.shape.num_kv_heads))
    config = read_config(str(dense.model.config.name_or_path))
    config.num_key_value_heads = heads
    config.num_attention_heads = heads * dense.shape.queries_per_group
    config.head_dim = dense.shape.head_dim

    def count(width: int) -> int:
        config.intermediate_size = width
        with torch.device("meta"):
            return sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())

    base, per_channel = count(1), count(2) - count(1)
    config.intermediate_size = max(1, 1 + round((wanted - base) / per_channel))
    return config


def run_one(own: Subject, tokens: int) -> dict[str, Any]:
    text = first_windows(own.recovery_set, tokens)
    cell: dict[str, Any] = {"dense": own.dense_loss, "pruned": own.evaluated(own.pruned()), "ways": {}}
    for method in ("lora", "full"):
        cell["ways"][f"recovered, {method}"] = trained(own, own.pruned(), text, {"method": method})
    exported = read_config(str(own.root / "exported"))
    parameters = sum(each.numel() for each in own.pruned().parameters())
    for title, config in (("pruned architecture", exported), ("layers alike", uniform_config(own, parameters))):
        tried = [
            trained(own, drawn(config, own.seed), text, {"method": "full", "learning_rate": rate}) for rate in RATES
        ]
        best = min(tried, key=lambda each: each["selection"])
        cell["ways"][f"scratch, {title}, 1x"] = best | {
            "tried": {f"{each['learning_rate']:g}": each["selection"] for each in tried}
        }
        for times in TIMES[1:]:
            longer = first_windows(own.recovery_set, times * tokens)
            settings = {"method": "full", "learning_rate": best["learning_rate"]}
            cell["ways"][f"scratch, {title}, {times}x"] = trained(own, drawn(config, own.seed), longer, settings)
    return cell


def table_of(cells: dict[str, dict[str, Any]]) -> str:
    """Write medians and ranges over seeds in Markdown, a line per subject and way."""
    lines = [
        "| model | kept | way | parameters | tokens trained on | evaluation loss | perplexity over dense | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for key, cell in cells.items():
        name, keep, _ = key.split("/")
        for way, figures in cell["ways"].items():
            grouped.setdefault((name, keep, way), []).append(figures | {"dense": cell["dense"]})
    for (name, keep, way), own in grouped.items():
        ratio = spread([float(torch.tensor(each["evaluation"] - each["dense"]).exp()) for each in own])
        figures = f"{own[0]['parameters']:,} | {own[0]['tokens']:,} | {spread([e['evaluation'] for e in own], 3)}"
        lines.append(f"| {name} | {keep} | {way} | {figures} | {ratio} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    parser = arguments_of(__doc__, RESULTS)
    parser.add_argument("--tokens", type=int, default=50_000)
    arguments = parser.parse_args()
    quiet_libraries()
    record = begun_record(arguments.out, {"tokens": arguments.tokens, "rates": RATES})
    for key, name, keep, seed in missing_cells(arguments, record):
        cell = run_one(subject(name, keep, seed, max(TIMES) * arguments.tokens), arguments.tokens)
        keep_cell(arguments.out, record, key, cell)
        print(key, {way: round(each["evaluation"], 4) for way, each in cell["ways"].items()}, flush=True)
    print(table_of(record["cells"]))


if __name__ == "__main__":
    main()
