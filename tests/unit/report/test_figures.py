"""Figures hold the numbers of the records, and plotly knows every word of them."""

import pytest
from plotly.graph_objects import Figure
from synthetic_run import GROUPS, SyntheticRun

from secateur.report.figures.cuts import cuts
from secateur.report.figures.picture import Architectures, log_axis
from secateur.report.figures.predictions import predicted_against_measured, ranks
from secateur.report.figures.progress import progress
from secateur.report.figures.quality import groups, perplexity
from secateur.report.figures.reasons import contributions, importance
from secateur.report.figures.speed import speed
from secateur.report.figures.themes import THEMES
from secateur.report.figures.trade_off import trade_off
from secateur.report.page.sections import Sections
from secateur.report.recorded import read_recorded


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    SyntheticRun(count=60, num_layers=4, num_rounds=3, groups=GROUPS).finish(root)
    return read_recorded(root)


def trace(picture, name):
    return next(each for each in picture.traces if each.get("name") == name)


def test_the_trade_off_has_a_dot_per_candidate_and_the_chosen_one_ringed(run):
    known = Architectures()
    picture = trade_off(run, known)
    dots = trace(picture, "measured candidates")
    assert len(dots["x"]) == 30
    assert known.widths[dots["customdata"][5]] == run.compared[5].architecture.widths
    assert dots["y"][5] == run.compared[5].kl
    [ring] = trace(picture, "chosen, as the search measured it")["y"]
    assert ring == run.best.kl
    front = trace(picture, "Pareto front")
    assert sorted(front["y"], reverse=True) == front["y"]
    assert min(front["y"]) == run.best.kl


def test_cuts_are_shares_of_the_dense_widths_and_the_banks_errors(run):
    kept, errors = cuts(run).traces
    widths = run.chosen.widths
    assert kept["z"][1] == [100 * width / 11_008 for width in widths[1::2]]
    assert errors["z"][0] == pytest.approx([1 - heads / 8 for heads in widths[::2]]), "1e-3 nats each, in thousandths"


def test_predictions_are_counted_as_they_held(run):
    """Every tenth measurement is foretold too high by 60 %, the others within their interval."""
    told = [each for record in run.rounds for each in record.foretold]
    held = sum(each.low <= each.measured <= each.high for each in told)
    assert held == len(told) - sum(place % 10 == 0 for place in range(15, 60))
    picture = predicted_against_measured(run, Architectures())
    assert picture.title.startswith(f"{held} of {len(told)} ")
    assert len(trace(picture, "out of fold, after reconstruction")["x"]) == 30


def test_ranks_stand_beside_what_needs_no_predictor(run):
    picture = ranks(run)
    assert trace(picture, "predictor, out of fold")["y"] == [0.7] * 3
    assert trace(picture, "reconstruction error alone")["y"] == [0.4] * 3
    assert trace(picture, "parameter count alone")["y"] == [0.1] * 3


def test_reasons_are_per_block(run):
    assert trace(importance(run), "attention")["y"] == list(run.explanation.mean_absolute[::2])
    assert trace(contributions(run), "MLP")["y"] == list(run.explanation.chosen[1::2])


def test_the_best_so_far_never_rises_and_ends_at_the_best(run):
    picture = progress(run, Architectures())
    line = trace(picture, "best so far")
    assert sorted(line["y"], reverse=True) == line["y"]
    assert line["y"][-1] == run.best.kl
    assert line["x"][0] == 31, "before it, measurements were of another kind"
    assert len(picture.table.rows) == 60


def test_quality_has_intervals_and_groups(run):
    result = trace(perplexity(run), "pruned")
    assert result["x"][0] - result["error_x"]["arrayminus"][0] == pytest.approx(0.98 * 6.4)
    assert trace(groups(run), "pruned")["x"] == pytest.approx([6.4 / 6.0] * 2)


def test_speed_is_a_share_of_the_dense_models(run):
    assert trace(speed(run), "pruned")["x"] == pytest.approx([80, 80, 80, 80])


def test_plotly_knows_every_word(run):
    sections = Sections(run, "command", "config")
    sections.html()
    assert {picture.name for picture in sections.pictures} >= {"trade-off", "cuts", "predicted", "progress", "speed"}
    for picture in sections.pictures:
        Figure(coloured(picture.figure, "figure"))


def coloured(value, key):
    """As the page does it."""
    if isinstance(value, dict):
        return {name: coloured(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [coloured(each, key) for each in value]
    if isinstance(value, str) and value.startswith("theme:"):
        assert key.endswith(("color", "colorscale")), f"the page puts no colour at {key}"
        return THEMES["dark"][value.removeprefix("theme:")]
    return value


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stand_out_from_the_card(theme):
    colours = THEMES[theme]
    pale = [
        name
        for name in ("ink", "blue", "orange", "green", "vermillion", "purple", "sky", "grey")
        if contrast(colours[name], colours["card"]) < 3
    ]
    assert pale == []


def contrast(one, other):
    """WCAG 2.2, relative luminance."""

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_ticks_of_logarithmic_axes_are_written_out():
    axis = log_axis("KL", [0.004, 0.3])
    assert {"0.005", "0.1", "0.2"} <= set(axis["ticktext"])
