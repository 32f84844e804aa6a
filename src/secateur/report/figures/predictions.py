"""What the predictor knows: what it said against what was measured, and how it ranks, round by round."""

from collections.abc import Sequence

from secateur.report.figures.picture import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
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
from secateur.search.fit import FitRecord, Foretold
from secateur.space.architecture import Architecture


def _told(run: Recorded) -> list[Foretold]:
    """Give what was said before measuring, with what came of it."""
    return [each for record in run.rounds for each in record.foretold if each.measured is not None]


def predicted_against_measured(run: Recorded, known: Architectures) -> Picture | None:
    """Draw predictions; None where the method makes none, or has not come to it yet."""
    told = _told(run)
    if not run.fits and not told:
        return None
    inside = sum(each.low <= (each.measured or 0.0) <= each.high for each in told)
    pairs = [pair for fit in run.fits for pair in fit.pairs]
    values = [value for pair in pairs for value in (pair.predicted, pair.measured)]
    # Not the ends of the intervals: one that knows nothing would leave no room for the others.
    values += [value for each in told for value in (each.predicted, each.measured or each.predicted)]
    ends = [min(values), max(values)]
    line: Trace = {
        "type": "scatter", "mode": "lines", "x": ends, "y": ends, "hoverinfo": "skip", "showlegend": False,
        "line": {"color": GREY, "dash": "dot", "width": 1.5},
    }  # fmt: skip
    traces = [line, *(_out_of_fold(run, known, fit) for fit in run.fits), *_foretold(run, known, told)]
    quantity = run.fits[-1].quantity if run.fits else "KL to the dense model, nats per token"
    rows = [
        (
            each.architecture,
            "before measuring",
            short(each.predicted),
            f"{short(each.low)} to {short(each.high)}",
            short(each.measured or 0.0),
        )
        for each in told
    ]
    rows += [(pair.architecture, "out of fold", short(pair.predicted), "", short(pair.measured)) for pair in pairs]
    title = (
        f"{inside} of {len(told)} architectures measured where their 90 % interval had said, before they were measured"
        if told
        else f"Out-of-fold predictions of {len(pairs)} measured architectures"
    )
    return Picture(
        name="predicted",
        title=title,
        about="Right is what was measured, up is what was predicted: on the dotted line the two agree. Bars are 90 "
        "% intervals of predictions made before the measurement; hollow marks are out-of-fold predictions of "
        "the last fits, by a fit that has not seen the architecture. Axes are logarithmic.",
        traces=tuple(traces),
        layout=layout(log_axis(f"measured: {_unit(quantity)}", values), log_axis("predicted", values)),
        table=NumberTable(("architecture", "prediction", "predicted", "90 % interval", "measured"), tuple(rows)),
        height=460,
    )


def _unit(quantity: str) -> str:
    return quantity.replace("KL to the dense model, nats per token", "KL, nats per token")


def _architecture(run: Recorded, key: str) -> Architecture | None:
    candidate = run.candidates.get(key)
    return candidate.architecture if candidate else None


def _numbers(run: Recorded, known: Architectures, keys: Sequence[str]) -> list[int | None]:
    found = [_architecture(run, key) for key in keys]
    return [known.number(each) if each else None for each in found]


def _out_of_fold(run: Recorded, known: Architectures, fit: FitRecord) -> Trace:
    several = len({each.quantity for each in run.fits}) > 1
    which = "after reconstruction" if fit.reconstructed else "by slices"
    name = f"out of fold, {fit.quantity.rsplit(', ', 1)[-1]}, {which}" if several else f"out of fold, {which}"
    color = ORANGE if fit.reconstructed else GREY
    return {
        "type": "scatter",
        "mode": "markers",
        "name": hovered([name]),
        "x": [pair.measured for pair in fit.pairs],
        "y": [pair.predicted for pair in fit.pairs],
        "text": [
            hovered([f"measured {short(pair.measured)}", f"predicted {short(pair.predicted)}, out of fold"])
            for pair in fit.pairs
        ],
        "customdata": _numbers(run, known, [pair.architecture for pair in fit.pairs]),
        "marker": marker(color, "circle-open", 7, line={"width": 1.5}),
    }


