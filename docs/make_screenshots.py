"""Photograph the report of a run: docs/images/report-light.png, report-dark.png and report-phone.png.

    python docs/make_screenshots.py RUN_FOLDER

Light shows the top of the page, dark what was cut and what the predictor knows; the phone is one of 390 x 844 points.
"""

import argparse
import io
import os
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from secateur.assignments import written_command
from secateur.config import build_config, read_yaml, to_yaml, without_folders
from secateur.report.page.document import write_page
from secateur.report.recorded import read_recorded

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
IMAGES = Path(__file__).parent / "images"
# Name, page width and height, and the parts to show below the opening.
SHOTS: tuple[tuple[str, int, int, str, float], ...] = (
    ("report-light", 1280, 1580, "light", 1.0),
    ("report-dark", 1280, 1580, "dark", 1.0),
    ("report-phone", 390, 844, "dark", 2.0),
)


def photograph(
    browser: Browser, page_path: Path, name: str, width: int, height: int, scheme: Any, scale: float
) -> None:
    """Open the page as somebody with that screen and theme does, and keep what is seen."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=scale
    )
    page = context.new_page()
    page.goto(page_path.absolute().as_uri())
    page.wait_for_selector("html[data-drawn]", state="attached", timeout=120_000)
    if name != "report-light":
        # Something else than in the light picture: what was cut, and what the predictor knows.
        first = "cuts" if name == "report-dark" else "trade-off"
        page.evaluate(f"document.documentElement.style.scrollBehavior = 'auto'; location.hash = '{first}'")
        page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    path = IMAGES / f"{name}.png"
    picture.save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    folder = parser.parse_args().run
    IMAGES.mkdir(exist_ok=True)
    config = without_folders(build_config([read_yaml(folder / "config.yaml")]))
    run = read_recorded(folder)
    write_page(run, written_command(config, run.name), to_yaml(config), folder / "report.html")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for shot in SHOTS:
            photograph(browser, folder / "report.html", *shot)
        browser.close()


if __name__ == "__main__":
    main()
