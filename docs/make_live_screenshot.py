"""Make the pictures of the live view: a real run in tmux, its screen captured with colours, rendered by Chromium.

    python docs/make_live_screenshot.py [--width 140] [--out docs/images/live-view] [--at 38] -- MODEL [prune's options]

Needs tmux and Chromium, and takes as long as the run takes to get to `--at` measured candidates.
"""

import argparse
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.text import Text

SESSION = "secateur-live-view"
DEMO = [
    "demo",
    "--set=data.calibration_tokens=32768",
    "--set=search.measurements=60",
    "--set=search.rounds=5",
    "--set=search.reconstructed_tokens=4096",
    "--set=search.finalists=2",
]


def capture(arguments: list[str], width: int, height: int, at: int, patience: float) -> str:
    """Run `secateur prune` in a terminal of that size, and give its screen once so many candidates are measured."""
    folder = tempfile.mkdtemp()
    command = shlex.join([sys.executable, "-m", "secateur", "prune", *arguments, "--out", f"{folder}/run"])
    tmux = ["tmux", "-L", SESSION]
    # Without the options that only make it short, and without anybody's folders.
    shown = "".join(f" --keep {after}" for before, after in pairwise(arguments) if before == "--keep")
    size = ["-x", str(width), "-y", str(height)]
    typed = f"$ secateur prune {Path(arguments[0]).name}{shown}"
    shell = f"cd {shlex.quote(folder)}; clear; echo {shlex.quote(typed)}; {command}; sleep 60"
    subprocess.run([*tmux, "new-session", "-d", "-s", SESSION, *size, shell], check=True)
    try:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            time.sleep(0.5)
            plain = subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout
            seen = re.search(r"candidate (\d+) of \d+", plain)
            if seen and int(seen[1]) >= at and "predictor" in plain:
                screen = subprocess.run([*tmux, "capture-pane", "-e", "-p"], capture_output=True, text=True, check=True)
                return screen.stdout.rstrip()
        raise SystemExit(f"candidate {at} was not reached within {patience:.0f} s:\n{plain}")
    finally:
        subprocess.run([*tmux, "kill-session", "-t", SESSION], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def render(screen: str, width: int, out: Path) -> None:
    """Write a screen as OUT.svg and OUT.png."""
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    for line in screen.split("\n"):
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop", crop=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title="secateur", unique_id="live-view")
    # The picture is to look the same without the network: the font that rich would fetch is left to the system.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")
    out.with_suffix(".svg").write_text(svg)
    sizes = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert sizes is not None, "rich writes a view box"
    window = f"{round(float(sizes[1]))},{round(float(sizes[2]))}"
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    page = out.with_suffix(".html")
    page.write_text(f"<!doctype html><meta charset=utf-8><style>body{{margin:0}}svg{{display:block}}</style>{svg}")
    flags = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={window}"]
    picture = f"--screenshot={out.with_suffix('.png').absolute()}"
    subprocess.run([browser, *flags, picture, page.absolute().as_uri()], check=True, capture_output=True)
    page.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=110)
    parser.add_argument("--height", type=int, default=12)
    parser.add_argument("--at", type=int, default=38, help="measured candidates at which the picture is taken")
    parser.add_argument("--patience", type=float, default=1800.0, help="seconds")
    parser.add_argument("--out", type=Path, default=Path("docs/images/live-view"))
    parser.add_argument("prune", nargs="*", default=DEMO, help="arguments of `secateur prune`; the demo if not given")
    options = parser.parse_args()
    screen = capture(options.prune or DEMO, options.width, options.height, options.at, options.patience)
    render(screen, options.width, options.out)
    print(f"{options.out}.png, {options.out}.svg")


if __name__ == "__main__":
    main()
