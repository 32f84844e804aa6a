"""The trade-off: what was measured, by size and quality, with the dense model, the baselines and the result."""

from secateur.report.figures.picture import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    INK,
    MARKERS,
    SKY,
    TITLES,
    Architectures,
    NumberTable,
    Picture,
    Trace,
    axis,
    hovered,
    layout,
    log_axis,
    marker,
    percent,
    short,
)
from secateur.report.recorded import Recorded
from secateur.search.objectives import COSTS, DISPARITY, QUALITY, loss_target
from secateur.space.candidate import Measurement
from secateur.space.cost import WORDS

KEPT = "decoder parameters kept, % of dense"
KL = "KL to dense, nats per token"
# Share of the way to the dense size up to which candidates are seen close up; candidates that the table lists.
CLOSE_UP, LISTED = 0.25, 40
AXES = {DISPARITY: "disparity over groups, nats per token"}


def measured_text(run: Recorded, measurement: Measurement) -> str:
    """Say what a dot is."""
    candidate = run.candidates[measurement.architecture.key]
    origin = candidate.origin.replace("_", " ")
    when = f"{origin}, round {candidate.round}" if candidate.round else f"{origin}, before any predictor"
    kept = 1 - candidate.parameter_reduction
    return hovered([f"KL {short(measurement.kl or 0.0)}   {percent(kept)} kept", when])


def trade_off(run: Recorded, known: Architectures) -> Picture | None:
    """Draw size against KL; None where nothing is measured yet.

    Where all candidates are of nearly one size, as a budget makes them, they are seen close up, and the dense model
    stands behind a gap of the axis.
    """
    if not run.compared and not run.rows:
        return None
    traces = [
        *_dots(run, known, run.earlier, "measured by slices", marker(GREY, size=5, opacity=0.5)),
        *_dots(run, known, run.compared, "measured candidates", marker(SKY, size=8, opacity=0.8)),
        *_front_line(run, known),
        *_chosen(run, known),
        *_models(run, known),
    ]
    values = [each for trace in traces for each in trace["y"]]
    shares = [each for trace in traces for each in trace["x"] if each is not None]
    low, high = min(shares), max(shares)
    rows = [
        (TITLES.get(row.name, row.name), percent(1 - row.parameter_reduction), short(row.kl), "evaluation set")
        for row in run.rows
    ]
    rows += [
        ("measured candidate", percent(run.kept(m.architecture) or 0.0, 2), short(m.kl or 0.0), "selection set")
        for m in sorted(run.compared, key=lambda m: m.kl or 0.0)[:LISTED]
    ]
    close_up = high - low < CLOSE_UP * (100 - low)
    return Picture(
        name="trade-off",
        title=_finding(run),
        about="Every dot is an architecture of this model: how much of it is left, and how far its next-token "
        "distribution is from the dense model's; lower is better. Candidates were measured on the selection "
        "set, models on the evaluation set. Hover or tap for the architecture, layer by layer: KV heads / "
        f"{run.counted}.",
        traces=(*traces, _dense(run, "x2" if close_up else "x", values)),
        layout=layout(
            axis(KEPT, ticksuffix=" %", **_close_up(low, high) if close_up else {"range": [low - 2, 101.5]}),
            log_axis(KL, values),
            **({"xaxis2": _beyond()} if close_up else {}),
        ),
        table=NumberTable(
            ("model", "decoder parameters kept", "KL to dense, nats per token", "measured on"), tuple(rows)
        ),
        height=480,
        wide=True,
    )


def _close_up(low: float, high: float) -> dict[str, object]:
    room = max(0.08 * (high - low), 0.02)
    return {"domain": [0, 0.84], "range": [low - room, high + room], "nticks": 6}


def _beyond() -> dict[str, object]:
    """Make the axis behind the gap, which has the dense model alone."""
    return axis("", domain=[0.88, 1], range=[99, 101], tickvals=[100], ticktext=["100 %"], anchor="y", zeroline=False)


