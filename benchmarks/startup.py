"""How long the command line takes to answer: `secateur`, `--help` of all and of one verb, beside an empty Python.

    python benchmarks/startup.py [--repeats 15]

Commands run in a new random order each time, after one run of each that is not counted. Prints medians and quartiles of
wall time and of processor time, which a busy machine disturbs less, and writes benchmarks/results/startup.json.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "startup.json"
SECATEUR = str(Path(sys.executable).with_name("secateur"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "python -c 'import typer'": [sys.executable, "-c", "import typer"],
    "secateur": [SECATEUR],
    "secateur --help": [SECATEUR, "--help"],
    "secateur prune --help": [SECATEUR, "prune", "--help"],
}


def timed(command: list[str]) -> tuple[float, float]:
    """Give wall time and processor time of a command, in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def quartiles(seconds: list[float]) -> list[float]:
    return [round(float(value), 4) for value in np.quantile(seconds, [0.25, 0.5, 0.75])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    order, names = np.random.default_rng(arguments.seed), list(COMMANDS)
    for name in names:
        timed(COMMANDS[name])
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(arguments.repeats):
        for index in order.permutation(len(names)).tolist():
            times[names[index]].append(timed(COMMANDS[names[index]]))
    rows = {
        name: {"wall": quartiles([wall for wall, _ in each]), "processor": quartiles([spent for _, spent in each])}
        for name, each in times.items()
    }
    table = Table("command", "wall, s", "quartiles", "processor, s", "quartiles")
    for name, row in rows.items():
        cells = [(f"{middle:.3f}", f"{low:.3f} to {high:.3f}") for low, middle, high in row.values()]
        table.add_row(name, *cells[0], *cells[1])
    Console().print(table)
    record = {
        "command": f"python benchmarks/startup.py {' '.join(sys.argv[1:])}".strip(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "repeats": arguments.repeats,
        "seconds": rows,
    }
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
