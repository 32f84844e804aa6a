"""Draw the pictures of docs/how-it-works.md from the records of a run and of the benchmarks.

    python docs/make_pictures.py [--run runs/demo]

Writes docs/images/NAME.svg and NAME-dark.svg, of which a page shows the one that fits it.
Colours are Okabe and Ito's, and cividis where order is shown: both can be told apart with any colour vision.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from run_record import RunRecord

from secateur.model.shape import BlockKind, module_of
from secateur.runs.folder import RunFolder
from secateur.space.architecture import Architecture
from secateur.space.sampling import mutate, sample_architectures
from secateur.space.stems import stem_filling

ROOT = Path(__file__).parents[1]
IMAGES = Path(__file__).parent / "images"
RESULTS = ROOT / "benchmarks" / "results"
# Inches: on a phone, text of 10 points is to be read.
WIDTH = 6.2
# How many candidates the picture of shared beginnings has.
GROUP = 64


@dataclass(frozen=True)
class Theme:
    """Colours of the page that a picture lies on."""

    suffix: str
    text: str
    faint: str
    page: str
    series: tuple[str, str, str, str]
    order: Colormap
    share: Colormap


def part_of(name: str, low: float, high: float) -> Colormap:
    """Take the part of a colour map that stands out from the page."""
    colours = mpl.colormaps[name](np.linspace(low, high, 64))
    return LinearSegmentedColormap.from_list(f"{name} {low} {high}", list(map(tuple, colours)))


THEMES = (
    Theme(
        "",
        "#24292f",
        "#d0d4da",
        "#ffffff",
        ("#0072B2", "#D55E00", "#009E73", "#7a7f87"),
        part_of("cividis", 0.0, 0.9),
        LinearSegmentedColormap.from_list("kept", ["#f3d9c4", "#ffffff", "#9cc9e3", "#0072B2"]),
    ),
    Theme(
        "-dark",
        "#e4e6eb",
        "#4a5060",
        "#1e2129",
        ("#56B4E9", "#E69F00", "#2fc79a", "#9aa0ab"),
        part_of("cividis", 0.25, 1.0),
        LinearSegmentedColormap.from_list("kept", ["#6b3a10", "#1e2129", "#1c5273", "#56B4E9"]),
    ),
)


def prefixes(figure: Figure, theme: Theme, record: RunRecord) -> None:
    """One module's channels as they are stored, in the bank's order, and as three measured candidates keep them."""
    module, order = most_varied_module(record)
    layer, _ = module_of(module)
    num_groups = len(order)
    ranks = np.empty(num_groups)
    ranks[order] = np.arange(num_groups)
    widths = sorted({m.architecture.widths[module] for m in record.measured["slices"]} - {0, num_groups})
    chosen = [widths[len(widths) // 6], widths[len(widths) // 2], widths[-1]]
    rows = [
        ("dense model: as stored", ranks, num_groups),
        ("bank: most worth keeping first", np.arange(num_groups), num_groups),
    ]
    rows += [(f"a candidate keeps {width}", np.arange(num_groups), width) for width in chosen]
    axes = figure.subplots(len(rows), 1, sharex=True)
    for axis, (title, values, kept) in zip(axes, rows, strict=True):
        shown = np.where(np.arange(num_groups) < kept, values, np.nan)
        axis.imshow(shown[None], aspect="auto", cmap=theme.order, vmin=0, vmax=num_groups, interpolation="nearest")
        axis.add_patch(Rectangle((-0.5, -0.5), num_groups, 1, fill=False, edgecolor=theme.text, linewidth=0.8))
        axis.set_yticks([])
        axis.set_title(title, loc="left", fontsize=10)
        if kept < num_groups:
            error = record.bank.errors(module)[kept]
            axis.set_title(f"error left {error:.1e} nats per token", loc="right", fontsize=9, color=theme.text)
        for spine in axis.spines.values():
            spine.set_visible(False)
        axis.tick_params(length=0, labelbottom=False)
    axes[-1].set_xlabel(f"the {num_groups} FFN channels of layer {layer}; colour: place in the bank's order")


def most_varied_module(record: RunRecord) -> tuple[int, np.ndarray]:
    """Give the MLP of which measured candidates keep the most different widths, and its order."""
    mlps = [m for m in range(record.inputs.space.num_modules) if module_of(m)[1] is BlockKind.MLP]
    counts = {m: len({each.architecture.widths[m] for each in record.measured["slices"]}) for m in mlps}
    module = max(mlps, key=lambda each: counts[each])
    return module, np.asarray(record.bank.modules[module].order)


def errors(figure: Figure, theme: Theme, record: RunRecord) -> None:
    """The error that is left by width, a line per module."""
    panels = figure.subplots(1, 2, sharey=True)
    num_layers = record.inputs.space.shape.num_layers
    for axis, kind, name in zip(
        panels, BlockKind, ("attention: share of KV heads", "MLP: share of FFN channels"), strict=True
    ):
        for module in range(record.inputs.space.num_modules):
            layer, own = module_of(module)
            if own is kind:
                left = record.bank.errors(module)
                shares = np.array(sorted(left)) / max(left)
                values = np.array([left[width] for width in sorted(left)])
                axis.plot(
                    shares[:-1], values[:-1], color=theme.order(layer / (num_layers - 1)), marker="o", markersize=2.5
                )
        axis.set_yscale("log")
        axis.set_xlabel(f"{name} kept")
        axis.grid(color=theme.faint, linewidth=0.5)
    panels[0].set_ylabel("error left, nats per token")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, num_layers - 1), theme.order)
    bar = figure.colorbar(scale, ax=list(panels), ticks=[0, num_layers - 1], pad=0.02, aspect=30)
    bar.set_label("layer", labelpad=-4)
    bar.outline.set_visible(False)


def gap_at_half(record: RunRecord) -> float:
    """Give how many times the error of the MLP that loses least the other end has, with half of their channels."""
    num_modules, width = record.inputs.space.num_modules, record.inputs.space.shape.ffn_width // 2
    left = [record.bank.errors(m)[width] for m in range(num_modules) if module_of(m)[1] is BlockKind.MLP]
    return max(left) / min(left)


def sharing(figure: Figure, theme: Theme, record: RunRecord) -> None:
    """Distinct prefixes behind each module, for three kinds of groups."""
    axis = figure.subplots()
    space, budget = record.inputs.space, record.inputs.budget
    modules = np.arange(1, space.num_modules + 1)
    groups = {
        "drawn at random": [space.levels(each) for each in sample_architectures(space, budget, GROUP, 0)],
        "first sample, first thirds by twos": stem_filling(space, budget, GROUP, [], 0),
        "children of one parent": children(record, GROUP),
    }
    for (name, levels), colour, marker in zip(groups.items(), theme.series, "os^", strict=False):
        distinct = np.array([len({each[:end] for each in levels}) for end in modules])
        share = distinct.sum() / (len(levels) * space.num_modules)
        axis.plot(
            modules,
            distinct,
            color=colour,
            marker=marker,
            markersize=4,
            label=f"{name}: {share:.0%} of blocks run",
        )
    axis.axhline(GROUP, color=theme.series[3], linestyle="--", linewidth=1)
    axis.annotate(
        "each by itself",
        (modules[0], GROUP),
        xytext=(0, 4),
        textcoords="offset points",
        color=theme.series[3],
    )
    axis.set_xticks([1, *range(4, len(modules) + 1, 4)])
    axis.set_xlabel("module, from the embedding to the head")
    axis.set_ylabel(f"hidden states for {GROUP} candidates")
    axis.set_ylim(0, GROUP * 1.12)
    axis.grid(color=theme.faint, linewidth=0.5)
    axis.legend(loc="lower right", frameon=False)


def children(record: RunRecord, count: int) -> list[tuple[int, ...]]:
    """Give mutations of the run's result inside its budget."""
    space, budget = record.inputs.space, record.inputs.budget
    parent, rng, found = (
        space.levels(record.report.choice.architecture),
        np.random.default_rng(0),
        dict[tuple[int, ...], None](),
    )
    while len(found) < count:
        child = mutate(space, parent, budget, int(rng.integers(1, 4)), rng)
        if child is not None:
            found.setdefault(child)
    return list(found)


