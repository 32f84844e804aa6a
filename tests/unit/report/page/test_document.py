import json
import re
from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs
from synthetic_run import SyntheticRun

from secateur.report.page.document import page_html
from secateur.report.page.plotly_source import KINDS, quick
from secateur.report.page.sections import NAMES
from secateur.report.recorded import read_recorded

NAME = "<img src=x onerror=alert(1)>"
TEXT = "</script><script>alert(2)</script><!-- \u2028"


class Elements(HTMLParser):
    """Counts elements, and keeps the text of scripts."""

    def __init__(self):
        super().__init__()
        self.count, self.scripts, self.ids = {}, [], []

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        self.ids += [value for name, value in attrs if name == "id"]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.scripts and self.get_starttag_text().startswith("<script"):
            self.scripts[-1] += data


def read(html):
    elements = Elements()
    elements.feed(html)
    return elements


def page(root):
    return page_html(read_recorded(root), "secateur prune", "seed: 0\n")


def test_names_and_texts_of_others_stay_text(tmp_path):
    SyntheticRun(count=30, num_layers=2, num_rounds=2, model=NAME, groups=(NAME, TEXT), text=TEXT).finish(tmp_path)
    html = page(tmp_path)
    elements = read(html)
    assert elements.count["script"] == 3
    assert "img" not in elements.count
    assert "alert(2)" in html, "the text is there"
    figures = json.loads(elements.scripts[0])["figures"]
    assert "<img" not in json.dumps(figures)


def test_every_part_is_there_once_and_fetches_nothing(tmp_path):
    SyntheticRun(count=30, num_layers=2, num_rounds=2).finish(tmp_path)
    html = page(tmp_path)
    elements = read(html)
    assert len(elements.ids) == len(set(elements.ids))
    assert set(NAMES) <= set(elements.ids)
    assert not re.search(r'(src|href)="(?!#)', html)
    assert elements.count["h1"] == elements.count["main"] == elements.count["nav"] == 1
    assert elements.count["figure"] == len(json.loads(elements.scripts[0])["figures"])


def test_an_unfinished_run_says_so_and_shows_what_there_is(tmp_path):
    SyntheticRun(count=30, num_layers=2, num_rounds=2).begin(tmp_path)
    html = page(tmp_path)
    assert "secateur resume" in html
    names = set(json.loads(read(html).scripts[0])["figures"])
    assert {"trade-off", "cuts", "predicted", "ranks", "progress"} == names
    assert html.count('class="none"') == 4, "why, quality, speed and samples say in a line that there is nothing yet"


@pytest.mark.slow
def test_the_report_of_a_long_run_is_small(tmp_path):
    SyntheticRun(count=500, num_layers=32).finish(tmp_path)
    assert len(page(tmp_path).encode()) < 5_000_000


def test_plotly_starts_only_the_kinds_that_are_drawn():
    script = get_plotlyjs()
    short = quick(script)
    assert len(re.search(r"\.register\(\[([^\]]*)\]\)", short)[1].split(",")) == len(KINDS)
    assert quick("anything else") == "anything else"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_has_diverged_has_a_report(tmp_path, value):
    run = SyntheticRun(count=30, num_layers=2, num_rounds=2)
    run.finish(tmp_path)
    recorded = read_recorded(tmp_path)
    rows = tuple(row.model_copy(update={"kl": value}) for row in recorded.rows)
    object.__setattr__(recorded, "rows", rows)
    assert "trade-off" in page_html(recorded, "", "")
