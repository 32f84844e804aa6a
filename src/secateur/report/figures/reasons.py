"""Why: what each module adds to the prediction, over the measured architectures and for the chosen one."""

from collections.abc import Sequence

from secateur.report.figures.picture import BLUE, ORANGE, NumberTable, Picture, Trace, axis, hovered, layout, short
from secateur.report.recorded import Recorded

PATTERNS = {"attention": "", "MLP": "/"}
# Layers up to which each has its number on the axis.
EVERY_LAYER = 16
COLOURS = {"attention": BLUE, "MLP": ORANGE}


def importance(run: Recorded) -> Picture | None:
    """Draw how much hangs on every module: mean absolute Shapley values, or the gain of the paper's trees."""
    if run.explanation is not None:
        values, unit = run.explanation.mean_absolute, "mean |contribution|, log units"
        about = (
            f"Mean absolute Shapley value of each block over {run.explanation.num_explained} measured architectures: "
            f"how far its width moves the prediction of {run.explanation.quantity.split(',')[0]}. In logarithmic "
            "units 0.1 is about 10 %."
        )
    elif run.report is not None and run.report.paper is not None:
        values, unit = run.report.paper.importance, "share of the trees' gain"
        about = (
            "The paper's trees, which have no Shapley values here: the share of all gain that each block's ratio "
            "brought."
        )
    else:
        return None
    top = _name(max(range(len(values)), key=lambda module: values[module]))
    half = _count_of_half(values)
    return Picture(
        name="importance",
        title=f"Most hangs on the {top}; {half} of {len(values)} blocks make half of all differences",
        about=about,
        traces=_bars(values),
        layout=_layout(unit, len(values) // 2),
        table=_table(values, unit),
        height=360,
    )


def contributions(run: Recorded) -> Picture | None:
    """Draw what the chosen widths add to the prediction, one by one."""
    explanation = run.explanation
    if explanation is None:
        return None
    values = explanation.chosen
    helps = min(range(len(values)), key=lambda module: values[module])
    unit = "contribution, log units"
    return Picture(
        name="contributions",
        title=f"Beside the others measured, the chosen architecture gains most by what it does to the {_name(helps)}",
        about=f"Shapley values of the chosen widths: together they turn {short(explanation.base)}, the geometric "
        f"mean of what is predicted of the measured architectures, into the {short(explanation.predicted)} "
        "predicted of this one. Below zero lowers the loss.",
        traces=_bars(values),
        layout=_layout(unit, len(values) // 2),
        table=_table(values, unit),
        height=360,
    )


def _bars(values: Sequence[float]) -> tuple[Trace, ...]:
    return tuple(
        {
            "type": "bar",
            "name": block,
            "x": list(range(len(values) // 2)),
            "y": list(values[kind::2]),
            "text": [hovered([f"layer {layer} {block}: {value:+.4f}"]) for layer, value in enumerate(values[kind::2])],
            "textposition": "none",
            "marker": {
                "color": COLOURS[block],
                "pattern": {
                    "shape": PATTERNS[block],
                    "fgcolor": "theme:card",
                    "fillmode": "overlay",
                    "size": 6,
                    "solidity": 0.2,
                },
            },
        }
        for kind, block in enumerate(("attention", "MLP"))
    )


def _layout(unit: str, num_layers: int) -> dict[str, object]:
    return layout(
        axis("layer", showgrid=False, zeroline=False, dtick=1 if num_layers <= EVERY_LAYER else 4),
        axis(unit),
        barmode="group",
        bargap=0.25,
        bargroupgap=0.05,
    )


def _table(values: Sequence[float], unit: str) -> NumberTable:
    rows = tuple((_name(module), f"{value:+.4f}") for module, value in enumerate(values))
    return NumberTable(("block", unit), rows)


def _name(module: int) -> str:
    return f"{'attention' if module % 2 == 0 else 'MLP'} of layer {module // 2}"


def _count_of_half(values: Sequence[float]) -> int:
    total, sum_so_far = sum(map(abs, values)), 0.0
    for count, value in enumerate(sorted(map(abs, values), reverse=True), start=1):
        sum_so_far += value
        if sum_so_far >= total / 2:
            return count
    return len(values)
