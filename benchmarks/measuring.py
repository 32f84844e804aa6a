"""How fast are candidates measured, beside a transformers forward of each with its weights copied in?

    python benchmarks/measuring.py [--only PART ...]

On the demo model with its own text, and on a random Llama of 24 layers, 1,024 wide, with a vocabulary of 32,000, on
random tokens. The naive way makes every candidate (weights copied), runs transformers' forward in float32, keeps full
logits and compares them with dense log-probabilities that it has kept. Both ways take turns in one process; figures
are ratios, medians of the turns.

    random      candidates of the budget band per second
    offspring   64 offspring of one parent, by sharing alone, and with successive halving down to four
    numbers     KL of 100 random candidates of the demo beside the naive way's
    products    FLOPs of the distinct work over time, as a share of what bare products of the same shapes reach
    growth      time against tokens and against distinct prefixes, with a picture
    precision   do bfloat16 products, and the largest probabilities of each token alone, rank as float32 and all do?
    memory      of a process that measures the Llama from mapped files, as a share of the model's bytes
    calibration time of the bank, in calibration passes

The default type is bfloat16 where the processor multiplies it fast; elsewhere what it would give is not known, and is
left out. Writes benchmarks/results/measuring.json, a part at a time, and measuring-growth.png.
"""

# ruff: noqa: E402
from secateur.machine import settle_process

settle_process()  # before torch is imported, as the command line does

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from measuring_subjects import SEED, Subject, demo, large, random_llama, random_tokens
from scipy.stats import kendalltau

from secateur.cli.terminal import quiet_libraries
from secateur.data import Role
from secateur.evaluation import divergence
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.precision import multiplies_bfloat16
from secateur.evaluation.stitched import Memory, StitchedModel
from secateur.model.loading import DenseModel
from secateur.model.mapped import MappedWeights
from secateur.model.shape import BlockKind, decoder_layers, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank, load_bank
from secateur.pruning.calibration import calibrate
from secateur.runs.shelf import Shelf
from secateur.search.halving import halve, rungs, work
from secateur.space.architecture import Architecture
from secateur.space.search_space import define_space

