"""One shared recovery for a whole front against one for each of its points: what each closes on evaluation text.

    python benchmarks/recovery_front.py [--seeds 0,1,2] [--tokens 131072] [--keeps 0.5,0.575,0.65,0.725,0.8] [--unseen
    0.6125]

The front is the additive optimum of the demo model at each keep, all from one bank, cut and reconstructed as a run
does. Three ways, of LoRA's default recipe: one set of adapters shared by all points with N tokens in all; separate ones
with N tokens each, which is as many times the work as there are points; and separate ones with N / points each, which
is the same work. What is compared is the share of a point's excess log-perplexity over the dense model that is closed
on the evaluation set. The unseen architecture takes no step of the shared training: its slices are merged all the same.

Writes `benchmarks/results/recovery-front.json` after every seed and prints the table.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from secateur.assignments import parse_list
from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, resolve
from secateur.data import Role, assign_documents
from secateur.demo import generate_documents
from secateur.inputs import load_inputs
from secateur.pruning.bank import WeightBank
from secateur.pruning.calibration import calibrate
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.objective import mean_loss
from secateur.recovery.recover import recover
from secateur.recovery.shared import recover_shared
from secateur.recovery.text import RecoverySet, build_recovery_set
from secateur.runs.folder import RunFolder
from secateur.runs.progress import silent, stage_clock
from secateur.runs.store import RunStore
from secateur.search.additive import additive_optimum
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import Budget
from secateur.stages.calibrate import build_run_bank
from secateur.stages.prune import cut_best
from secateur.stages.run import Run

RESULTS = Path(__file__).parent / "results" / "recovery-front.json"
DATA = {"calibration_tokens": 32_768, "selection_tokens": 8_192, "evaluation_tokens": 16_384}
BATCH_WINDOWS = 8
# Of text that is generated, with something to spare.
TOKENS_PER_DOCUMENT = 60
# Streams of the generator that stand for nothing else.
RECOVERY_STREAM = 77_000
WAYS = {"shared": "shared, N in all", "separate": "separate, N each", "same_work": "separate, N / points each"}


@dataclass(frozen=True)
class Subject:
    """Points of a front, what they are recovered on, and what they are held to.

    Attributes:
        points: By keep; the unseen one is among them.
        dense_loss: On the evaluation set, nats per token.
    """

    run: Run
    points: dict[float, PreTrainedModel]
    recovery_set: RecoverySet
    dense_loss: float

    def loss(self, model: PreTrainedModel) -> float:
        """Give the loss on the evaluation set."""
        return mean_loss(model.eval(), self.run.inputs.sets[Role.EVALUATION].tokens, self.run.batch_windows)

    def recovery(self, recipe: Recipe, recovery_set: RecoverySet) -> Recovery:
        texts = Texts(recovery_set, self.run.inputs.sets[Role.SELECTION].tokens)
        return Recovery(recipe, texts, self.run.config.seed, self.run.config.evaluation.batch_tokens)


def load(seed: int, keeps: Sequence[float], tokens: int, folder: Path) -> Subject:
    """Calibrate, cut and reconstruct a point per keep; the text to train on is none that anything else reads."""
    config = resolve(build_config([{"seed": seed, "budget": {"keep": max(keeps)}, "data": DATA}]))
    inputs = load_inputs(config)
    gathered = calibrate(inputs.dense, inputs.sets[Role.CALIBRATION], config.evaluation.batch_tokens, seed, fisher=True)
    store = RunStore(folder / "run.db")
    run = Run(config, inputs, RunFolder(folder), store, silent)
    bank = build_run_bank(run, gathered, inputs.space)
    points = {keep: cut(run, bank, keep) for keep in keeps}
    held = {d for each in assign_documents(list(config.data.sources), {}).values() for d in each}
    stream = generate_documents(tokens // TOKENS_PER_DOCUMENT, seed=RECOVERY_STREAM + seed)
    documents = [document.text for document in stream if document.text not in held]
    tokenizer, length = inputs.dense.tokenizer, config.data.sequence_length
    recovery_set = build_recovery_set({"text": documents}, tokenizer, length, tokens)
    subject = Subject(run, points, recovery_set, 0.0)
    return Subject(run, points, recovery_set, subject.loss(inputs.dense.model))


def cut(run: Run, bank: WeightBank, keep: float) -> PreTrainedModel:
    """Make the additive optimum at a keep as a run would."""
    space, shape = run.inputs.space, run.inputs.shape
    errors = [bank.errors(module) for module in range(space.num_modules)]
    levels = additive_optimum(space, Budget.from_keep(shape, keep, run.config.budget.band), errors)
    assert levels is not None, "the budget can be met"
    architecture = space.architecture(levels)
    remember(run.store, architecture, keep)
    measurement = Measurement(architecture=architecture, protocol="front", status="measured", kl=0.0, seconds=0.0)
    with stage_clock("prune", silent) as clock:
        return cut_best(run, bank, [measurement], clock, reconstructed_before=True)[0]


def remember(store: RunStore, architecture: Architecture, keep: float) -> None:
    """Say where an architecture came from, as a search does."""
    candidate = Candidate(architecture=architecture, origin="additive", round=0, parameter_reduction=1 - keep)
    store.add_candidates([(architecture.key, 0, candidate.model_dump_json())])


def compare(seed: int, keeps: Sequence[float], unseen: float, tokens: int, folder: Path) -> dict[str, Any]:
    """Recover in all three ways; give what each closed, per point."""
    started = time.perf_counter()
    subject = load(seed, [*keeps, unseen], tokens, folder)
    recipe = Recipe(method="lora", epochs=1, tokens=tokens, batch_windows=BATCH_WINDOWS, judgements=5)
    before = {keep: subject.loss(model) for keep, model in subject.points.items()}
    after: dict[str, dict[float, float]] = {way: {} for way in WAYS}
    seconds: dict[str, float] = {"prepared": time.perf_counter() - started}

    start = time.perf_counter()
    front = [subject.points[keep] for keep in keeps]
    shared = recover_shared(front, subject.recovery(recipe, subject.recovery_set))
    seconds["shared"] = time.perf_counter() - start
    few = shortened(subject.recovery_set, len(keeps))
    for way, recovery_set in (("separate", subject.recovery_set), ("same_work", few)):
        start = time.perf_counter()
        for keep, model in subject.points.items():
            recovered, _ = recover(copy.deepcopy(model), subject.recovery(recipe, recovery_set))
            after[way][keep] = subject.loss(recovered)
        seconds[way] = time.perf_counter() - start
    for keep, model in subject.points.items():
        merged = copy.deepcopy(model)
        shared.adapters.merge(merged)
        after["shared"][keep] = subject.loss(merged)
    closed = {
        way: {f"{keep:g}": (before[keep] - loss) / (before[keep] - subject.dense_loss) for keep, loss in each.items()}
        for way, each in after.items()
    }
    return {
        "seed": seed,
        "dense_loss": subject.dense_loss,
        "before": {f"{keep:g}": loss for keep, loss in before.items()},
        "after": {way: {f"{keep:g}": loss for keep, loss in each.items()} for way, each in after.items()},
        "closed": closed,
        "recovered": [loss.recovered for loss in shared.record.losses],
        "shared_parameters": shared.record.trained_parameters,
        "tokens": {
            "shared": shared.record.training.tokens,
            "separate": subject.recovery_set.num_tokens * len(keeps),
            "same_work": few.num_tokens * len(keeps),
        },
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def shortened(recovery_set: RecoverySet, parts: int) -> RecoverySet:
    """Give one of so many equal parts."""
    count = len(recovery_set) // parts
    own = recovery_set
    return RecoverySet(own.tokens[:count], own.counted[:count], own.domains[:count], own.domain_names)


def table_of(runs: list[dict[str, Any]], keeps: Sequence[float], unseen: float) -> str:
    """One line per point: medians over seeds, and their range."""
    lines = [
        f"| kept | excess before, nats | {' | '.join(WAYS.values())} |",
        "|---|---|" + "---|" * len(WAYS),
    ]
    for keep in [*keeps, unseen]:
        name = f"{keep:g}"
        excess = [run["before"][name] - run["dense_loss"] for run in runs]
        cells = [spread([run["closed"][way][name] for run in runs]) for way in WAYS]
        seen = "" if keep in keeps else ", not trained on"
        lines.append(f"| {name}{seen} | {statistics.median(excess):.4f} | {' | '.join(cells)} |")
    means = [[statistics.mean(run["closed"][way][f"{k:g}"] for k in keeps) for run in runs] for way in WAYS]
    lines.append(f"| mean of the front | | {' | '.join(map(spread, means))} |")
    tokens = [f"{runs[0]['tokens'][way]:,}" for way in WAYS]
    lines.append(f"| tokens for the front | | {' | '.join(tokens)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--keeps", default="0.5,0.575,0.65,0.725,0.8")
    parser.add_argument("--unseen", type=float, default=0.6125)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    quiet_libraries()
    keeps = parse_list("--keeps", arguments.keeps, float)
    record: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "model": "demo",
        "keeps": keeps,
        "unseen": arguments.unseen,
        "settings": DATA | {"tokens": arguments.tokens, "batch_windows": BATCH_WINDOWS},
        "runs": [],
    }
    arguments.out.parent.mkdir(exist_ok=True)
    for seed in parse_list("--seeds", arguments.seeds, int):
        with tempfile.TemporaryDirectory() as name:
            made = compare(seed, keeps, arguments.unseen, arguments.tokens, Path(name))
        record["runs"].append(made)
        print(f"seed {seed}: {made['seconds']}", flush=True)
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table_of(record["runs"], keeps, arguments.unseen))


if __name__ == "__main__":
    main()
