"""Two worker processes against one: the same candidates measured by each, in turn, on this machine.

    python benchmarks/workers.py RUN ... [--candidates 32] [--repeats 3] [--batch 8]

RUN is a finished run folder, whose model, text and bank are measured with; candidates are drawn at its budget. Workers
have one thread each and are started, and have measured once, before the clock runs; every repeat has candidates of its
own. What they measure at first is held to what this process measures. The machine should have two cores and nothing
else to do. Writes `benchmarks/results/workers.json` and prints a Markdown table; the speed-up is the median over
repeats, with the lowest and the highest.
"""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from recovery_subjects import spread

from secateur.cli.terminal import quiet_libraries
from secateur.config import build_config, read_yaml
from secateur.execution.settings import Execution
from secateur.inputs import load_inputs
from secateur.pruning.bank import load_bank
from secateur.runs.folder import RunFolder
from secateur.runs.progress import silent
from secateur.runs.store import RunStore
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement
from secateur.space.sampling import sample_architectures
from secateur.stages.measure import selection_protocol, slicing
from secateur.stages.run import Run
from secateur.stages.workers import Kind, started

RESULTS = Path(__file__).parent / "results" / "workers.json"
SLICES = Kind(after="slices")
WORKERS = (1, 2)


def measured(root: Path, candidates: int, repeats: int, batch: int) -> dict[str, Any]:
    """Measure the candidates of one run by one worker and by two, in turn."""
    folder = RunFolder(root)
    config = build_config([read_yaml(folder.config)])
    with RunStore(Path(":memory:")) as store, ExitStack() as open_workers:
        run = Run(config, load_inputs(config, scratch=folder.scratch), folder, store, silent)
        space, budget = run.inputs.space, run.inputs.budget
        # Neighbours share their first layers, as the search gives them out.
        drawn = [
            sorted(sample_architectures(space, budget, candidates, seed), key=lambda each: each.widths)
            for seed in range(repeats + 1)
        ]
        measure_here = slicing(run, load_bank(run.inputs.dense, folder.bank), {})
        own = {each.architecture.key: each for each in measure_here(drawn[0])}
        protocol, furthest = selection_protocol(run), 0.0
        pools = {}
        for count in WORKERS:
            asked = Execution(executor="processes", workers=count, threads=1, batch_candidates=batch)
            pools[count] = open_workers.enter_context(started(asked))

        def seconds(count: int, some: Sequence[Architecture]) -> float:
            nonlocal furthest
            workers = pools[count]
            assert workers is not None, "processes were asked for"
            begun = time.perf_counter()
            found: list[Measurement] = list(workers.measure(SLICES, protocol, run.told, some))
            spent = time.perf_counter() - begun
            for each in found:
                if each.architecture.key in own:
                    furthest = max(furthest, abs((each.kl or 0) - (own[each.architecture.key].kl or 0)))
            return spent

        for count in WORKERS:
            seconds(count, drawn[0])
        spent: dict[int, list[float]] = {count: [] for count in WORKERS}
        for some in drawn[1:]:
            for count in WORKERS:
                spent[count].append(seconds(count, some))
    return {"candidates": candidates, "seconds": spent, "furthest_kl": furthest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--candidates", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "runs": {}}
    print("| run | candidates | one worker, s | two, s | speed-up | furthest KL from this process |")
    print("|---|---|---|---|---|---|")
    for root in arguments.runs:
        found = measured(root, arguments.candidates, arguments.repeats, arguments.batch)
        record["runs"][root.name] = found
        one, two = (found["seconds"][count] for count in WORKERS)
        ratio = spread([a / b for a, b in zip(one, two, strict=True)], 2)
        print(
            f"| {root.name} | {found['candidates']} | {spread(one, 1)} | {spread(two, 1)} | {ratio} | "
            f"{found['furthest_kl']:.0e} |",
            flush=True,
        )
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
