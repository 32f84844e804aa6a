"""Is the computation-aware Gaussian process honest, and is it linear in the pairs?

    python benchmarks/computation_aware.py [--pairs FILE ...] [--quick]

(1) Coverage of its nominal 90 % interval (noise included) on 300 held-out pairs of each file, fitted on the 300 others,
four splits, beside the exact process. A file is JSON with, per architecture, `levels` and `kl`, and per module and
level `options` (widths), `errors` (reconstruction errors) and `losses` (KL with that module alone replaced).
(2) Time of a fit on synthetic pairs, medians of interleaved repeats: with as many entries per action as the default
has, and with one for every pair, as the paper has it. And what the entries buy: error on pairs that were not fitted.
Seconds are of the processor, so that a shared machine says little. Writes
benchmarks/results/computation-aware.json and .png.
"""

import argparse
import json
import platform
import statistics
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from secateur.predictor.computation_aware import ENTRIES, NOISE, PROJECTION, STEPS, fit_computation_aware
from secateur.predictor.gaussian_process import LENGTH, VARIANCE
from secateur.predictor.quality import rank_correlation

RESULTS = Path(__file__).parent / "results"
DEVIATIONS = 1.6449  # of the nominal 90 % interval
NUM_SPLITS = 4
NUM_FITTED = 300
PROJECTIONS = (64, 128)
SIZES = (500, 1_250, 2_500, 5_000, 10_000)
TIMED_STEPS = 20
ALL = 10**9
NUM_MODULES = 24

Pairs = tuple[Float[np.ndarray, "pairs features"], Float[np.ndarray, " pairs"]]


def read_pairs(path: Path) -> Pairs:
    """Kept ratios, summed errors of attention, MLPs and both, log of the summed replace-one losses; and log KL."""
    held = json.loads(path.read_text())
    levels = np.array(held["levels"])

    def looked_up(tables: list[list[float]]) -> np.ndarray:
        return np.stack([np.array(table)[column] for table, column in zip(tables, levels.T, strict=True)], axis=1)

    kept = looked_up([[width / max(widths) for width in widths] for widths in held["options"]])
    errors, losses = looked_up(held["errors"]), looked_up(held["losses"]).sum(1)
    sums = [errors[:, ::2].sum(1), errors[:, 1::2].sum(1), errors.sum(1), np.log(losses)]
    return np.column_stack([kept, *sums]), np.log(np.array(held["kl"]))


def synthetic_pairs(count: int, seed: int) -> Pairs:
    """Log losses over 24 modules near one budget, with interactions of one in ten pairs of them and 2 % of noise."""
    fixed = np.random.default_rng(0)
    weights = fixed.uniform(0.2, 2.0, NUM_MODULES)
    pairs = fixed.normal(size=(NUM_MODULES, NUM_MODULES)) * (fixed.random((NUM_MODULES, NUM_MODULES)) < 0.1)
    rng = np.random.default_rng(seed)
    concentration = np.exp(rng.uniform(np.log(1.5), np.log(60.0), size=(count, 1)))
    kept = np.round(rng.beta(0.6 * concentration, 0.4 * concentration, size=(count, NUM_MODULES)) * 16) / 16
    cut = 1 - kept
    loss = 0.1 + (weights * cut**2).sum(1) + 0.5 * np.abs(((cut @ pairs) * cut).sum(1))
    sums = [(cut[:, kind::2] ** 2).sum(1) for kind in (0, 1)]
    features = np.column_stack([kept, *sums, sum(sums), np.log(0.01 + (weights * cut**2).sum(1))])
    return features, np.log(loss) + 0.02 * rng.normal(size=count)


