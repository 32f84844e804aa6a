"""How long does a run take on a GPU, stage by stage, and how much of the GPU's memory?

    python benchmarks/gpu.py [--head-dim 128] [--measurements 100] [--set FIELD=VALUE ...] [--out FILE]

A random Llama in the proportions of one with 3B parameters (`memory.py`; 128 is the 3B model itself), stored in
bfloat16, is pruned end to end with the default sizes of all sets. Its weights are random, so that nothing is said of
quality. `measured` are candidates per second of the search. Peaks are `torch.cuda.max_memory_allocated` of a stage,
and what that is in times the model's bytes.

Writes benchmarks/results/gpu.json and prints a Markdown table.
"""

import argparse
import json
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from memory import save_random

from secateur.assignments import parse_assignment
from secateur.config import build_config, resolve
from secateur.pipeline import run_pipeline
from secateur.runs.progress import Event, StageAdvanced, StageEnded, StageStarted

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "data": {"sources": ["demo"]},
    "search": {"least_improvement": 0.0},
    "budget": {"keep": 0.8},
}


class Watch:
    """Seconds and peak memory of every stage, in the order in which they end."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []
        self.measured = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            torch.cuda.reset_peak_memory_stats()
        if isinstance(event, StageAdvanced) and event.stage == "search":
            self.measured = event.done
        if isinstance(event, StageEnded):
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            self.stages.append({"stage": event.stage, "seconds": event.seconds, "peak_bytes": peak})
            print(f"{event.stage:<12} {event.seconds:7.1f} s {peak / 2**30:6.2f} GiB  {event.note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--measurements", type=int, default=100)
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("gpu.py: torch sees no GPU; this benchmark needs one")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = save_random(folder / "model", arguments.head_dim, "bfloat16")
        sizes = {"model": {"name": str(folder / "model")}, "search": {"measurements": arguments.measurements}}
        given = [parse_assignment(text) for text in arguments.settings]
        watch, start = Watch(), time.perf_counter()
        run_pipeline(resolve(build_config([SETTINGS, sizes, *given])), folder / "run", watch)
        seconds = time.perf_counter() - start
    search = next(each["seconds"] for each in watch.stages if each["stage"] == "search")
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "parameters": parameters,
        "settings": arguments.settings,
        "measured": watch.measured,
        "seconds": seconds,
        "stages": watch.stages,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{torch.cuda.get_device_name()}, {parameters / 1e9:.2f}e9 parameters, {seconds:.0f} s in all")
    print(f"{watch.measured / search:.2f} candidates measured per second\n")
    print("| stage | seconds | peak, GiB | in times the model |\n|---|---|---|---|")
    for each in watch.stages:
        peak = each["peak_bytes"]
        print(f"| {each['stage']} | {each['seconds']:.1f} | {peak / 2**30:.2f} | {peak / (2 * parameters):.2f} |")


if __name__ == "__main__":
    main()
