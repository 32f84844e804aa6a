"""Recovery of a skewed mixture of three domains: plain, and robust in three ways, at equal tokens.

    python benchmarks/recovery_robust.py RUN ... [--seeds 0,1,2] [--mixture story=90,arithmetic=7,lists=3]
    ... [--tokens 131072] [--set field=value ...] [--only plain,groups,ratio,p-dro] [--tune FIELD=V1,V2,...]

RUN is a finished run folder of the demo model, whose exported model is recovered; dense and pruned models are the same
for all seeds, which are those of recovery text, training and adversaries. Every way takes the same number of steps on
windows of the same recovery set. Of every domain the excess log-perplexity over the dense model is reported, on
evaluation windows that chose nothing; `--choose` prints the same on selection windows, `--tune` for every value of a
setting, and neither writes anything. Writes `benchmarks/results/recovery-robust.json` after every cell (cells that it
holds are not made again) and prints a Markdown table.
"""

import argparse
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Int
from recovery_subjects import begun_record, keep_cell, spread
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from secateur.assignments import parse_list
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, read_yaml
from secateur.demo.text import stream_documents
from secateur.given import dense_of
from secateur.model.loading import load_causal_model
from secateur.recipe import Recipe
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.objective import mean_loss
from secateur.recovery.recover import recover
from secateur.recovery.text import RecoverySet, build_recovery_set
from secateur.schema import derive_seed
from secateur.token_stream import encode

RESULTS = Path(__file__).parent / "results" / "recovery-robust.json"
BATCH_TOKENS = 4096
# Chosen on selection windows of the 0.5 model, with a seed that is not reported (docs/log.md).
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "groups": {"robust": "groups", "robust_radius": 4.0},
    "ratio": {"robust": "ratio"},
    "p-dro": {"robust": "p-dro"},
}


@dataclass(frozen=True)
class Subject:
    """What is recovered: everything but the way."""

    dense: DenseTeacher
    pruned: Path
    recovery: RecoverySet
    selection: Mapping[str, Int[Tensor, "_ length"]]
    evaluation: Mapping[str, Int[Tensor, "_ length"]]


