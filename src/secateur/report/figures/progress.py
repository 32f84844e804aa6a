"""Search progress: every measurement with what proposed it, and the best so far."""

from secateur.report.figures.picture import (
    INK,
    SERIES,
    SYMBOLS,
    Architectures,
    NumberTable,
    Picture,
    Trace,
    axis,
    layout,
    log_axis,
    marker,
    short,
)
from secateur.report.figures.trade_off import measured_text
from secateur.report.recorded import Recorded
from secateur.space.candidate import Measurement

# What a measurement was proposed by, in words and in the order of the legend; others keep their own name.
KINDS = {
    "predicted": "predicted best",
    "explored": "explored",
    "offspring": "offspring",
    "ranking": "from the ranking",
    "neighbour": "neighbour of the best",
    "sampled": "drawn",
    "uniform": "without learning",
    "additive": "without learning",
    "global_threshold": "without learning",
    "allocated": "without learning",
    "single": "to learn from",
    "sensitivity": "to learn from",
    "paper": "to learn from",
}
# Of the space that the run was not asked for: no part of the search.
OTHER_SPACE = "alternative"


def progress(run: Recorded, known: Architectures) -> Picture | None:
    """Draw the measurements in the order in which they were made; None before the first."""
    shown = [m for m in _of_the_search(run) if run.candidates[m.architecture.key].origin != OTHER_SPACE]
    if not any(m.kl is not None for m in shown):
        return None
    numbered = list(enumerate(shown, start=1))
    best = _best_so_far(run, numbered)
    kinds: dict[str, list[tuple[int, Measurement]]] = {name: [] for name in dict.fromkeys(KINDS.values())}
    for number, m in numbered:
        origin = run.candidates[m.architecture.key].origin
        kinds.setdefault(KINDS.get(origin, origin.replace("_", " ")), []).append((number, m))
    traces: list[Trace] = []
    for place, (kind, members) in enumerate((kind, members) for kind, members in kinds.items() if members):
        good = [(number, m) for number, m in members if m.kl is not None and m.kl > 0]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": kind,
                "x": [number for number, _ in good],
                "y": [m.kl for _, m in good],
                "text": [f"measurement {number}<br>{measured_text(run, m)}" for number, m in good],
                "customdata": [known.number(m.architecture) for _, m in good],
                "marker": marker(SERIES[place % len(SERIES)], SYMBOLS[place % len(SYMBOLS)], 8, opacity=0.85),
            }
        )
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "best so far",
            "x": [number for number, _ in best],
            "y": [kl for _, kl in best],
            "line": {"color": INK, "width": 2, "shape": "hv"},
            "hoverinfo": "skip",
        }
    )
    turn = _turn(run, numbered)
    return Picture(
        name="progress",
        title=_finding(best, len(shown)),
        about="Every dot is a measurement in the order in which it was made, its colour and shape say what proposed "
        "it; the line is the lowest so far of those that the choice is among."
        + (" Right of the dashed line candidates are measured after sequential reconstruction." if turn else "")
        + (f" {run.num_failed} failed measurements are not drawn." if run.num_failed else ""),
        traces=tuple(traces),
        layout=layout(
            axis("measurement", zeroline=False),
            log_axis("KL to dense, nats per token", [m.kl for _, m in numbered]),
            shapes=turn,
        ),
        table=NumberTable(
            ("measurement", "proposed by", "KL to dense, nats per token", "best so far"),
            _rows(run, numbered, dict(best)),
        ),
        height=440,
        wide=True,
    )


def _of_the_search(run: Recorded) -> tuple[Measurement, ...]:
    """Leave out what is measured once more, by slices, when the search is over."""
    last = max((place for place, m in enumerate(run.measurements) if m.protocol == run.protocol), default=-1)
    searched = run.choice is not None and bool(run.compared)
    return run.measurements[: last + 1] if searched else run.measurements


def _best_so_far(run: Recorded, numbered: list[tuple[int, Measurement]]) -> list[tuple[int, float]]:
    best: list[tuple[int, float]] = []
    compared = {(m.architecture.key, m.protocol) for m in run.compared}
    for number, m in numbered:
        if m.kl is not None and (m.architecture.key, m.protocol) in compared:
            best.append((number, min(m.kl, best[-1][1]) if best else m.kl))
    return best


def _turn(run: Recorded, numbered: list[tuple[int, Measurement]]) -> list[dict[str, object]]:
    """Mark where measuring changes to the way in which the choice is measured."""
    protocols = [(number, m.protocol == run.protocol) for number, m in numbered if not run.is_probe(m)]
    later = [number for number, last in protocols if last]
    if not later or len(later) == len(protocols):
        return []
    x = min(later) - 0.5
    line = {"color": INK, "dash": "dash", "width": 1}
    return [{"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}]


def _finding(best: list[tuple[int, float]], count: int) -> str:
    if not best:
        return f"{count} measurements, none of them at the budget yet"
    last = best[-1][1]
    at = next(number for number, kl in best if kl == last)
    first = best[0][1]
    gain = f", {100 * (1 - last / first):.0f} % below the first of its kind" if last < first else ""
    return f"The best of {count} measurements came as number {at}: KL {short(last)}{gain}"


def _rows(
    run: Recorded, numbered: list[tuple[int, Measurement]], best: dict[int, float]
) -> tuple[tuple[str, ...], ...]:
    return tuple(
        (
            str(number),
            run.candidates[m.architecture.key].origin.replace("_", " "),
            short(m.kl) if m.kl is not None else f"failed: {m.reason or 'no reason given'}",
            short(best[number]) if number in best else "",
        )
        for number, m in numbered
    )
