"""The comparison's picture, drawn from one that is kept in the repository."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secateur.report.comparison import Comparison
from secateur.report.comparison_plot import draw_comparison

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


@pytest.fixture(params=["demo", "stories260k"])
def panels(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_args, **_settings: figures.append(figure))
    text = (RESULTS / f"compare-{request.param}.json").read_text()
    draw_comparison(Comparison.model_validate_json(text), tmp_path / "picture.png")
    return {axes.get_title(): axes for axes in figures[0].axes}


def test_where_every_search_ends_is_in_sight(panels: dict[str, Axes]) -> None:
    axes = next(axes for title, axes in panels.items() if title.startswith("what measuring buys"))
    low, high = axes.get_ylim()
    ends = {str(line.get_label()): float(np.asarray(line.get_ydata())[-1]) for line in axes.lines}
    assert {"random search", "EvoPress", "Puzzle", "Ji et al. 2023", "Secateur"} == ends.keys()
    assert all(low < end < high for end in ends.values()), ends


def test_orders_alone_are_drawn_without_a_complaint(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """They search nothing and have no line against the budget, so two panels stay empty."""
    comparison = Comparison.model_validate_json((RESULTS / "compare-demo.json").read_text())
    draw_comparison(comparison.model_copy(update={"methods": ("l1",)}), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0
    assert [str(warning.message) for warning in recwarn] == []