def _dense(run: Recorded, xaxis: str, values: list[float]) -> Trace:
    """Draw the dense model at the foot: its KL is 0, which a logarithmic axis has no place for."""
    row = run.row("dense")
    least = min((value for value in values if value and value > 0), default=1.0)
    said = f"perplexity {row.perplexity.value:.3f}" if row else ""
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "dense, KL 0",
        "xaxis": xaxis,
        "x": [100],
        "y": [least],
        "text": ["KL 0"],
        "textposition": "top center",
        "hovertext": [hovered(["dense, KL 0: below any place on this axis", said])],
        "marker": marker(INK, "star", 14),
        "cliponaxis": False,
    }


def _front_line(run: Recorded, known: Architectures) -> list[Trace]:
    """Join what no smaller architecture beats."""
    if run.front is not None and "decoder_parameters" not in run.front.objectives:
        return []
    best: list[Measurement] = []
    for m in sorted(run.compared, key=lambda m: (run.kept(m.architecture) or 0.0, m.kl or 0.0)):
        if not best or (m.kl or 0.0) < (best[-1].kl or 0.0):
            best.append(m)
    line = _dots(run, known, tuple(best), "Pareto front", marker(GREEN, size=8))
    return [{**trace, "mode": "lines+markers", "line": {"color": GREEN, "width": 2, "shape": "hv"}} for trace in line]


def _chosen(run: Recorded, known: Architectures) -> list[Trace]:
    """Ring what was taken, where it was measured."""
    chosen = tuple(m for m in run.compared if run.choice is not None and m.architecture == run.choice.architecture)
    ring = marker("rgba(0,0,0,0)", "circle", 16, line={"width": 2.5, "color": BLUE})
    return _dots(run, known, chosen[-1:], "chosen, as the search measured it", ring)


def _finding(run: Recorded) -> str:
    result, dense = run.result, run.row("dense")
    if result is None or dense is None:
        best = run.best
        if best is None:
            return "Nothing at the budget has been measured yet"
        return f"Best so far: KL {short(best.kl or 0.0)} with {percent(run.kept(best.architecture) or 0.0)} kept"
    rivals = [row for row in run.rows if row.name.startswith("uniform")]
    size = percent(1 - result.parameter_reduction)
    if not rivals:
        return f"With {size} of its decoder parameters the result is {short(result.kl)} nats from the dense model"
    rival = min(rivals, key=lambda row: row.kl)
    if result.kl < rival.kl:
        return (
            f"At {size} of the size, the result is {_times(rival.kl / max(result.kl, 1e-12))} nearer to dense than "
            "uniform pruning"
        )
    return f"At {size} of the size, the result is no nearer to dense than uniform pruning"


def _times(factor: float) -> str:
    return f"{factor:.0f} times" if factor >= 10 else f"{factor:.1f} times"


def _dots(
    run: Recorded, known: Architectures, measured: tuple[Measurement, ...], name: str, style: dict[str, object]
) -> list[Trace]:
    if not measured:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [100 * (run.kept(m.architecture) or 0.0) for m in measured],
            "y": [m.kl for m in measured],
            "text": [measured_text(run, m) for m in measured],
            "customdata": [known.number(m.architecture) for m in measured],
            "marker": style,
        }
    ]


def _models(run: Recorded, known: Architectures) -> list[Trace]:
    """Draw rows of the final table; the dense model has no KL and so no place on a logarithmic axis."""
    traces: list[Trace] = []
    for row in run.rows:
        if row.name == "dense" or row.kl <= 0:
            continue
        title = TITLES.get(row.name, row.name)
        lines = [title, f"KL {short(row.kl)}   {percent(1 - row.parameter_reduction)} kept"]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": hovered([title]),
                "x": [100 * (1 - row.parameter_reduction)],
                "y": [row.kl],
                "text": [hovered([*lines, f"perplexity {row.perplexity.value:.3f} ({row.perplexity.protocol})"])],
                "customdata": [known.number(row.architecture)],
                "marker": marker(
                    COLOURS.get(row.name, GREEN),
                    MARKERS.get(row.name, "circle"),
                    14,
                    line={"width": 1.5, "color": "theme:card"},
                ),
            }
        )
    return traces


