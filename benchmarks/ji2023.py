"""The paper reproduced: its pipeline against uniform LLM-Pruner and against Secateur, on the targets of the paper.

    python benchmarks/ji2023.py MODEL --data TEXT --wikitext2 SELECTION EVALUATION --ptb SELECTION EVALUATION --mmlu DIR
        [--keep 0.75 --scale 0.3 --seed 0 --seed 1 --seed 2 --name stories260k]

Three runs per seed at one parameter count: `--preset llm-pruner`, `--preset ji2023` with WikiText2 perplexity, PTB
perplexity and MMLU accuracy as targets, and the default. Every export is then evaluated on texts and questions that
chose nothing. The paper's claim against uniform LLM-Pruner, for Llama-2-7B at reductions of its own: WikiText2
perplexity -9.48 %, PTB -5.76 %, MMLU +6.28 %. Writes `benchmarks/results/ji2023-NAME.json`.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role
from secateur.evaluation.evaluate import Wanted, evaluate_models
from secateur.evaluation.multiple_choice import ChoiceSet, choose_questions, read_questions
from secateur.model.families import find_family
from secateur.model.loading import load_causal_model, read_config
from secateur.model.shape import module_of
from secateur.model.walk import DecoderWalk
from secateur.pipeline import run_pipeline
from secateur.presets import find_preset
from secateur.report.live import drawn_progress
from secateur.report.record import Report

RESULTS = Path(__file__).parent / "results"
PRESETS = ("llm-pruner", "ji2023", "secateur")
CLAIMED = {"wikitext2": -0.0948, "ptb": -0.0576, "mmlu": 0.0628}
NUM_QUESTIONS = 2_000


def accuracy(folder: str, mmlu: str, model_type: str) -> float:
    """Score a model on questions of the evaluation role."""
    model, tokenizer, _ = load_causal_model(folder, trust_remote_code=True)  # our own export
    questions = choose_questions(read_questions(mmlu), Role.EVALUATION, NUM_QUESTIONS, seed=0)
    longest = min(model.config.max_position_embeddings, 2_048)
    choices = ChoiceSet.build(questions, tokenizer, longest, 8, model.device)
    walk = DecoderWalk(model, find_family(model_type))
    stream = []
    with torch.no_grad():
        for batch in choices.batches:
            hidden = walk.embed(batch)
            for module in range(2 * len(walk.layers)):
                hidden = walk.block(*module_of(module), hidden)
            stream.append(hidden)
    return float(choices.right(walk, stream).mean())


def ppl_128(folder: str, text: str) -> float:
    wanted = Wanted(folder, sources=(text,), protocols=("ppl-128",), trust_remote_code=True)  # our own export
    return evaluate_models(wanted).texts[0].perplexity.value


def run_one(arguments: argparse.Namespace, preset: str, seed: int, console: Console) -> dict[str, Any]:
    settings = find_preset(preset).settings
    targets = {
        "scale": arguments.scale,
        "perplexity": [arguments.wikitext2[0], arguments.ptb[0]],
        "multiple_choice": arguments.mmlu,
    }
    shared = {
        "seed": seed,
        "model": {"name": arguments.model},
        "data": {"sources": arguments.data},
        "budget": {"keep": arguments.keep},
        "baselines": {"uniform": False},
        "paper": targets if preset == "ji2023" else {},
    }
    with tempfile.TemporaryDirectory() as folder, drawn_progress(console) as listener:
        console.print(f"{preset}, seed {seed}")
        root = Path(folder) / "run"
        report: Report = run_pipeline(resolve(build_config([settings, shared])), root, listener)
        exported = str(root / "exported")
        row = report.row("secateur")
        return {
            "preset": preset,
            "seed": seed,
            "decoder_parameters": row.cost.decoder_parameters,
            "num_measurements": report.num_measurements,
            "evaluation": row.perplexity.value,
            "wikitext2": ppl_128(exported, arguments.wikitext2[1]),
            "ptb": ppl_128(exported, arguments.ptb[1]),
            "mmlu": accuracy(exported, arguments.mmlu, read_config(arguments.model).model_type),
            "paper": report.paper.model_dump(mode="json") if report.paper else None,
        }


def change(runs: list[dict[str, Any]], preset: str, of: str) -> list[float]:
    """Relative change against uniform LLM-Pruner of the same seed."""
    uniform = {run["seed"]: run[of] for run in runs if run["preset"] == "llm-pruner"}
    return [run[of] / uniform[run["seed"]] - 1 for run in runs if run["preset"] == preset]


def table_of(runs: list[dict[str, Any]]) -> Table:
    table = Table(
        title="median over seeds (lowest to highest); in brackets against uniform LLM-Pruner", title_justify="left"
    )
    targets = ("evaluation", "wikitext2", "ptb", "mmlu")
    for title in ("", "parameters", "measured", *targets):
        table.add_column(title, justify="right")
    for preset in PRESETS:
        own = [run for run in runs if run["preset"] == preset]
        cells = []
        for target in targets:
            values = [run[target] for run in own]
            changed = statistics.median(change(runs, preset, target))
            middle, low, high = statistics.median(values), min(values), max(values)
            cells.append(f"{middle:.4g} ({low:.4g} to {high:.4g}) [{changed:+.1%}]".replace("[", "\\["))
        table.add_row(preset, f"{own[0]['decoder_parameters']:,}", str(own[0]["num_measurements"]), *cells)
    claims = (f"{CLAIMED[target]:+.1%}" if target in CLAIMED else "" for target in targets)
    table.add_row("the paper's claim, Llama-2-7B", "", "543", *claims)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--wikitext2", nargs=2, required=True, metavar=("SELECTION", "EVALUATION"))
    parser.add_argument("--ptb", nargs=2, required=True, metavar=("SELECTION", "EVALUATION"))
    parser.add_argument("--mmlu", required=True)
    parser.add_argument("--keep", type=float, default=0.75)
    parser.add_argument("--scale", type=float, default=0.3)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--name", default="stories260k")
    arguments = parser.parse_args()
    quiet_libraries()
    console = Console(width=200)
    runs = [run_one(arguments, preset, seed, console) for seed in arguments.seed or [0, 1, 2] for preset in PRESETS]
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "model": Path(arguments.model).name,
        "keep": arguments.keep,
        "scale": arguments.scale,
        "runs": runs,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"ji2023-{arguments.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    console.print(table_of(runs))


if __name__ == "__main__":
    main()
