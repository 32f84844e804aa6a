"""The comparison as a picture: methods side by side, what measuring buys, and how quality falls with the budget."""

import statistics
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from secateur.presets import PRESETS
from secateur.report.comparison import VARIANTS, Comparison, values_of

# Okabe and Ito's palette, told apart by readers with any colour vision; markers tell the same again.
COLOURS = {"published": "#D55E00", "none": "#56B4E9", "default": "#0072B2"}
MARKERS = {"published": "s", "none": "^", "default": "o"}
LINES = ("#000000", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
OWN = "#0072B2"
COLUMNS = 2
# The budget that published results have in common, for the panel that has room for one.
USUAL_KEEP = 0.8


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write the picture; the format is that of the path's ending."""
    keeps = comparison.keeps
    columns = min(len(keeps), COLUMNS)
    rows = -(-len(keeps) // columns)
    figure = Figure(figsize=(13.0, 6.0 * rows + 4.5), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=[6 * rows, 4.5], squeeze=False)
    above, below = parts[0, 0], parts[1, 0]
    panels = above.subplots(rows, columns, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        if number < len(keeps):
            _methods(axes, comparison, keeps[number], names=number % columns == 0, legend=number == 0)
        else:
            axes.set_visible(False)
    left, right = below.subplots(1, 2)
    _measurements(left, comparison, min(keeps, key=lambda keep: abs(keep - USUAL_KEEP)))
    _budgets(right, comparison)
    count = len(comparison.seeds)
    seeds = "1 seed" if count == 1 else f"median and range of {count} seeds"
    above.suptitle(f"{comparison.model}: perplexity on the evaluation set, {seeds}")
    with mpl.rc_context({"svg.hashsalt": "secateur"}):
        figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)


def _methods(axes: Axes, comparison: Comparison, keep: float, names: bool, legend: bool) -> None:
    shown = [preset for preset in comparison.methods if any(comparison.of(preset, v, keep) for v in VARIANTS)]
    for position, preset in enumerate(shown[::-1]):
        for variant in VARIANTS:
            values = values_of(comparison.of(preset, variant, keep))
            if values:
                middle = statistics.median(values)
                spread = [[middle - min(values)], [max(values) - middle]]
                axes.errorbar(
                    middle, position, xerr=spread, fmt=MARKERS[variant], color=COLOURS[variant], capsize=3, ms=6
                )
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_yticks(
        range(len(shown)), [PRESETS[preset].title for preset in shown[::-1]] if names else [""] * len(shown)
    )
    axes.axvline(comparison.dense["evaluation"].value, color="grey", lw=1, ls=":")
    axes.grid(axis="x", which="both", alpha=0.25)
    axes.set_title(f"{keep:g} kept")
    axes.set_xlabel("perplexity (dotted: dense)")
    if legend:
        for variant, title in VARIANTS.items():
            axes.plot([], [], MARKERS[variant], color=COLOURS[variant], label=title)
        axes.legend(fontsize=8, loc="lower right")


def _measurements(axes: Axes, comparison: Comparison, keep: float) -> None:
    """Without reconstruction, where all methods measure the same quantity: the KL of what they would ship."""
    colours = iter(LINES)
    for preset in comparison.methods:
        curves = [cell.best_so_far for cell in comparison.of(preset, "none", keep) if len(cell.best_so_far) > 1]
        if not curves:
            continue
        cells = comparison.of(preset, "none", keep)
        skipped = max((cell.num_measurements or 0) - len(cell.best_so_far) for cell in cells)
        length = min(map(len, curves))
        stacked = np.array([curve[:length] for curve in curves])
        count = np.arange(1, length + 1) + skipped
        colour = OWN if preset == "secateur" else next(colours)
        axes.plot(
            count,
            np.median(stacked, 0),
            color=colour,
            lw=2 if preset == "secateur" else 1.3,
            label=PRESETS[preset].title,
        )
        axes.fill_between(count, stacked.min(0), stacked.max(0), color=colour, alpha=0.12, lw=0)
    axes.set_xlabel("architectures measured")
    axes.set_ylabel("lowest selection KL, nats per token")
    axes.set_title(f"what measuring buys, same order, no reconstruction, {keep:g} kept", fontsize=10)
    axes.grid(alpha=0.25)
    if axes.lines:
        # Where every method ends is what readers look for; where it began may be far off.
        ends = [float(np.asarray(line.get_ydata())[-1]) for line in axes.lines]
        axes.set_ylim(min(ends) * 0.93, max(ends) * 1.3)
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
        axes.legend(fontsize=8)


def _budgets(axes: Axes, comparison: Comparison) -> None:
    keeps = sorted(comparison.keeps)
    colours = iter(LINES * 4)
    for preset in comparison.methods:
        by_keep = [comparison.of(preset, "published", keep) for keep in keeps]
        points = [
            (keep, statistics.median(values))
            for keep, cells in zip(keeps, by_keep, strict=True)
            if (values := values_of(cells))
        ]
        if not points or (PRESETS[preset].decides == "order" and preset != "llm-pruner"):
            continue
        own = preset == "secateur"
        axes.plot(
            *zip(*points, strict=True),
            "o-",
            color=OWN if own else next(colours),
            lw=2.5 if own else 1.2,
            ms=4,
            label=PRESETS[preset].title,
        )
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.axhline(comparison.dense["evaluation"].value, color="grey", lw=1, ls=":")
    axes.set_xlabel("share of decoder parameters kept")
    axes.set_ylabel("perplexity")
    axes.set_title("quality against budget, as published", fontsize=10)
    axes.grid(which="both", alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)


def _plain_ticks(axis: Axis) -> None:
    """Number a logarithmic axis 1, 2, 3, 5, 7, 10, 20, ..."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")
    axis.set_tick_params(labelsize=8)