def judged(mean: np.ndarray, deviation: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    errors = mean - truth
    return {
        "coverage": float((np.abs(errors) < DEVIATIONS * deviation).mean()),
        "width": float(2 * DEVIATIONS * deviation.mean()),
        "root_mean_square_error": float(np.sqrt((errors**2).mean())),
        "kendall_tau": rank_correlation(mean, truth),
    }


def exact(features: np.ndarray, target: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same kernel, all pairs."""
    kernel = ConstantKernel(1.0, VARIANCE) * Matern(1.0, LENGTH, nu=2.5) + WhiteKernel(1e-2, NOISE)
    middle, scale = features.mean(0), features.std(0) * np.sqrt(features.shape[1])
    process = GaussianProcessRegressor(kernel, normalize_y=True).fit((features - middle) / scale, target)
    mean, deviation = process.predict((unseen - middle) / scale, return_std=True)
    return mean, deviation


def coverage(path: Path, num_splits: int) -> list[dict[str, object]]:
    """Judge the exact process and the projections on the same splits of a file."""
    features, target = read_pairs(path)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    rng = np.random.default_rng(0)
    for split in range(num_splits):
        order = rng.permutation(len(target))
        fitted, held_out = order[:NUM_FITTED], order[NUM_FITTED:]
        pairs = (features[fitted], target[fitted])
        found["exact"].append(judged(*exact(*pairs, features[held_out]), target[held_out]))
        for projection in PROJECTIONS:
            process = fit_computation_aware(*pairs, seed=split, projection=projection)
            found[str(projection)].append(judged(*process.predict(features[held_out]), target[held_out]))
    return [{"pairs": path.stem, "projection": name, "splits": splits} for name, splits in found.items()]


def timed(sizes: tuple[int, ...], repeats: int) -> dict[str, dict[int, list[float]]]:
    """Seconds of a fit of `TIMED_STEPS` steps; one repeat of everything after the other."""
    seconds: dict[str, dict[int, list[float]]] = {"default": defaultdict(list), "all": defaultdict(list)}
    for repeat in range(repeats):
        for size in sizes:
            pairs = synthetic_pairs(size, seed=1)
            for name, entries in (("default", ENTRIES), ("all", ALL)):
                if name == "all" and (repeat > 0 or size > 5_000):
                    continue  # it would take minutes
                begun = time.process_time()
                fit_computation_aware(*pairs, seed=repeat, steps=TIMED_STEPS, entries=entries)
                seconds[name][size].append(time.process_time() - begun)
    return seconds


def exponent(seconds: dict[int, list[float]], first: int) -> float:
    """Slope of log time in log pairs, from `first` pairs on."""
    points = [(size, statistics.median(values)) for size, values in seconds.items() if size >= first]
    return float(np.polyfit(*np.log(np.array(points)).T, 1)[0])


def whole_fits(size: int, few: int) -> list[dict[str, object]]:
    """Fits as a user gets them, judged on 1,500 pairs that none has seen."""
    features, target = synthetic_pairs(size, seed=1)
    unseen, truth = synthetic_pairs(1_500, seed=2)
    rows: list[dict[str, object]] = []
    for name, count, entries in (("default", size, ENTRIES), ("all", size, ALL), ("default", few, ENTRIES)):
        begun = time.process_time()
        process = fit_computation_aware(features[:count], target[:count], seed=0, entries=entries)
        seconds = time.process_time() - begun
        rows.append({"process": name, "num_pairs": count, "seconds": seconds} | judged(*process.predict(unseen), truth))
    begun = time.process_time()
    mean, deviation = exact(features[:few], target[:few], unseen)
    seconds = time.process_time() - begun
    rows.append({"process": "exact", "num_pairs": few, "seconds": seconds} | judged(mean, deviation, truth))
    return rows


def draw(seconds: dict[str, dict[int, list[float]]], path: Path) -> None:
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        axes = figure.subplots()
        labels = {"default": f"{ENTRIES} entries per action", "all": "an entry for every pair"}
        for name, by_size in seconds.items():
            medians = [statistics.median(values) for values in by_size.values()]
            axes.loglog(list(by_size), medians, "o-", label=f"{labels[name]}: exponent {exponent(by_size, 1_250):.2f}")
        size, *_ = by_default = seconds["default"]
        start = statistics.median(by_default[size])
        axes.loglog(list(by_default), [start * each / size for each in by_default], ":", color="grey", label="linear")
        axes.set(xlabel="pairs", ylabel=f"CPU seconds of {TIMED_STEPS} steps, projection {PROJECTION}")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="one split, small sizes, nothing written")
    arguments = parser.parse_args()
    rows = [row for path in arguments.pairs for row in coverage(path, 1 if arguments.quick else NUM_SPLITS)]
    for row in rows:
        means = {name: np.mean([split[name] for split in row["splits"]]) for name in row["splits"][0]}  # type: ignore[index,attr-defined]
        print(row["pairs"], row["projection"], *(f"{name} {value:.3f}" for name, value in means.items()), flush=True)
    seconds = timed((500, 1_250, 2_500) if arguments.quick else SIZES, 1 if arguments.quick else 3)
    for name, by_size in seconds.items():
        medians = ", ".join(f"{size:,}: {statistics.median(values):.1f} s" for size, values in by_size.items())
        print(f"{name}: {medians}; exponent from 1,250 pairs {exponent(by_size, 1_250):.2f}", flush=True)
    fits = whole_fits(*((1_250, 500) if arguments.quick else (5_000, 1_250)))
    for fit in fits:
        print(*(f"{name} {value:.3f}" if isinstance(value, float) else value for name, value in fit.items()))
    if arguments.quick:
        return
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.machine(), "torch_threads": torch.get_num_threads(), "gpu": False},
        "torch": torch.__version__,
        "settings": {"projection": PROJECTION, "entries": ENTRIES, "steps": STEPS, "timed_steps": TIMED_STEPS},
        "coverage": rows,
        "seconds": seconds,
        "exponent": {
            name: {first: exponent(by_size, first) for first in (1_250, 2_500)} for name, by_size in seconds.items()
        },
        "whole_fits": fits,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "computation-aware.json").write_text(json.dumps(record, indent=2) + "\n")
    draw(seconds, RESULTS / "computation-aware.png")


if __name__ == "__main__":
    main()