RESULTS = Path(__file__).parent / "results"
TURNS = 3
NUM_OFFSPRING, NUM_SURVIVORS = 64, 4
BFLOAT16 = multiplies_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def seconds_of(act: Callable[[], Any]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def kls(scores: list[Any]) -> list[float]:
    return [float(each.kl.mean()) for each in scores]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def random(subject: Subject, count: int) -> dict[str, Any]:
    """Take turns: some candidates the naive way, then the same ones all at once."""
    drawn = subject.random(count)
    subject.naive(drawn[0])
    subject.stitched().scores(drawn[:1])
    found: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    for turn in range(TURNS):
        some = drawn[turn::TURNS]
        naive = seconds_of(lambda some=some: [subject.naive(each) for each in some])
        for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
            if dtype is None or BFLOAT16:
                model = subject.stitched(dtype=dtype)
                found[name].append(naive / seconds_of(lambda model=model, some=some: model.scores(some)))
    return {"candidates": count} | {name: spread(ratios) for name, ratios in found.items() if ratios}


def offspring(subject: Subject, num_naive: int) -> dict[str, Any]:
    """Measure a parent, then its children: naively, sharing, and by halves; survivors beside the four best of all."""
    parent = subject.random(1)[0]
    children = subject.offspring(parent, NUM_OFFSPRING)
    subject.naive(parent)
    naive = [seconds_of(lambda each=each: subject.naive(each)) for each in children[:: len(children) // num_naive]]
    whole = statistics.median(naive) * len(children)
    report: dict[str, Any] = {"children": len(children), "timed naively": len(naive), "work": {}}
    for name, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
        if dtype is not None and not BFLOAT16:
            continue
        model = subject.stitched(dtype=dtype)
        model.score(parent)
        before, scores = model.num_blocks_run, []
        shared = seconds_of(lambda model=model, scores=scores: scores.extend(model.scores(children)))
        values = kls(scores)
        best = sorted(range(len(children)), key=values.__getitem__)[:NUM_SURVIVORS]
        blocks = model.num_blocks_run - before
        model = subject.stitched(dtype=dtype, reference=subject.in_steps)
        model.score(parent)
        left: list[int] = []
        halved = seconds_of(lambda model=model, left=left: left.extend(halve_down(subject, model, children)))
        report[name] = {
            "sharing": whole / shared,
            "halving": whole / halved,
            "same survivors": len(set(left) & set(best)),
            "blocks run, share": blocks / (len(children) * len(subject.reference.batches) * subject.space.num_modules),
        }
    steps = rungs(len(subject.in_steps.batches), len(children), NUM_SURVIVORS)
    report["work"] = {
        "steps": [[step.batches.stop, step.survivors] for step in steps],
        "in whole measurements": work(steps, len(children)),
    }
    return report


def halve_down(subject: Subject, model: StitchedModel[Any], children: list[Architecture]) -> list[int]:
    seen: dict[int, list[torch.Tensor]] = {number: [] for number in range(len(children))}
    steps = rungs(len(subject.in_steps.batches), len(children), NUM_SURVIVORS)

    def score(there: list[int], step: Any) -> list[float]:
        for number, own in zip(there, model.scores([children[n] for n in there], step.batches), strict=True):
            seen[number].append(own.kl)
        return [float(torch.cat(seen[number]).mean()) for number in there]

    return halve(len(children), steps, score)


def numbers(subject: Subject) -> dict[str, Any]:
    drawn = subject.random(100)
    ours, naive = kls(subject.stitched(16).scores(drawn)), [subject.naive(each) for each in drawn]
    relative = [abs(a - b) / b for a, b in zip(ours, naive, strict=True)]
    return {"candidates": len(drawn), "largest relative difference": max(relative), "KL": [min(naive), max(naive)]}


def products(subject: Subject, count: int) -> dict[str, Any]:
    """Time bare products of the shapes that distinct work has, and the work itself, in turns."""
    config, shape = subject.dense.model.config, subject.dense.shape
    drawn = subject.random(count)
    rows = subject.reference.batches[0].numel()
    length, batches = subject.tokens.sequence_length, len(subject.reference.batches)
    prefixes = {each.widths[: module + 1] for each in drawn for module in range(subject.space.num_modules)}
    wanted: dict[tuple[int, int], int] = {}
    attention = 0
    for prefix in prefixes:
        kind, width = module_of(len(prefix) - 1)[1], prefix[-1]
        if not width:
            continue
        if kind is BlockKind.MLP:
            sizes = [(config.hidden_size, width)] * 2 + [(width, config.hidden_size)]
        else:
            heads = shape.queries_per_group * width
            sizes = [(config.hidden_size, heads * shape.head_dim), (heads * shape.head_dim, config.hidden_size)]
            sizes += [(config.hidden_size, width * shape.head_dim)] * 2
            attention += 2 * rows * length * heads * shape.head_dim  # causal: half of both products
        for size in sizes:
            wanted[size] = wanted.get(size, 0) + batches
    wanted[config.hidden_size, config.vocab_size] = wanted.get((config.hidden_size, config.vocab_size), 0) + (
        batches * len(drawn)
    )
    flops = sum(2 * rows * a * b * times for (a, b), times in wanted.items()) + attention * batches
    shares = []
    for _ in range(TURNS):
        bare = 0.0
        for (a, b), times in wanted.items():
            x, weight = torch.randn(rows, a), torch.randn(b, a)
            F.linear(x, weight)
            bare += times * statistics.median(seconds_of(lambda x=x, w=weight: F.linear(x, w)) for _ in range(3))
        rate = sum(2 * rows * a * b * times for (a, b), times in wanted.items()) / bare
        model = subject.stitched()
        shares.append(flops / seconds_of(lambda model=model: model.scores(drawn)) / rate)
    return {"candidates": count, "share of the bare products' rate": spread(shares)}


def growth(subject: Subject) -> dict[str, Any]:
    """Time one candidate after another on more and more tokens, and more and more candidates on all."""
    drawn, batches = subject.random(32), subject.in_steps.batches
    tokens, by_tokens, prefixes, by_prefixes = [], [], [], []
    for count in range(1, len(batches) + 1):
        models = [subject.stitched(1, reference=subject.in_steps) for _ in range(3)]
        times = [seconds_of(lambda m=model, c=count: m.scores(drawn[:4], range(c))) for model in models]
        tokens.append(count * batches[0].numel())
        by_tokens.append(statistics.median(times))
    for count in (1, 2, 4, 8, 16, 24, 32):
        times = []
        for _ in range(3):
            model = subject.stitched()
            times.append(seconds_of(lambda m=model, c=count: m.scores(drawn[:c])))
        prefixes.append(model.num_blocks_run // len(subject.reference.batches))
        by_prefixes.append(statistics.median(times))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    report = {}
    for axes, x, y, label in zip(
        figure.subplots(1, 2),
        (tokens, prefixes),
        (by_tokens, by_prefixes),
        ("tokens (4 candidates)", "distinct prefixes (8,192 tokens)"),
        strict=True,
    ):
        slope, constant = np.polyfit(x, y, 1)
        axes.plot(x, y, "o", color="#0072B2")
        axes.plot([0, max(x)], [constant, constant + slope * max(x)], color="#D55E00")
        axes.set(xlabel=label, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        share = float(np.corrcoef(x, y)[0, 1] ** 2)
        axes.set_title(f"linear: r2 = {share:.4f}")
        report[label] = {"x": x, "seconds": y, "r2": share, "constant, share of the largest": constant / max(y)}
    figure.suptitle(f"Measuring candidates of {subject.name}")
    figure.savefig(RESULTS / "measuring-growth.png", dpi=110, metadata={"Software": None})
    return report


def precision(subject: Subject) -> dict[str, Any]:
    drawn = subject.random(40)
    exact = kls(subject.stitched(16).scores(drawn))
    report: dict[str, Any] = {"candidates": len(drawn)}
    report["bfloat16 products"] = agreement(exact, kls(subject.stitched(16, torch.bfloat16).scores(drawn)))
    fits = divergence.KEPT_PROBABILITIES_BYTES
    divergence.KEPT_PROBABILITIES_BYTES = 0
    for top_k in (8, 32, 128):
        few = DenseReference(subject.walk, subject.tokens, subject.batch_windows, top_k)
        report[f"{top_k} of {subject.dense.model.config.vocab_size:,} probabilities"] = agreement(
            exact, kls(subject.stitched(16, reference=few).scores(drawn))
        )
    divergence.KEPT_PROBABILITIES_BYTES = fits
    return report


def agreement(exact: list[float], other: list[float]) -> dict[str, float]:
    ratios = [b / a for a, b in zip(exact, other, strict=True)]
    tau = float(kendalltau(exact, other).statistic)
    return {"Kendall tau": tau, "ratio of KL, least": min(ratios), "most": max(ratios)}


def memory() -> dict[str, Any]:
    """Write the bank in one process, measure from it in another, and read what that holds while it does."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 17)}  # freed memory goes back at once
    with tempfile.TemporaryDirectory() as folder:
        for part in ("write", "measure"):
            command = [sys.executable, __file__, "--child", part, folder]
            child = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(child.stdout.splitlines()[-1])


def mapped_llama(folder: Path) -> DenseModel:
    dense = random_llama(24, vocab_size=8_000)
    layers = decoder_layers(dense.model, dense.family)
    return replace(dense, mapped_layers=tuple(MappedWeights(layer.parameters(), folder) for layer in layers))


def write_bank(folder: Path) -> None:
    dense = mapped_llama(folder)
    statistics_ = calibrate(dense, random_tokens(Role.CALIBRATION, dense, 2, 128), 256, SEED, shelf=Shelf(folder / "s"))
    build_bank(dense, statistics_, define_space(dense.shape, 9, 5).options, "wanda", "none", folder=folder / "bank")


def measure_mapped(folder: Path) -> None:
    """Measure eight candidates with layers and bank in files, and 32 MiB of states."""
    baseline = resident()
    dense = mapped_llama(folder)
    weights = sum(parameter.numel() * 4 for parameter in dense.model.parameters())
    bank, options = load_bank(dense, folder / "bank"), define_space(dense.shape, 9, 5).options
    walk = DecoderWalk(dense.model, dense.family, release=dense.release)
    reference = DenseReference(walk, random_tokens(Role.SELECTION, dense, 8, 128), 8)
    rng = np.random.default_rng(SEED)
    drawn = [Architecture.from_widths(tuple(int(rng.choice(each[1:])) for each in options)) for _ in range(8)]
    dense.release()
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    StitchedModel(walk, bank, reference, Memory(32 << 20, 0)).scores(drawn)
    done.set()
    watcher.join()
    size = sum(file.stat().st_size for file in (folder / "bank").iterdir())
    held = peak[0] - baseline
    print(json.dumps({"weights": weights, "bank": size, "peak": held, "share of the weights": held / weights}))


def resident() -> int:
    """Give the bytes that are in memory now, pages of files among them."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


def calibration() -> dict[str, Any]:
    """Time both on two layers of the Llama; the pass is linear in tokens, of which a run has 65,536."""
    dense, num_tokens = random_llama(2), 8_192
    space = define_space(dense.shape, 17, 9)
    tokens = random_tokens(Role.CALIBRATION, dense, num_tokens // 256, 256)
    held: list[Any] = []
    spent = seconds_of(lambda: held.append(calibrate(dense, tokens, 4_096, SEED))) * 65_536 / num_tokens
    bank = seconds_of(lambda: build_bank(dense, held[0], space.options))
    return {"tokens timed": num_tokens, "tokens of a run": 65_536, "bank, in calibration passes": bank / spent}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("random", "offspring", "numbers", "products", "growth", "precision", "memory", "calibration")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_libraries()
    if arguments.child:
        part, folder = arguments.child
        {"write": write_bank, "measure": measure_mapped}[part](Path(folder))
        return
    path = RESULTS / "measuring.json"
    report = json.loads(path.read_text()) if path.is_file() else {}
    report["machine"] = {
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "fast bfloat16": BFLOAT16,
        "date": datetime.now(UTC).date().isoformat(),
    }

    def keep(part: str, name: str, found: dict[str, Any]) -> None:
        report.setdefault(part, {})[name] = found
        print(part, name, json.dumps(found), flush=True)
        path.write_text(json.dumps(report, indent=2) + "\n")

    wanted = set(arguments.only)
    if wanted & {"memory"}:
        keep("memory", "random Llama, 24 x 1,024", memory())
    if wanted & {"calibration"}:
        keep("calibration", "random Llama, 2 x 1,024", calibration())
    for make, num_random, num_naive in ((demo, 48, 12), (large, 12, 4)):
        small = make is demo
        if not wanted & (
            {"random", "offspring", "products"} | ({"numbers", "growth", "precision"} if small else set())
        ):
            continue
        subject = make()
        if "random" in wanted:
            keep("random", subject.name, random(subject, num_random))
        if "offspring" in wanted:
            keep("offspring", subject.name, offspring(subject, num_naive))
        if "products" in wanted:
            keep("products", subject.name, products(subject, 16 if small else 6))
        if small and "numbers" in wanted:
            keep("numbers", subject.name, numbers(subject))
        if small and "growth" in wanted:
            keep("growth", subject.name, growth(subject))
        if small and "precision" in wanted:
            keep("precision", subject.name, precision(subject))


if __name__ == "__main__":
    main()
