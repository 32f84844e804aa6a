"""How far does measuring scale? Costs that are measured here, and 1 to 1,024 workers that are simulated with them.

    python benchmarks/scaling.py RUN [--candidates 160,5000] [--rounds 8] [--batch 8] [--seeds 0,1,2]

RUN is a finished run folder: its database says how long candidates took and what the search did between them. Measured
here: storing a measurement, and writing and reading what goes between driver and worker. A simulated driver proposes a
round, cuts it into batches as the supervisor does, gives them to free workers, and stores what comes back, all of it in
turn; workers take as long as candidates of the run did, in random order, and as long to start as loading
took. Rounds wait for their last batch; `--waits 0.9` goes on when that share of a round is there, and the rest
comes in with the next round's, which the predictor has then proposed without it. Writes
`benchmarks/results/scaling.json` and prints a Markdown table.
"""

import argparse
import heapq
import json
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recovery_subjects import spread

from secateur.assignments import parse_list
from secateur.execution.pool import Answer, Batch
from secateur.execution.supervisor import batch_size
from secateur.runs.store import RunStore
from secateur.space.candidate import Measurement

RESULTS = Path(__file__).parent / "results" / "scaling.json"
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# Of what is timed here.
REPEATS = 500


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        candidates: That candidates of the run took, each by itself.
        between: Of the search between two rounds: fits, proposals.
        opening: Of a worker before its first batch.
        giving, taking: Of the driver, per candidate: written and sent; read and stored.
    """

    candidates: tuple[float, ...]
    between: float
    opening: float
    giving: float
    taking: float


def costs_of(run: Path) -> Costs:
    """Read what a run's database says, and time the rest."""
    with RunStore(run / "run.db") as store:
        stages = {row.name: row.seconds for row in store.stages()}
        rounds = sum(name.startswith("round ") for name in stages)
        records = store.all_measurements()
    measured = [Measurement.model_validate_json(record) for record in records]
    candidates = tuple(each.seconds for each in measured if each.seconds > 0)
    between = max(0.0, stages["search"] - sum(candidates)) / max(1, rounds)
    giving, taking = timed_driver(records)
    return Costs(candidates, between, stages["load"], giving, taking)


def timed_driver(records: Sequence[str]) -> tuple[float, float]:
    """Give the driver's seconds per candidate: writing a batch, and reading and storing an answer."""
    texts = [records[place % len(records)] for place in range(REPEATS)]
    items = tuple(Measurement.model_validate_json(text).architecture.model_dump_json() for text in texts)
    start = time.perf_counter()
    for item in items:
        Batch(kind="{}", items=(item,)).model_dump_json()
    giving = (time.perf_counter() - start) / REPEATS
    with tempfile.TemporaryDirectory() as folder, RunStore(Path(folder) / "run.db") as store:
        start = time.perf_counter()
        for place, text in enumerate(texts):
            answer = Answer.model_validate_json(Answer(results=(text,)).model_dump_json())
            Measurement.model_validate_json(answer.results[0])
            store.add_measurement(f"{place}", "protocol", text)
        taking = (time.perf_counter() - start) / REPEATS
    return giving, taking


@dataclass
class Simulated:
    """What a simulated search came to, in seconds; `driver` and `between` are the driver's own, one after the other."""

    total: float
    workers: float
    driver: float
    between: float


def simulated(
    costs: Costs, workers: int, candidates: int, rounds: int, batch: int, waits: float, seed: int
) -> Simulated:
    """Let so many workers measure.

    Args:
        waits: Share of a round that has to be there before the next one is proposed.
    """
    draw = random.Random(seed)
    free = [costs.opening] * workers
    heapq.heapify(free)
    driver, worked, left = 0.0, 0.0, candidates
    late: list[tuple[float, int]] = []
    busy = between = 0.0
    for place in range(rounds):
        count = left if place == rounds - 1 else candidates // rounds
        left -= count
        ends = late
        while count:
            own = batch_size(count, batch, workers)
            count -= own
            driver = max(driver, free[0] - costs.opening) + own * costs.giving
            busy += own * costs.giving
            start = max(heapq.heappop(free), driver)
            seconds = sum(draw.choice(costs.candidates) for _ in range(own))
            worked += seconds
            heapq.heappush(free, start + seconds)
            ends.append((start + seconds, own))
        ends.sort()
        needed = waits * sum(own for _, own in ends) if place < rounds - 1 else float("inf")
        there, late = 0, []
        for end, own in ends:
            if there >= needed:
                late.append((end, own))
                continue
            driver = max(driver, end) + own * costs.taking
            busy += own * costs.taking
            there += own
        if place < rounds - 1:
            driver += costs.between
            between += costs.between
    return Simulated(driver, worked, busy, between)


def limit_of(one: Simulated, workers: int) -> str:
    """Say what takes most of the time beside measuring."""
    parts = {
        "measuring": one.workers / workers,
        "the driver's reading and storing": one.driver,
        "fits and proposals": one.between,
    }
    parts["waiting for the last of a round, or for workers to start"] = one.total - sum(parts.values())
    return max(parts, key=lambda name: parts[name])


def table_of(record: dict[str, Any]) -> str:
    lines = [
        "| candidates | workers | waits for | seconds | speed-up | of ideal | most of it is |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["rows"]:
        lines.append(
            f"| {row['candidates']:,} | {row['workers']:,} | {row['waits']:.0%} | {spread(row['seconds'], 1)} | "
            f"{row['speed_up']:.1f} | {row['speed_up'] / row['workers']:.0%} | {row['limit']} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", default="160,5000")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--waits", default="1.0,0.9")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    costs = costs_of(arguments.run)
    record: dict[str, Any] = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "costs": asdict(costs) | {"candidates": len(costs.candidates), "median": statistics.median(costs.candidates)},
        "rows": [],
    }
    seeds = parse_list("--seeds", arguments.seeds, int)
    for candidates in parse_list("--candidates", arguments.candidates, int):
        for waits in parse_list("--waits", arguments.waits, float):
            alone = 0.0
            for workers in WORKERS:
                made = [
                    simulated(costs, workers, candidates, arguments.rounds, arguments.batch, waits, seed)
                    for seed in seeds
                ]
                seconds = [each.total for each in made]
                alone = alone or statistics.median(seconds)
                row = {"candidates": candidates, "workers": workers, "waits": waits, "seconds": seconds}
                row["speed_up"] = alone / statistics.median(seconds)
                record["rows"].append(row | {"limit": limit_of(made[0], workers)})
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(record["costs"])
    print(table_of(record))


if __name__ == "__main__":
    main()
