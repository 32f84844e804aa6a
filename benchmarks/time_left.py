"""How right the time left is: whole runs, in which what the live view says is held against what then came.

    python benchmarks/time_left.py [--stories MODEL TEXT] [--only NAME] [--out FILE]

Every run is replayed event by event with a clock of its own, and asked twice a second how long it will still take. From
a tenth of the run on: the share of the time at which the answer was within 30 % of the truth, the median and the worst
error. Beside it what `secateur plan` said before the run, over what the run took. Other work on the machine changes its
speed while a run goes on, and is part of what is measured.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from secateur.machine import settle_process

settle_process()

from secateur.assignments import parse_assignment  # noqa: E402 - threads are settled before torch is imported
from secateur.cli.terminal import quiet_libraries  # noqa: E402
from secateur.config import build_config, resolve  # noqa: E402
from secateur.pipeline import run_pipeline  # noqa: E402
from secateur.plan import plan_run  # noqa: E402
from secateur.runs.progress import (  # noqa: E402
    Event,
    Part,
    PredictorFitted,
    RunFinished,
    StageAdvanced,
    StageEnded,
    StageStarted,
    StageWork,
    WorkExpected,
)
from secateur.runs.time_left import TimeLeft  # noqa: E402

KINDS = {kind.__name__: kind for kind in (StageStarted, StageAdvanced, StageEnded, PredictorFitted, RunFinished)}
# As `make demo`.
DEMO = {
    "data.calibration_tokens": 32768,
    "search.measurements": 60,
    "search.rounds": 5,
    "search.reconstructed_tokens": 4096,
    "search.finalists": 2,
}
SMALLER = {
    "data.calibration_tokens": 8192,
    "data.selection_tokens": 4096,
    "data.evaluation_tokens": 8192,
    "search.reconstructed_tokens": 2048,
    "search.rounds": 3,
    "search.finalists": 2,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "demo": ("demo", DEMO),
    "demo, slices only": (
        "demo",
        SMALLER | {"search.measurements": 50, "search.reconstructed_share": 0, "search.alternative_measurements": 0},
    ),
    "stories260K": ("stories", SMALLER | {"search.measurements": 60, "budget.keep": 0.8}),
    "stories260K, evolutionary": (
        "stories",
        SMALLER | {"search.method": "evolutionary", "search.measurements": 100, "budget.keep": 0.5},
    ),
}
STEP = 0.5
Recorded = list[tuple[float, Event]]


def run(model: str, settings: dict[str, Any]) -> tuple[Recorded, float]:
    """Plan, then run; give the events with their times, and the seconds that the plan expected."""
    layers = [{"model": {"name": model}}, *(parse_assignment(f"{key}={value}") for key, value in settings.items())]
    config = resolve(build_config(layers))
    planned = plan_run(config).seconds
    events: Recorded = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        run_pipeline(config, Path(folder) / "run", lambda event: events.append((time.perf_counter() - start, event)))
    return events, planned


def replay(events: Recorded) -> list[tuple[float, float]]:
    """Give what was said to be left at even times, as (seconds, seconds left)."""
    now = 0.0
    listener = TimeLeft(lambda: now)
    said: list[tuple[float, float]] = []
    for at, event in events:
        while now + STEP < at:
            now += STEP
            left = listener.seconds
            if left is not None:
                said.append((now, left))
        now = at
        listener.listen(event)
    return said


def judge(events: Recorded, planned: float) -> dict[str, Any]:
    """Hold what was said against what came."""
    whole = events[-1][0]
    load = next(at for at, event in events if isinstance(event, StageEnded))
    samples = [(at, left, whole - at) for at, left in replay(events) if at >= whole / 10]
    errors = [abs(left - true) / true for _, left, true in samples]
    halves = [errors[: len(errors) // 2], errors[len(errors) // 2 :]]
    # The last moments of a run are too short to be right about.
    earlier = [error for (_, _, true), error in zip(samples, errors, strict=True) if true >= whole / 20]
    return {
        "seconds": round(whole, 1),
        "within_30_percent": round(sum(error <= 0.3 for error in errors) / len(errors), 3),
        "within_30_percent_by_half": [round(sum(error <= 0.3 for error in half) / len(half), 3) for half in halves],
        "median_error": round(median(errors), 3),
        "worst_error_before_the_last_twentieth": round(max(earlier), 3),
        "worst_error": round(max(errors), 3),
        "known_from": round(min((at for at, _, _ in samples), default=0) / whole, 3),
        "planned_over_real": round(planned / (whole - load), 3),
        "curve": [
            [round(at, 1), round(left, 1), round(true, 1)] for at, left, true in samples[:: max(1, len(samples) // 40)]
        ],
    }


def to_json(events: Recorded) -> list[dict[str, Any]]:
    return [{"t": at, "kind": type(event).__name__} | asdict(event) for at, event in events]


def from_json(lines: list[dict[str, Any]]) -> Recorded:
    events: Recorded = []
    for line in lines:
        at, kind = line.pop("t"), line.pop("kind")
        if kind == "WorkExpected":
            works = [StageWork(each["stage"], tuple(Part(**part) for part in each["parts"])) for each in line["stages"]]
            events.append((at, WorkExpected(tuple(works))))
        else:
            events.append((at, KINDS[kind](**line)))
    return events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", nargs=2, metavar=("MODEL", "TEXT"), help="stories260K and its text")
    parser.add_argument("--only", action="append", help="name of a case; several times")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/time-left.json"))
    parser.add_argument("--events", type=Path, help="folder for the events of every run, to replay them later")
    parser.add_argument("--replay", action="store_true", help="judge what is in that folder instead of running")
    options = parser.parse_args()
    quiet_libraries()
    known = json.loads(options.out.read_text())["cases"] if options.out.is_file() else {}
    for name, (model, settings) in CASES.items():
        if (options.only and name not in options.only) or (model == "stories" and not options.stories):
            continue
        file = options.events / f"{name}.json" if options.events else None
        if options.replay:
            assert file is not None, "--replay needs --events"
            if not file.is_file():
                continue
            stored = json.loads(file.read_text())
            events, planned = from_json(stored["events"]), stored["planned"]
        else:
            text = {"data.sources": options.stories[1]} if model == "stories" else {}
            events, planned = run(options.stories[0] if model == "stories" else model, settings | text)
        if file is not None and not options.replay:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"planned": planned, "events": to_json(events)}))
        known[name] = {"settings": settings} | judge(events, planned)
        shown = {key: value for key, value in known[name].items() if key not in ("curve", "settings")}
        print(name, json.dumps(shown), flush=True)
        machine = {
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }
        made = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine}
        options.out.write_text(json.dumps(made | {"cases": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