def windows_of(
    domain: str, seed: int, tokenizer: PreTrainedTokenizerBase, length: int, tokens: int
) -> Int[Tensor, "windows length"]:
    """Windows of one domain of the demo text."""
    texts: list[str] = []
    found = 0
    for document in stream_documents(seed):
        if document.domain != domain:
            continue
        texts.append(document.text)
        found += len(encode(tokenizer, document.text))
        if found >= tokens:
            break
    return build_recovery_set({domain: texts}, tokenizer, length, found).tokens[: tokens // length]


def mixed(mixture: Mapping[str, float], windows: Mapping[str, Int[Tensor, "_ length"]], tokens: int) -> RecoverySet:
    """Put a recovery set together that has windows of each domain by its share."""
    length = next(iter(windows.values())).shape[1]
    parts = {name: windows[name][: round(share * tokens / length)] for name, share in mixture.items()}
    domains = torch.cat([torch.full((len(each),), place) for place, each in enumerate(parts.values())])
    joined = torch.cat(list(parts.values()))
    return RecoverySet(joined, torch.ones_like(joined[:, 1:], dtype=torch.bool), domains, tuple(parts))


def subject(
    run: Path, mixture: Mapping[str, float], seed: int, tokens: int, judged_tokens: int, length: int
) -> Subject:
    """Load a finished run and write its text."""
    config = build_config([read_yaml(run / "config.yaml")])
    dense = dense_of(config)

    def text(role: str, wanted: Mapping[str, int]) -> dict[str, Int[Tensor, "_ length"]]:
        # Seeds apart from those that the demo model was trained on, and from each other.
        own = derive_seed(seed if role == "recovery" else 0, "recovery benchmark", role)
        return {name: windows_of(name, own, dense.tokenizer, length, number) for name, number in wanted.items()}

    recovery = text("recovery", {name: round(share * tokens) + 2 * length for name, share in mixture.items()})
    even = dict.fromkeys(mixture, judged_tokens)
    return Subject(
        DenseTeacher(dense.model, "demo"),
        run / "exported",
        mixed(mixture, recovery, tokens),
        text("selection", even),
        text("evaluation", dict.fromkeys(mixture, 2 * judged_tokens)),
    )


def excess(model: Any, dense: Any, windows: Mapping[str, Int[Tensor, "_ length"]]) -> dict[str, float]:
    return {name: mean_loss(model, each, 16) - mean_loss(dense, each, 16) for name, each in windows.items()}


def run_one(own: Subject, mixture: Mapping[str, float], recipe: Recipe, seed: int, choosing: bool) -> dict[str, Any]:
    """Recover once."""
    model, _, _ = load_causal_model(str(own.pruned))
    before = {name: excess(model, own.dense.model, each) for name, each in judged(own, choosing)}
    # The selection set is a sample of the given mixture; its domains are known to `groups` alone.
    few = min(len(own.selection[name]) / share for name, share in mixture.items())
    selection = torch.cat([own.selection[name][: round(few * share)] for name, share in mixture.items()])
    by_domain = own.selection if recipe.robust == "groups" else {}
    texts = Texts(own.recovery, selection, by_domain)
    model, record = recover(model, Recovery(recipe, texts, seed, BATCH_TOKENS, own.dense))
    training = record.training
    return {
        "before": before,
        "after": {name: excess(model, own.dense.model, each) for name, each in judged(own, choosing)},
        "steps": training.steps,
        "tokens": training.tokens,
        "best_step": training.best_step,
        "seconds": training.seconds,
        "judgements": [(each.step, each.loss) for each in training.judgements],
    }


def judged(own: Subject, choosing: bool) -> Iterator[tuple[str, Mapping[str, Int[Tensor, "_ length"]]]]:
    """Give the windows to report on by role: evaluation windows choose nothing, so where one chooses they stay away."""
    yield "selection", own.selection
    if not choosing:
        yield "evaluation", own.evaluation


def figures(found: dict[str, float], mixture: Mapping[str, float]) -> dict[str, float]:
    """Worst domain, mean of the domains, mean by the given mixture."""
    return {
        "worst": max(found.values()),
        "mean": statistics.mean(found.values()),
        "given": sum(share * found[name] for name, share in mixture.items()),
    }


def of_seeds(values: list[float]) -> str:
    return spread(values, 3) if len(values) > 1 else f"{values[0]:.3f}"


def line(name: str, runs: list[dict[str, Any]], plain: list[dict[str, Any]], role: str, mixture: Any) -> str:
    cells = [name]
    for domain in mixture:
        cells.append(of_seeds([each["after"][role][domain] for each in runs]))
    for kind in ("worst", "mean", "given"):
        own = [figures(each["after"][role], mixture)[kind] for each in runs]
        reference = [figures(each["after"][role], mixture)[kind] for each in plain]
        cells += [of_seeds(own), of_seeds([a / b for a, b in zip(own, reference, strict=False)])]
        if kind != "worst":
            # The same average as perplexity, whose larger part no recovery changes.
            cells.append(of_seeds([math.exp(a - b) for a, b in zip(own, reference, strict=False)]))
    cells.append(f"{statistics.median(each['seconds'] for each in runs):.0f}")
    return "| " + " | ".join(cells) + " |"


def table(runs: dict[str, list[dict[str, Any]]], role: str, mixture: Mapping[str, float]) -> str:
    kinds = (
        "worst",
        "/ plain",
        "mean",
        "/ plain",
        "perplexity / plain",
        "given mixture",
        "/ plain",
        "perplexity / plain",
        "s",
    )
    head = "| way | " + " | ".join([*mixture, *kinds]) + " |"
    plain = runs.get("plain") or next(iter(runs.values()))
    rows = [line(name, each, plain, role, mixture) for name, each in runs.items()]
    before = plain[0]["before"][role]
    own = figures(before, mixture)
    cells = [f"{before[name]:.3f}" for name in mixture]
    for kind in ("worst", "mean", "given"):
        cells += [f"{own[kind]:.3f}", *([""] if kind == "worst" else ["", ""])]
    none = "| none | " + " | ".join([*cells, ""]) + " |"
    return "\n".join([head, "|---" * (len(mixture) + 10) + "|", none, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--mixture", default="story=90,arithmetic=7,lists=3")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--judged-tokens", type=int, default=16_384, help="selection tokens per domain")
    parser.add_argument("--length", type=int, default=128, help="tokens of a window")
    parser.add_argument(
        "--set", action="append", default=["method=lora", "epochs=1", "batch_windows=8"], dest="assignments"
    )
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--tune", metavar="FIELD=V1,V2", help="print selection windows for each; writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--choose", action="store_true", help="print selection windows; writes nothing")
    arguments = parser.parse_args()
    quiet_libraries()
    choosing = bool(arguments.tune) or arguments.choose
    shares = {name: float(part) for name, part in (each.split("=") for each in arguments.mixture.split(","))}
    mixture = {name: share / sum(shares.values()) for name, share in shares.items()}
    common = {key: yaml.safe_load(value) for key, value in (each.split("=") for each in arguments.assignments)}
    ways = {name: WAYS[name] for name in arguments.only.split(",")}
    if arguments.tune:
        field, _, values = arguments.tune.partition("=")
        ways = {
            f"{name} {field}={value}": way | {field: yaml.safe_load(value)}
            for name, way in ways.items()
            for value in values.split(",")
        }
    # What is for choosing is kept nowhere.
    sizes = {"tokens": arguments.tokens, "judged_tokens": arguments.judged_tokens, "length": arguments.length}
    settings = {"mixture": mixture, **sizes, "settings": common, "ways": ways}
    record: dict[str, Any] = {"cells": {}} if choosing else begun_record(arguments.out, settings)
    cells = record["cells"]
    for run in arguments.runs:
        for seed in parse_list("--seeds", arguments.seeds, int):
            wanted = [name for name in ways if f"{run.name}/{seed}/{name}" not in cells]
            if wanted:
                own = subject(run, mixture, seed, arguments.tokens, arguments.judged_tokens, arguments.length)
            for name in wanted:
                recipe = Recipe(**(common | ways[name]))
                key, cell = f"{run.name}/{seed}/{name}", run_one(own, mixture, recipe, seed, choosing)
                if choosing:
                    cells[key] = cell
                else:
                    keep_cell(arguments.out, record, key, cell)
                print(f"{run.name}, seed {seed}, {name}: done", flush=True)
        role = "selection" if choosing else "evaluation"
        found: dict[str, list[dict[str, Any]]] = {}
        for key, cell in sorted(cells.items(), key=lambda each: each[0].split("/")[1]):
            of, _, name = key.split("/")
            if of == run.name:
                found.setdefault(name, []).append(cell)
        print(f"\n{run.name}, {role} windows, excess log-perplexity over the dense model:\n")
        print(table({name: found[name] for name in sorted(found, key=order_of)}, role, mixture), flush=True)


def order_of(name: str) -> int:
    """Give the place of a way in the table: that of its family."""
    return list(WAYS).index(name.split(" ", maxsplit=1)[0])


if __name__ == "__main__":
    main()
