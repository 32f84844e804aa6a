"""Does a long search hold out? Thousands of candidates of the demo model: memory, database, going on after a kill.

    python benchmarks/long_run.py [--candidates 5000] [--rounds 8] [--folder DIR] [--again]

`secateur prune demo` as a process, measured by slices on 2,048 tokens. What the process has in memory is read at every
25th candidate. When all but `LEFT` of them are measured it gets SIGKILL, and `secateur resume` goes on: the time from
its start to the first new measurement, taken apart, beside that of a run with sixty candidates, which has the same to
import and to load. The run then goes to its end. Writes `benchmarks/results/long-run.json` and a picture, prints a
Markdown table. Growth of memory is looked for over the second half: what is loaded once is loaded by then.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import psutil

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results" / "long-run.json"
PICTURE = Path(__file__).parent / "results" / "long-run.png"
SETTINGS = (
    "data.sequence_length=128",
    "data.selection_tokens=2048",
    "data.calibration_tokens=8192",
    "search.reconstructed_share=0",
    "search.least_improvement=0",
    "evaluation.speed=false",
)
LEFT = 10
# Candidates between two looks at the memory.
EVERY = 25


def begin(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "secateur", *command, "--json-progress"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def prune(root: Path, candidates: int, rounds: int) -> list[str]:
    sizes = (f"search.measurements={candidates}", f"search.rounds={rounds}")
    return ["prune", "demo", "--out", str(root), *(f"--set={each}" for each in (*SETTINGS, *sizes))]


@dataclass
class GoingOn:
    """Seconds from the start of `secateur resume` to the end of each part, and how many measurements were read."""

    imported: float = 0.0
    loaded: float = 0.0
    measured: float = 0.0
    read: int = 0

    @property
    def parts(self) -> str:
        return (
            f"{self.measured:.1f}: {self.imported:.1f} of imports, {self.loaded - self.imported:.1f} of loading, "
            f"{self.measured - self.loaded:.1f} until the first new measurement ({self.read:,} read)"
        )


def told(process: "subprocess.Popen[str]") -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what a process says, with its stage and event."""
    assert process.stdout is not None, "asked for"
    for line in process.stdout:
        said = json.loads(line)
        yield f"{said.get('stage')} {said.get('event')}", said


def killed_before_the_end(root: Path, candidates: int, rounds: int) -> list[tuple[int, int]]:
    """Begin a run, and kill it shortly before its search ends; give candidates and bytes in memory."""
    process, seen = begin(prune(root, candidates, rounds)), []
    memory = psutil.Process(process.pid)
    for what, said in told(process):
        if what != "search advanced":
            continue
        if said["done"] % EVERY == 0:
            seen.append((said["done"], memory.memory_info().rss))
        if said["done"] >= candidates - LEFT:
            process.kill()
            break
    process.wait()
    return seen


def go_on(root: Path) -> GoingOn:
    """Resume to the end, and time the way to the first new measurement."""
    start, found = time.perf_counter(), GoingOn()
    process = begin(["resume", str(root)])
    for what, said in told(process):
        seconds = time.perf_counter() - start
        if what == "load started":
            found.imported = seconds
        elif what == "search started":
            found.loaded = seconds
        elif what == "search advanced":
            found.read += said["reused"]
            if not said["reused"] and not found.measured:
                found.measured = seconds
    if process.wait():
        raise SystemExit(f"{root} did not end: exit code {process.returncode}")
    return found


def drawn(seen: list[tuple[int, int]]) -> None:
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.plot([done for done, _ in seen], [size / 2**20 for _, size in seen], linewidth=1)
    axes.set_xlabel("candidates measured")
    axes.set_ylabel("resident memory, MiB")
    axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


def show(record: dict[str, Any]) -> None:
    memory = record["memory"]
    half = [seen for seen in memory if seen[0] >= record["candidates"] / 2]
    places, sizes = np.array(half, dtype=float).T
    slope = float(np.polyfit(places, sizes, 1)[0])
    print("| what | figure |\n|---|---|")
    print(f"| candidates, rounds | {record['candidates']:,}, {record['rounds']} |")
    print(f"| seconds until it was killed | {record['seconds']:,.0f} |")
    for place, size in (memory[0], half[0], memory[-1]):
        print(f"| memory at candidate {place:,} | {size / 2**20:,.0f} MiB |")
    print(f"| growth over the second half | {slope / 1024:.1f} KiB per candidate |")
    print(f"| database | {record['store_bytes'] / 1e6:.1f} MB |")
    for name, what in (("going_on", "seconds to go on"), ("going_on_with_sixty", "the same with sixty candidates")):
        print(f"| {what} | {GoingOn(**record[name]).parts} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--again", action="store_true", help="print the table of the last run, and run nothing")
    arguments = parser.parse_args()
    if arguments.again:
        show(json.loads(RESULTS.read_text()))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        killed_before_the_end(folder / "short", 60, arguments.rounds)
        short = go_on(folder / "short")
        begun = time.perf_counter()
        seen = killed_before_the_end(folder / "long", arguments.candidates, arguments.rounds)
        spent = time.perf_counter() - begun
        going_on = go_on(folder / "long")
        store = (folder / "long" / "run.db").stat().st_size
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "candidates": arguments.candidates,
        "rounds": arguments.rounds,
        "seconds": spent,
        "store_bytes": store,
        "memory": seen,
        "going_on": asdict(going_on),
        "going_on_with_sixty": asdict(short),
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    drawn(seen)
    show(record)


if __name__ == "__main__":
    main()
