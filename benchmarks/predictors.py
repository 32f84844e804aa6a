"""Which predictor ranks unseen architectures best, from how many pairs, and what is each feature worth?

    python benchmarks/predictors.py [--recorded stories260k-0.8 ...] [--quick]

On recorded pairs (benchmarks/data, made by benchmarks/record_pairs.py): Kendall tau with the measured KL of
architectures that the predictor has not seen, all inside a band of 1.5 % of the budget, mean over four splits; the
coverage of the nominal 90 % interval on them; the ablation of the features; and the time to rank 10,000 candidates.
Sensitivities are measured around the uniform architecture and the additive optimum; rows without them say so. Writes
benchmarks/results/predictors.json and .md, in which what was not recorded anew stays.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from recorded import DATA, Recorded, read_recorded

from secateur.predictor.choice import PREDICTORS
from secateur.predictor.protocol import Pairs
from secateur.predictor.quality import rank_correlation
from secateur.space.encoding import DEFAULT_FEATURES, FEATURES

RESULTS = Path(__file__).parent / "results"
COUNTS = (25, 50, 100, 200)
NUM_SPLITS = 4
CENTRES = ("uniform", "additive")
RANKED = 10_000
# The best single predictor, and the simplest: a feature that one does without may be what the other lives on.
ABLATED = ("gaussian_process", "ridge")
KNOWN = tuple(name for name in DEFAULT_FEATURES if not name.startswith("sensitivity"))


def splits(recorded: Recorded) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.permutation(len(recorded.kl)) for _ in range(NUM_SPLITS)]


def judged(fit: Callable[[Pairs, int], object], pairs: Pairs, orders: list[np.ndarray], counts: Iterable[int]) -> dict:
    """Tau and coverage per number of pairs; what is unseen is the same for all of them."""
    largest = max(COUNTS) if len(pairs) > 2 * max(COUNTS) else len(pairs) // 2
    found: dict[str, dict[int, float]] = {"tau": {}, "covered": {}}
    for count in counts:
        if count > largest:
            continue
        taus, covered = [], []
        for order in orders:
            predictor = fit(pairs.take(order[:count]), 0)
            unseen = pairs.take(order[largest:])
            taus.append(rank_correlation(predictor.predict(unseen.features), unseen.loss))  # type: ignore[attr-defined]
            interval = predictor.interval(unseen.features)  # type: ignore[attr-defined]
            covered.append(((interval.low <= unseen.target) & (unseen.target <= interval.high)).mean())
        found["tau"][count] = float(np.mean(taus))
        found["covered"][count] = float(np.mean(covered))
    return found


def ranking_seconds(pairs: Pairs) -> dict[str, float]:
    """Median seconds to rank 10,000 candidates by predictors fitted on 200 pairs."""
    rows = np.resize(pairs.features, (RANKED, pairs.features.shape[1]))
    seconds = {}
    for name, fit in PREDICTORS.items():
        predictor = fit(pairs.take(np.arange(min(200, len(pairs)))), 0)
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            np.argsort(predictor.predict(rows))
            times.append(time.perf_counter() - begun)
        seconds[name] = float(np.median(times))
    return seconds


def ablations() -> dict[str, tuple[str, ...]]:
    """Blocks of features: the default ones, without each of them, with each of the others."""
    rows = {"all defaults": DEFAULT_FEATURES}
    rows |= {f"without {name}": tuple(each for each in DEFAULT_FEATURES if each != name) for name in DEFAULT_FEATURES}
    rows |= {f"with {name}": (*DEFAULT_FEATURES, name) for name in FEATURES if name not in DEFAULT_FEATURES}
    rows["known before any measurement"] = KNOWN
    rows |= {f"the same, without {name}": tuple(each for each in KNOWN if each != name) for name in KNOWN}
    rows |= {f"the same, with {name}": (*KNOWN, name) for name in FEATURES if name not in DEFAULT_FEATURES}
    rows["kept ratios alone"] = ("kept",)
    return rows


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def table(title: str, rows: dict[str, dict], what: str = "tau") -> list[str]:
    shown = [count for count in map(str, COUNTS) if any(count in row[what] for row in rows.values())]
    lines = [f"### {title}", "", line(["", *(f"{count} pairs" for count in shown)]), line(["---"] * (len(shown) + 1))]
    for name, row in rows.items():
        lines.append(line([name, *(f"{row[what][count]:.3f}" if count in row[what] else "" for count in shown)]))
    return [*lines, ""]


def as_text(record: dict) -> str:
    """Write all that is on record as tables."""
    text = ["# Predictors", "", f"`python benchmarks/predictors.py`: Kendall tau, mean of {NUM_SPLITS} splits.", ""]
    for name, found in sorted(record.items()):
        text += [f"## {name}", "", *table("Kendall tau by predictor", found["predictors"])]
        text += table("Coverage of the nominal 90 % interval", found["predictors"], "covered")
        for predictor, rows in found["ablation"].items():
            text += table(f"Kendall tau by features: {predictor.replace('_', ' ')}", rows)
        seconds = ", ".join(
            f"{each.replace('_', ' ')} {value:.2f}" for each, value in found["seconds_to_rank_10000"].items()
        )
        text += [f"Seconds to rank {RANKED:,} candidates: {seconds}", ""]
    return "\n".join(text)


def save(name: str, found: dict) -> None:
    """Put what was found on record, beside what is there."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "predictors.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    # As it is read back: keys of JSON are strings.
    record = json.loads(json.dumps(record | {name: found}))
    path.write_text(json.dumps(record, indent=1) + "\n")
    (RESULTS / "predictors.md").write_text(as_text(record))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", nargs="*", help="names in benchmarks/data; all if not given")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, nothing written")
    arguments = parser.parse_args()
    names = arguments.recorded or sorted(path.stem.removeprefix("pairs-") for path in DATA.glob("pairs-*.json"))
    counts = COUNTS[:2] if arguments.quick else COUNTS
    for name in names:
        recorded = read_recorded(name)
        orders = splits(recorded)
        known, sensed = recorded.pairs(KNOWN), recorded.pairs(None, CENTRES)
        print(name, f"{len(recorded.kl)} pairs", flush=True)
        rows = {}
        for label, pairs in (("", sensed), (", nothing measured but the pairs", known)):
            for predictor, fit in PREDICTORS.items():
                rows[predictor.replace("_", " ") + label] = judged(fit, pairs, orders, counts)
                print(predictor + label, list(rows.values())[-1], flush=True)
        ablated: dict[str, dict] = {predictor: {} for predictor in ABLATED}
        for label, blocks in ablations().items():
            pairs = recorded.pairs(blocks, CENTRES)
            for predictor, found in ablated.items():
                found[label] = judged(PREDICTORS[predictor], pairs, orders, counts)
                print(predictor, label, found[label]["tau"], flush=True)
        seconds = ranking_seconds(sensed)
        print("seconds to rank 10,000", seconds, flush=True)
        if not arguments.quick:
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            save(
                name,
                {"made_at": made_at, "predictors": rows, "ablation": ablated, "seconds_to_rank_10000": seconds},
            )


if __name__ == "__main__":
    main()
