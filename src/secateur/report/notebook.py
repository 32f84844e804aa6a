"""A result as HTML for a notebook's cell: the final table, what was kept of every layer, and the front.

Without styles of its own but for alignment and bars in the colour of the text, so that it follows the notebook's theme.
"""

from collections.abc import Sequence
from html import escape

from secateur.report.front import Front, FrontPoint
from secateur.report.record import ModelRow, Report
from secateur.report.rows import mlp_title
from secateur.report.table import TITLES, budget_title

# Of the front: more would bury what the cell is for; `front.points` has all.
MOST_POINTS = 8
NUMBER = ' style="text-align: right"'
NAME = ' style="text-align: left"'


def html_summary(report: Report, front: Front) -> str:
    """Give the tables, one below the other."""
    protocol = report.rows[0].perplexity
    how = f"{protocol.num_windows} evaluation windows, {protocol.protocol}; KL to dense in nats per token"
    result = _table(
        f"{report.model} {budget_title(report)}",
        ("model", "parameters", "reduction", "perplexity", f"± {protocol.confidence:.0%}", "KL"),
        [_model_cells(row) for row in report.rows],
        how,
    )
    dense = report.row("dense").architecture.layers
    kept = _table(
        "Kept per layer",
        ("layer", "KV heads", "", mlp_title(whole_experts=report.whole_experts), ""),
        [
            (
                str(number),
                f"{layer.kv_heads} of {whole.kv_heads}",
                _bar(layer.kv_heads / whole.kv_heads),
                f"{layer.ffn_width} of {whole.ffn_width}",
                _bar(layer.ffn_width / whole.ffn_width),
            )
            for number, (layer, whole) in enumerate(zip(report.choice.architecture.layers, dense, strict=True))
        ],
        f"selection KL {report.choice.kl:.4f} as measured, best of {report.num_measurements} architectures",
    )
    return result + kept + _front(front)


def _front(front: Front) -> str:
    chosen = next(index for index, point in enumerate(front.points) if point.chosen)
    first = max(0, min(chosen - MOST_POINTS // 2, len(front.points) - MOST_POINTS))
    shown = front.points[first : first + MOST_POINTS]
    more = f"; {len(shown)} of {len(front.points)} shown" if len(shown) < len(front.points) else ""
    names = [name.replace("_", " ") for name in front.objectives]
    return _table(
        "Pareto front",
        ("point", *names, ""),
        [_point_cells(point, list(front.objectives)) for point in shown],
        f"of {front.num_measurements} measurements on the selection set; export(K) makes point K{more}",
    )


def _model_cells(row: ModelRow) -> tuple[str, ...]:
    return (
        TITLES.get(row.name, row.name),
        f"{row.cost.total_parameters:,}",
        f"{row.parameter_reduction:.1%}",
        f"{row.perplexity.value:.3f}",
        f"{(row.perplexity.high - row.perplexity.low) / 2:.3f}",
        f"{row.kl:.4f}",
    )


def _point_cells(point: FrontPoint, names: Sequence[str]) -> tuple[str, ...]:
    values = [point.objectives[name] for name in names]
    cells = [f"{value:,.0f}" if value >= 100 else f"{value:.4f}" for value in values]  # counts, and nats
    return (str(point.number), *cells, "chosen" if point.chosen else "")


class _Html(str):
    """Markup that is not escaped again."""

    __slots__ = ()


def _bar(share: float) -> _Html:
    """Draw a share; what it shows stands beside it as numbers."""
    inner = f"background: currentColor; width: {100 * share:.0f}%; height: 0.6em"
    return _Html(
        '<div aria-hidden="true" style="width: 8em; border: 1px solid currentColor; opacity: 0.6">'
        f'<div style="{inner}"></div></div>'
    )


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], note: str) -> str:
    header = "".join(f'<th scope="col"{NAME}>{escape(name)}</th>' for name in head)
    lines = "".join(
        f"<tr>{''.join(_cell(cell, first=place == 0) for place, cell in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<table><caption style="caption-side: top; text-align: left"><b>{escape(title)}</b></caption>'
        f"<thead><tr>{header}</tr></thead><tbody>{lines}</tbody></table><p><small>{escape(note)}</small></p>"
    )


def _cell(cell: str, *, first: bool) -> str:
    inner = cell if isinstance(cell, _Html) else escape(cell)
    return f'<th scope="row"{NAME}>{inner}</th>' if first else f"<td{NUMBER}>{inner}</td>"