def front_picture(run: Recorded, known: Architectures) -> Picture | None:
    """Draw the Pareto front where it is of other objectives than size and quality; None without one."""
    front = run.front
    if front is None or len(front.objectives) < 2:
        return None
    first, second = list(front.objectives)[:2]
    if (first, second) == (QUALITY, "decoder_parameters"):
        return None  # the trade-off shows it
    points = front.points
    ordered = sorted(points, key=lambda point: point.objectives[second])
    others = _others(run, second)
    traces: list[Trace] = [
        *_others_trace(run, known, others),
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "Pareto front",
            "x": [point.objectives[second] for point in ordered],
            "y": [point.objectives[first] for point in ordered],
            "text": [
                hovered([f"point {point.number}   KL {short(point.kl)}", *_said(point.objectives)]) for point in ordered
            ],
            "customdata": [known.number(point.architecture) for point in ordered],
            "line": {"color": GREEN, "width": 2, "shape": "hv" if second in COSTS else "linear"},
            "marker": marker(GREEN, "circle", 9),
        },
    ]
    chosen = [point for point in points if point.chosen]
    traces.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "chosen",
            "x": [point.objectives[second] for point in chosen],
            "y": [point.objectives[first] for point in chosen],
            "text": [hovered([f"point {point.number}, chosen   KL {short(point.kl)}"]) for point in chosen],
            "customdata": [known.number(point.architecture) for point in chosen],
            "marker": marker(BLUE, "diamond", 14, line={"width": 1.5, "color": "theme:card"}),
        }
    )
    place = ", ".join(f"point {point.number}" for point in chosen)
    quality = KL if run.front and not front.dense_losses else "quality: mean log perplexity ratio, nats per token"
    values = [each for trace in traces for each in trace["y"]]
    logs = all(point.objectives[first] > 0 for point in points) and not front.dense_losses
    return Picture(
        name="front",
        title=f"{len(points)} of {front.num_measurements} measured architectures are on the Pareto front; {place} "
        "was chosen",
        about="The candidates at the budget, close up: none of those on the front is beaten in both directions. "
        "secateur export DIR --point K makes the model of any of them.",
        traces=tuple(traces),
        layout=layout(axis(AXES.get(second, _unit(second))), log_axis(quality, values) if logs else axis(quality)),
        table=NumberTable(
            ("point", *front.objectives, "KL", "chosen"),
            tuple(
                (
                    str(p.number),
                    *(_amount(value) for value in p.objectives.values()),
                    short(p.kl),
                    "yes" if p.chosen else "",
                )
                for p in points
            ),
        ),
        height=440,
    )


def _others(run: Recorded, second: str) -> list[tuple[Measurement, float, float]]:
    """Give what was compared with its place in the picture, where that is known without the model."""
    found = []
    dense = run.front.dense_losses if run.front else {}
    for m in run.compared:
        ratios = [m.targets[loss_target(g)] - loss for g, loss in dense.items() if loss_target(g) in m.targets]
        quality = sum(ratios) / len(ratios) if ratios else m.kl
        if second == DISPARITY and ratios:
            found.append((m, max(ratios) - min(ratios), quality or 0.0))
    return found


def _others_trace(run: Recorded, known: Architectures, others: list[tuple[Measurement, float, float]]) -> list[Trace]:
    if not others:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "measured candidates",
            "x": [x for _, x, _ in others],
            "y": [y for _, _, y in others],
            "text": [measured_text(run, m) for m, _, _ in others],
            "customdata": [known.number(m.architecture) for m, _, _ in others],
            "marker": marker(SKY, size=7, opacity=0.75),
        }
    ]


def _said(objectives: dict[str, float]) -> list[str]:
    return [f"{name.replace('_', ' ')} {_amount(value)}" for name, value in objectives.items() if name != QUALITY]


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else short(value)


def _unit(name: str) -> str:
    return WORDS[name].unit if name in WORDS else name.replace("_", " ")
