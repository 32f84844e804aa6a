"""The report opened from its file in Chromium: drawn, quiet, and nothing of others is run."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import SyntheticRun

from secateur.report.page.document import write_page
from secateur.report.recorded import read_recorded

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
NAME = "<img src=x onerror=alert(1)>"
TEXT = "</script><script>alert(2)</script>"
PATIENCE = 120_000

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'secateur[browser]'")
    if not CHROMIUM.is_file():
        pytest.skip(f"there is no {CHROMIUM}; name a Chromium with the variable CHROMIUM")
    with playwright.sync_playwright() as started:
        flags = [*FLAGS.split(), "--disable-component-update", "--disable-sync"]
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose model, groups and texts carry scripts."""
    root = tmp_path_factory.mktemp("hostile")
    SyntheticRun(count=60, num_layers=12, num_rounds=3, model=NAME, groups=(NAME, TEXT), text=TEXT).finish(root)
    write_page(read_recorded(root), f"secateur prune {NAME}", f"name: {TEXT}", root / "report.html")
    return root / "report.html"


class Opened:
    """A page that has drawn its figures, and what it said and asked for on the way."""

    def __init__(self, browser: Any, path: Path, width: int, height: int, scheme: str = "light") -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.absolute().as_uri())
        self.page.wait_for_selector("html[data-drawn]", state="attached", timeout=PATIENCE)


@pytest.fixture(scope="module")
def opened(browser: Any, hostile: Path) -> Iterator[Opened]:
    page = Opened(browser, hostile, 1280, 900)
    yield page
    page.context.close()


def test_all_figures_are_drawn_from_the_file_alone(opened: Opened, hostile: Path) -> None:
    names = opened.page.eval_on_selector_all(".plot", "plots => plots.map(plot => plot.dataset.figure)")
    drawn = opened.page.eval_on_selector_all(".plot.drawn .main-svg", "all => all.length")
    assert len(names) >= 10
    assert drawn >= len(names)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith(("file:", "blob:"))] == []
    assert [url for url in opened.asked if url.startswith("file:")] == [hostile.absolute().as_uri()]


def test_bars_and_maps_are_bars_and_maps(opened: Opened) -> None:
    """The page starts only some kinds of trace; another would be drawn as dots."""
    assert opened.page.locator("#figure-importance .barlayer .point").count() == 24
    assert opened.page.locator("#figure-cuts .heatmaplayer .hm").count() == 2


def test_nothing_of_others_has_become_an_element(opened: Opened) -> None:
    assert opened.page.locator("body img").count() == 0
    assert opened.page.locator("script").count() == 3 + 1, "three of the page, and plotly"
    assert NAME in opened.page.locator("h1").inner_text()
    assert TEXT in opened.page.locator(".answer p").first.inner_text()
    assert NAME in opened.page.locator("#figure-groups").inner_text()


def test_hovering_shows_the_architecture_layer_by_layer(opened: Opened) -> None:
    place = opened.page.locator("#figure-trade-off .plot")
    place.scroll_into_view_if_needed()
    opened.page.locator("#figure-trade-off .scatterlayer .trace path.point").last.scroll_into_view_if_needed()
    marks = opened.page.locator("#figure-trade-off .scatterlayer .trace").nth(1).locator("path.point")
    box = marks.nth(12).bounding_box()
    opened.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    label = opened.page.locator("#figure-trade-off .hoverlayer .hovertext")
    label.first.wait_for(timeout=PATIENCE)
    lines = label.first.locator("tspan.line").all_text_contents()
    assert any("KL" in line for line in lines)
    assert len([line for line in lines if "/" in line and "█" in line]) == 12


def test_the_button_changes_the_theme_of_page_and_figures(opened: Opened) -> None:
    page = opened.page
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    page.wait_for_selector('html[data-drawn="dark"]', state="attached", timeout=PATIENCE)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    text = page.locator("#figure-ranks .xtick text").first
    assert text.evaluate("text => getComputedStyle(text).fill") == "rgb(232, 234, 237)"
    assert page.locator("#theme").inner_text() == "Light theme"


def test_a_phone_scrolls_down_only(browser: Any, hostile: Path) -> None:
    phone = Opened(browser, hostile, 390, 844, "dark")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.page.evaluate("document.documentElement.dataset.theme") == "dark"
    wide = phone.page.eval_on_selector_all(".plot", "plots => plots.filter(plot => plot.scrollWidth > 390).length")
    assert wide == 0
    assert phone.said == []
    phone.context.close()


def test_the_tables_have_the_numbers_without_javascript(browser: Any, hostile: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(hostile.absolute().as_uri())
    page.locator("#figure-perplexity summary").click()
    assert "6.400" in page.locator("#figure-perplexity table").inner_text()
    context.close()


def test_a_long_run_opens(browser: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SyntheticRun(count=500, num_layers=32).finish(tmp_path)
    write_page(read_recorded(tmp_path), "", "", tmp_path / "report.html")
    long = Opened(browser, tmp_path / "report.html", 1280, 900)
    taken = long.page.evaluate("JSON.stringify(performance.getEntriesByType('navigation')[0].loadEventEnd)")
    size = (tmp_path / "report.html").stat().st_size
    with capsys.disabled():
        print(f"\n500 measurements: {size:,} bytes, loaded in {json.loads(taken):.0f} ms")
    assert long.said == []
    long.context.close()
