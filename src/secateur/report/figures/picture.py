"""What a picture of the report is: a plotly figure without colours of its own, and the same numbers as a table.

Colours are words, `theme:blue`; the page puts in those of the light or the dark theme.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from secateur.report.escaping import in_label
from secateur.space.architecture import Architecture

Trace = dict[str, Any]
# Decades up to which a logarithmic axis has ticks at 2 and 5 too.
DECADES_WITH_STEPS = 3.2

# Names of Okabe and Ito's colours, told apart with any colour vision; markers tell the same again.
BLUE, ORANGE, GREEN, VERMILLION = "theme:blue", "theme:orange", "theme:green", "theme:vermillion"
PURPLE, SKY, GREY, INK = "theme:purple", "theme:sky", "theme:grey", "theme:ink"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION, SKY, GREY)
SYMBOLS = ("circle", "square", "triangle-up", "x", "star-triangle-down", "pentagon", "cross")
# Of the models of a run.
COLOURS = {"dense": INK, "uniform": ORANGE, "uniform-wide": VERMILLION, "secateur": BLUE, "recovered": GREEN}
MARKERS = {
    "dense": "star",
    "uniform": "square",
    "uniform-wide": "triangle-up",
    "secateur": "diamond",
    "recovered": "hexagon",
}
TITLES = {
    "dense": "dense",
    "uniform": "uniform",
    "uniform-wide": "uniform, wide",
    "secateur": "pruned",
    "recovered": "recovered",
}


@dataclass(frozen=True)
class NumberTable:
    """The numbers of a picture, for those who cannot see it."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: Of its element in the page.
        title: What it shows, as a sentence: the finding.
        about: How to read it.
        wide: Takes the whole width of the page.
    """

    name: str
    title: str
    about: str
    traces: tuple[Trace, ...]
    layout: Mapping[str, Any]
    table: NumberTable
    height: int = 400
    wide: bool = False

    @property
    def figure(self) -> dict[str, Any]:
        """Give what plotly draws."""
        return {"data": list(self.traces), "layout": {**self.layout, "height": self.height}}


@dataclass
class Architectures:
    """Architectures of a page's figures, each written once; a trace refers to them by number (`customdata`)."""

    widths: list[tuple[int, ...]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, architecture: Architecture) -> int:
        if architecture.key not in self._numbers:
            self._numbers[architecture.key] = len(self.widths)
            self.widths.append(architecture.widths)
        return self._numbers[architecture.key]


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """Make an axis with its unit in the title."""
    return {
        "title": {"text": in_label(title), "standoff": 8},
        "gridcolor": "theme:grid",
        "zerolinecolor": "theme:line",
        "linecolor": "theme:line",
        "tickcolor": "theme:line",
        "automargin": True,
        **settings,
    }


def log_axis(title: str, values: Iterable[float | None], **settings: Any) -> dict[str, Any]:
    """Make a logarithmic axis around values, with ticks that are written out: 0.005, 0.01, 0.02, ..."""
    positive = [value for value in values if value is not None and 0 < value < math.inf] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    room = max(0.06 * (high - low), 0.04)
    steps = (1, 2, 5) if high - low < DECADES_WITH_STEPS else (1,)
    ticks = [step * 10.0**power for power in range(math.floor(low) - 1, math.ceil(high) + 2) for step in steps]
    return axis(
        title,
        type="log",
        range=[low - room, high + room],
        tickvals=ticks,
        ticktext=[f"{tick:.10f}".rstrip("0").rstrip(".") if tick < 1e4 else f"{tick:.0e}" for tick in ticks],
        **settings,
    )


def layout(xaxis: Mapping[str, Any], yaxis: Mapping[str, Any], **settings: Any) -> dict[str, Any]:
    """Make the layout that all figures share."""
    return {
        "xaxis": dict(xaxis),
        "yaxis": dict(yaxis),
        "font": {"family": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif", "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        # The legend makes its own room above.
        "margin": {"l": 56, "r": 16, "t": 14, "b": 48},
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": "theme:card",
            "bordercolor": "theme:line",
            "font": {"family": "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace", "size": 12, "color": INK},
            "align": "left",
            "namelength": -1,
        },
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        **settings,
    }


def marker(color: str, symbol: str = "circle", size: int = 8, **settings: Any) -> dict[str, Any]:
    return {"color": color, "symbol": symbol, "size": size, **settings}


def hovered(lines: Sequence[str]) -> str:
    """Put lines into a hover label; they are plain text."""
    return "<br>".join(in_label(line) for line in lines if line)


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def short(value: float) -> str:
    """Write a loss or a divergence with four digits that count, never as a power of ten where it need not be."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"