def predictor(figure: Figure, theme: Theme, record: RunRecord) -> None:
    """Predicted against measured, out of fold; and rank correlation by number of pairs."""
    left, right = figure.subplots(1, 2)
    for (kind, measured), colour, marker in zip(record.measured.items(), theme.series, "os", strict=False):
        predicted, kl, tau = record.out_of_fold(measured)
        label = f"{len(kl)} {kind}:\ntau {tau:.2f}"
        left.scatter(kl, predicted, s=18, color=colour, marker=marker, alpha=0.8, label=label, linewidths=0)
    ends = (min(left.get_xlim()[0], left.get_ylim()[0]), max(left.get_xlim()[1], left.get_ylim()[1]))
    ends = (max(ends[0], 0.004), ends[1])
    left.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        xlabel="measured KL, nats per token",
        ylabel="predicted without it",
    )
    left.plot(ends, ends, color=theme.series[3], linewidth=1, linestyle="--")
    left.legend(frameon=False, loc="upper left", fontsize=8.5, borderaxespad=0.1, handletextpad=0.2)
    left.set_title("demo, 0.75 kept", fontsize=10)
    tables = json.loads((RESULTS / "predictors.json").read_text())["stories260k-0.8"]["predictors"]
    for name, colour, marker in zip(("blend", "gaussian process", "trees", "ridge"), theme.series, "os^D", strict=True):
        tau_by_pairs = tables[f"{name}, nothing measured but the pairs"]["tau"]
        right.plot(
            list(map(int, tau_by_pairs)),
            list(tau_by_pairs.values()),
            color=colour,
            marker=marker,
            markersize=4,
            label=name,
        )
    right.set_xscale("log")
    right.set_xticks([25, 50, 100, 200], ["25", "50", "100", "200"])
    right.xaxis.set_minor_locator(NullLocator())
    right.set(xlabel="measured pairs", ylabel="Kendall tau, unseen", title="stories260K, 0.8 kept")
    right.title.set_fontsize(10)
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.grid(color=theme.faint, linewidth=0.5)


