"""Quality before and after: perplexity and KL of every model of the final table, and of every group of text."""

from secateur.report.figures.picture import (
    COLOURS,
    GREEN,
    MARKERS,
    SERIES,
    SYMBOLS,
    TITLES,
    NumberTable,
    Picture,
    Trace,
    axis,
    hovered,
    layout,
    marker,
    short,
)
from secateur.report.record import ModelRow
from secateur.report.recorded import Recorded


def perplexity(run: Recorded) -> Picture | None:
    """Draw perplexity with its interval; None before the evaluation."""
    if not run.rows:
        return None
    protocol = run.rows[0].perplexity
    traces: list[Trace] = []
    for row in run.rows:
        said = row.perplexity
        lines = [_title(row), f"perplexity {said.value:.3f}, {said.low:.3f} to {said.high:.3f}"]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": hovered([_title(row)]),
                "showlegend": False,
                "x": [said.value],
                "y": [hovered([_title(row)])],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [said.high - said.value],
                    "arrayminus": [said.value - said.low],
                    "color": COLOURS.get(row.name, GREEN),
                    "thickness": 2,
                    "width": 6,
                },
                "text": [hovered(lines)],
                "marker": marker(COLOURS.get(row.name, GREEN), MARKERS.get(row.name, "circle"), 11),
            }
        )
    return Picture(
        name="perplexity",
        title=_finding(run),
        about=f"Perplexity on {protocol.num_windows} evaluation windows that chose nothing (protocol "
        f"{protocol.protocol}); bars are {100 * protocol.confidence:.0f} % bootstrap intervals over windows. "
        "Models share the windows, so a difference is surer than its bars.",
        traces=tuple(traces),
        layout=layout(axis("perplexity, lower is better", zeroline=False), _names()),
        table=NumberTable(
            (
                "model",
                "perplexity",
                f"{100 * protocol.confidence:.0f} % interval",
                "bits per byte",
                "KL to dense, nats per token",
            ),
            tuple(_cells(row) for row in run.rows),
        ),
        height=150 + 48 * len(run.rows),
    )


def _cells(row: ModelRow) -> tuple[str, ...]:
    said = row.perplexity
    bits = "-" if row.bits_per_byte is None else f"{row.bits_per_byte:.4f}"
    return (_title(row), f"{said.value:.3f}", f"{said.low:.3f} to {said.high:.3f}", bits, short(row.kl))


def divergence(run: Recorded) -> Picture | None:
    """Draw the KL to the dense model; None before the evaluation."""
    others = [row for row in run.rows if row.name != "dense"]
    if not others:
        return None
    traces: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "name": hovered([_title(row)]),
            "showlegend": False,
            "x": [row.kl],
            "y": [hovered([_title(row)])],
            "text": [short(row.kl)],
            "textposition": "auto",
            "hovertext": [hovered([_title(row), f"KL {short(row.kl)} nats per token"])],
            "marker": {"color": COLOURS.get(row.name, GREEN)},
        }
        for row in others
    ]
    result = run.result
    rivals = [row for row in others if row.name.startswith("uniform")]
    title = (
        f"The result is {short(result.kl)} nats per token from the dense model" if result else "KL to the dense model"
    )
    if result and rivals and min(row.kl for row in rivals) > 0:
        title += f": {100 * result.kl / min(row.kl for row in rivals):.0f} % of the better baseline's distance"
    return Picture(
        name="divergence",
        title=title,
        about="KL(dense || model): how far the distribution over the next token has moved, averaged over the "
        "evaluation windows.",
        traces=tuple(traces),
        layout=layout(axis("KL to dense, nats per token"), _names(), bargap=0.45),
        table=NumberTable(
            ("model", "KL to dense, nats per token"), tuple((_title(row), short(row.kl)) for row in others)
        ),
        height=150 + 48 * len(others),
    )


def groups(run: Recorded) -> Picture | None:
    """Draw what the cut does to each group of text; None without groups."""
    dense = run.row("dense")
    others = [row for row in run.rows if row.name != "dense" and row.groups]
    if dense is None or not others:
        return None
    names = list(dense.groups)
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": hovered([_title(row)]),
            "x": [row.groups[name].value / dense.groups[name].value for name in names],
            "y": [hovered([name]) for name in names],
            "text": [
                hovered(
                    [
                        f"{_title(row)}, {name}",
                        f"perplexity {row.groups[name].value:.3f}, dense {dense.groups[name].value:.3f}",
                    ]
                )
                for name in names
            ],
            "marker": marker(COLOURS.get(row.name, SERIES[place]), MARKERS.get(row.name, SYMBOLS[place]), 11),
        }
        for place, row in enumerate(others)
    ]
    result = others[-1]
    return Picture(
        name="groups",
        title=f"Between groups of text the result differs by {short(result.disparity or 0.0)} nats (disparity)",
        about="Perplexity of every group over the dense model's on the same windows: 1 loses nothing. Disparity is "
        "the spread over groups of the logarithm of that ratio.",
        traces=tuple(traces),
        layout=layout(axis("perplexity over dense perplexity", zeroline=False), _names()),
        table=NumberTable(
            ("model", *names, "disparity, nats"),
            tuple(
                (_title(row), *(f"{row.groups[name].value:.3f}" for name in names), short(row.disparity or 0.0))
                for row in (dense, *others)
            ),
        ),
        height=170 + 48 * len(names),
    )


def _names() -> dict[str, object]:
    return axis("", type="category", autorange="reversed", showgrid=False)


def _title(row: ModelRow) -> str:
    return TITLES.get(row.name, row.name)


def _finding(run: Recorded) -> str:
    dense, result = run.row("dense"), run.row("secateur")
    if dense is None or result is None:
        return "Perplexity on the evaluation set"
    change = result.perplexity.value / dense.perplexity.value - 1
    words = f"rises by {100 * change:.1f} %" if change >= 0 else f"falls by {-100 * change:.1f} %"
    text = f"Perplexity {words}, from {dense.perplexity.value:.2f} to {result.perplexity.value:.2f}"
    recovered = run.row("recovered")
    if recovered is not None:
        text += f", and recovers to {recovered.perplexity.value:.2f}"
    rivals = [row for row in run.rows if row.name.startswith("uniform")]
    if rivals:
        text += f"; the better uniform baseline comes to {min(row.perplexity.value for row in rivals):.2f}"
    return text