def _foretold(run: Recorded, known: Architectures, told: Sequence[Foretold]) -> list[Trace]:
    if not told:
        return []
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": "before measuring, 90 % interval",
            "x": [each.measured for each in told],
            "y": [each.predicted for each in told],
            "error_y": {
                "type": "data",
                "symmetric": False,
                "array": [each.high - each.predicted for each in told],
                "arrayminus": [each.predicted - each.low for each in told],
                "color": SKY,
                "thickness": 1.2,
                "width": 0,
            },
            "text": [
                hovered(
                    [
                        f"measured {short(each.measured or 0.0)}",
                        f"predicted {short(each.predicted)}, {short(each.low)} to {short(each.high)}",
                    ]
                )
                for each in told
            ],
            "customdata": _numbers(run, known, [each.architecture for each in told]),
            "marker": marker(BLUE, "circle", 8),
        }
    ]


def ranks(run: Recorded) -> Picture | None:
    """Draw the rank correlation by round, beside what anyone could say without a predictor."""
    if not run.rounds:
        return None
    qualities = [record.quality for record in run.rounds]
    numbers = [record.round for record in run.rounds]
    lines: dict[str, tuple[list[float | None], str, str]] = {
        "predictor, out of fold": ([q.kendall_tau for q in qualities], BLUE, "circle"),
        "reconstruction error alone": ([q.kendall_tau_error_only for q in qualities], ORANGE, "square"),
        "parameter count alone": ([q.kendall_tau_reduction_only for q in qualities], VERMILLION, "triangle-up"),
    }
    sensed = [q.kendall_tau_sensitivity_only for q in qualities]
    if any(value is not None for value in sensed):
        lines["sensitivities alone"] = (sensed, PURPLE, "x")
    traces: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": numbers,
            "y": values,
            "text": [
                f"round {number}: {name} {value:.2f}" if value is not None else ""
                for number, value in zip(numbers, values, strict=True)
            ],
            "line": {"color": color, "width": 2.5 if color == BLUE else 1.5},
            "marker": marker(color, symbol, 9),
        }
        for name, (values, color, symbol) in lines.items()
    ]
    last = qualities[-1]
    rival = max(last.kendall_tau_reduction_only, last.kendall_tau_error_only)
    return Picture(
        name="ranks",
        title=f"The last predictor ranks with Kendall's tau {last.kendall_tau:.2f}, without measuring it would be "
        f"{rival:.2f}",
        about="Rank correlation with what was measured at the budget, 1 is a perfect order and 0 is chance. A "
        "predictor that only counted parameters, or only summed reconstruction errors, would stand where the "
        "other lines are."
        + (" From the dashed line on, measurements are made after reconstruction." if _turn(run) else ""),
        traces=tuple(traces),
        layout=layout(
            axis("round", dtick=1, zeroline=False),
            axis(
                "Kendall's tau",
                range=[min(-0.1, *(v for values, *_ in lines.values() for v in values if v is not None)) - 0.05, 1.02],
            ),
            shapes=_turn(run),
        ),
        table=NumberTable(
            ("round", "predictor", "pairs", *lines, "in 90 % interval"),
            tuple(
                (
                    str(record.round),
                    "none: neighbours of the best" if record.fell_back else record.quality.predictor.replace("_", " "),
                    str(record.quality.num_pairs),
                    *("-" if values[place] is None else f"{values[place]:.3f}" for values, *_ in lines.values()),
                    "-" if record.covered is None else percent(record.covered, 0),
                )
                for place, record in enumerate(run.rounds)
            ),
        ),
        height=460,
    )


def _turn(run: Recorded) -> list[dict[str, object]]:
    """Mark where the search begins to measure after reconstruction."""
    later = [record.round for record in run.rounds if record.reconstructed]
    if not later or len(later) == len(run.rounds):
        return []
    x = min(later) - 0.5
    return [
        {
            "type": "line",
            "x0": x,
            "x1": x,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": INK, "dash": "dash", "width": 1},
        }
    ]