def regret(figure: Figure, theme: Theme, _record: RunRecord) -> None:
    """KL above the best that is known, a point per seed, a line at the mean."""
    rows: list[dict[str, Any]] = json.loads((RESULTS / "regret-stories260k.json").read_text())["rows"]
    panels = figure.subplots(1, 2, sharey=True)
    for axis, keep in zip(panels, sorted({row["keep"] for row in rows}, reverse=True), strict=True):
        own = [row for row in rows if row["keep"] == keep][::-1]
        for place, row in enumerate(own):
            values = np.array(row["kl"]) - row["best_known"]
            colour = theme.series[0] if row["search"].startswith("secateur") else theme.series[3]
            # Equal values beside each other, so that all can be seen.
            spread = place + np.linspace(-0.18, 0.18, len(values))[np.argsort(np.argsort(values, kind="stable"))]
            axis.scatter(values, spread, s=16, color=colour, linewidths=0)
            axis.plot([values.mean()] * 2, [place - 0.32, place + 0.32], color=theme.series[1], linewidth=2)
            axis.annotate(
                f"{values.mean():.4f}", (values.mean(), place + 0.34), ha="center", fontsize=8.5, color=theme.text
            )
        axis.set_yticks(
            range(len(own)),
            [f"{name},\n{count} measured" for name, count in (row["search"].split(", ") for row in own)],
        )
        axis.set_ylim(-0.5, len(own) - 0.3)
        axis.set_title(f"{keep} kept", fontsize=10)
        axis.set_xlabel("KL above the best known, nats")
        axis.grid(axis="x", color=theme.faint, linewidth=0.5)


def cut(figure: Figure, theme: Theme, record: RunRecord) -> None:
    """What the result keeps of every layer, and the error that the bank's refit left there."""
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1.6])
    architecture: Architecture = record.report.choice.architecture
    shape, errors_of = record.inputs.space.shape, record.bank.errors
    kept = np.array(architecture.widths).reshape(-1, 2).T
    dense = np.array([[shape.num_kv_heads], [shape.ffn_width]])
    above.imshow(kept / dense, aspect="auto", cmap=theme.share, vmin=0, vmax=1)
    for (row, layer), width in np.ndenumerate(kept):
        strong = width / dense[row, 0] > 0.75
        colour = theme.page if strong else theme.text
        above.text(layer, row, f"{width}", ha="center", va="center", color=colour, fontsize=9.5)
    above.set_yticks([0, 1], [f"KV heads\nof {shape.num_kv_heads}", f"FFN channels\nof {shape.ffn_width}"])
    above.tick_params(length=0)
    for spine in above.spines.values():
        spine.set_visible(False)
    layers = np.arange(shape.num_layers)
    for kind, (offset, name) in enumerate(((-0.2, "attention"), (0.2, "MLP"))):
        left = [errors_of(2 * layer + kind)[architecture.widths[2 * layer + kind]] for layer in layers]
        below.bar(layers + offset, left, 0.38, color=theme.series[kind], label=name)
    below.set_ylabel("error left by\nthe refit, nats")
    below.set_xlabel("layer")
    below.set_xticks(layers)
    below.grid(axis="y", color=theme.faint, linewidth=0.5)
    below.legend(frameon=False, ncols=2)


Draw = Callable[[Figure, Theme, RunRecord], None]
PICTURES: dict[str, tuple[Draw, float]] = {
    "prefixes": (prefixes, 3.6),
    "errors": (errors, 3.3),
    "sharing": (sharing, 3.4),
    "predictor": (predictor, 3.5),
    "regret": (regret, 2.9),
    "cut": (cut, 3.3),
}


def style(theme: Theme) -> dict[str, Any]:
    """Give matplotlib's settings for a page: text as text, nothing that changes from one drawing to the next."""
    lines = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), theme.text)
    return lines | {
        "axes.edgecolor": theme.text,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 10,
        "svg.fonttype": "none",
        "svg.hashsalt": "secateur",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo", help="folder of a finished run")
    record = RunRecord(RunFolder(parser.parse_args().run))
    IMAGES.mkdir(exist_ok=True)
    for name, (draw, height) in PICTURES.items():
        for theme in THEMES:
            with mpl.rc_context(style(theme)):
                figure = Figure(figsize=(WIDTH, height), layout="constrained")
                draw(figure, theme, record)
                figure.savefig(IMAGES / f"{name}{theme.suffix}.svg", metadata={"Date": None}, transparent=True)
        print(f"docs/images/{name}.svg, {name}-dark.svg")
    print(f"with half of its channels one MLP has {gap_at_half(record):.0f} times the error of another")


if __name__ == "__main__":
    main()
