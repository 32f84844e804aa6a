"""How large is the report of a long run, and how soon are its figures there?

    python benchmarks/report_size.py [--measurements 500] [--layers 32] [--out benchmarks/results/report-size.json]

The run is invented, its records are the real ones (`synthetic_run.py`). Time is from opening the file in headless
Chromium to the last figure drawn: a browser is started once, a new page is opened each time, the median counts.
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import sync_playwright
from synthetic_run import SyntheticRun

from secateur.assignments import written_command
from secateur.config import to_yaml
from secateur.report.page.document import write_page
from secateur.report.recorded import read_recorded

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
# As a reader's browser, but for what a container does not allow and what asks the network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
MOST_BYTES, MOST_SECONDS = 5_000_000, 2.0


def write_report(measurements: int, layers: int, path: Path) -> float:
    """Write the report of an invented run; give the seconds that this takes, records read."""
    with tempfile.TemporaryDirectory() as name:
        run = SyntheticRun(measurements, layers)
        run.finish(Path(name))
        start = time.perf_counter()
        config = run.config()
        write_page(read_recorded(Path(name)), written_command(config, "run"), to_yaml(config), path)
        return time.perf_counter() - start


def opening_seconds(path: Path, repeats: int) -> list[tuple[float, float, float]]:
    """Open the page again and again, each time in a new page of one browser, after once to warm up.

    Returns:
        Seconds to the first figure and to all of them, and of the processor in the page's own thread, which others that
        are at work on the machine lengthen less.
    """
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for _ in range(repeats + 1):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            page = context.new_page()
            session = context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            start = time.perf_counter()
            page.goto(path.absolute().as_uri())
            page.wait_for_selector("html[data-first]", state="attached", timeout=120_000)
            first = time.perf_counter() - start
            page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
            metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
            found.append((first, time.perf_counter() - start, metrics["TaskDuration"]))
            context.close()
        browser.close()
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measurements", type=int, default=500)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/report-size.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "report.html"
        written = write_report(arguments.measurements, arguments.layers, path)
        page = path.read_bytes()
        load = os.getloadavg()[0]
        first, all_drawn, processor = zip(*opening_seconds(path, arguments.repeats), strict=True)
    result = {
        "measurements": arguments.measurements,
        "layers": arguments.layers,
        "bytes": len(page),
        "bytes_gzipped": len(gzip.compress(page)),
        "seconds_to_write": round(written, 2),
        "seconds_to_figures_drawn": [round(each, 2) for each in all_drawn],
        "median_seconds": round(statistics.median(all_drawn), 2),
        "median_seconds_to_first_figure": round(statistics.median(first), 2),
        "median_processor_seconds": round(statistics.median(processor), 2),
        "within": len(page) < MOST_BYTES and statistics.median(all_drawn) < MOST_SECONDS,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(load, 1)},
        "plotly": version("plotly"),
        "made_at": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    print(json.dumps(result, indent=2))
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
