"""Speed and memory: models timed beside each other, as ratios to the first."""

from collections.abc import Callable

from secateur.evaluation.speed import ModelSpeed, SpeedComparison, SpeedRatio, Spread
from secateur.report.figures.picture import (
    COLOURS,
    GREEN,
    INK,
    MARKERS,
    TITLES,
    NumberTable,
    Picture,
    Trace,
    axis,
    hovered,
    layout,
    marker,
)
from secateur.report.recorded import Recorded

TIMES: dict[str, Callable[[SpeedRatio], Spread]] = {
    "prefill time": lambda ratio: ratio.prefill,
    "decode time": lambda ratio: ratio.decode,
}


def speed(run: Recorded) -> Picture | None:
    """Draw times, memory and size beside the first model's; None where nothing was timed."""
    timed = run.report.speed if run.report else None
    if timed is None or len(timed.models) < 2:
        return None
    first = timed.models[0]
    traces = [_trace(timed, model, first) for model in timed.models[1:]]
    return Picture(
        name="speed",
        title=_finding(timed),
        about=f"Beside the {_title(first.name)} model's, both timed in one process in a new order each time: "
        f"{timed.device}, {timed.dtype}, batch {timed.batch}, {timed.prompt_tokens} tokens of prompt, "
        f"{timed.new_tokens} new, {timed.repeats} repeats. Medians of ratios with bootstrap intervals; left of "
        "the line is faster or smaller." + (f" Peak memory: {timed.memory_measure}." if timed.memory_measure else ""),
        traces=tuple(traces),
        layout=layout(
            axis(f"share of the {_title(first.name)} model's, %", ticksuffix=" %", rangemode="tozero"),
            axis("", type="category", autorange="reversed", showgrid=False),
            shapes=[
                {
                    "type": "line",
                    "x0": 100,
                    "x1": 100,
                    "y0": 0,
                    "y1": 1,
                    "yref": "paper",
                    "line": {"color": INK, "dash": "dash", "width": 1},
                }
            ],
        ),
        table=NumberTable(
            ("model", "prefill, ms", "decode, ms per token", "tokens per second", "peak memory", "weights"),
            tuple(_cells(model) for model in timed.models),
        ),
        height=330,
    )


def _trace(timed: SpeedComparison, model: ModelSpeed, first: ModelSpeed) -> Trace:
    ratio = next((each for each in timed.ratios if each.name == model.name), None)
    places: dict[str, Spread] = {}
    for name, own, theirs in (
        ("prefill time", model.prefill_ms, first.prefill_ms),
        ("decode time", model.decode_ms_per_token, first.decode_ms_per_token),
    ):
        places[name] = TIMES[name](ratio) if ratio else _plain(own.median / theirs.median)
    if model.peak_memory_bytes and first.peak_memory_bytes:
        places["peak memory"] = _plain(model.peak_memory_bytes / first.peak_memory_bytes)
    if first.weights_bytes:
        places["weights"] = _plain(model.weights_bytes / first.weights_bytes)
    color = COLOURS.get(model.name, GREEN)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": hovered([_title(model.name)]),
        "x": [100 * each.median for each in places.values()],
        "y": list(places),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [100 * (each.high - each.median) for each in places.values()],
            "arrayminus": [100 * (each.median - each.low) for each in places.values()],
            "color": color,
            "thickness": 2,
            "width": 6,
        },
        "text": [hovered([f"{_title(model.name)}: {name} {100 * each.median:.1f} %"]) for name, each in places.items()],
        "marker": marker(color, MARKERS.get(model.name, "circle"), 12),
    }


def _plain(value: float) -> Spread:
    return Spread(median=value, low=value, high=value)


def _title(name: str) -> str:
    return TITLES.get(name, name)


def _cells(model: ModelSpeed) -> tuple[str, ...]:
    return (
        _title(model.name),
        _spread(model.prefill_ms),
        _spread(model.decode_ms_per_token),
        _spread(model.throughput_tokens_per_s),
        "-" if model.peak_memory_bytes is None else size(model.peak_memory_bytes),
        size(model.weights_bytes),
    )


def _spread(each: Spread) -> str:
    return f"{each.median:.4g} ({each.low:.4g} to {each.high:.4g})"


def size(num_bytes: int) -> str:
    """Write bytes: `2.7 MB`."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _finding(timed: SpeedComparison) -> str:
    first, last = timed.models[0], timed.models[-1]
    ratio = next((each for each in timed.ratios if each.name == last.name), None)
    prefill = ratio.prefill.median if ratio else last.prefill_ms.median / first.prefill_ms.median
    decode = ratio.decode.median if ratio else last.decode_ms_per_token.median / first.decode_ms_per_token.median
    return (
        f"The {_title(last.name)} takes {100 * prefill:.0f} % of the {_title(first.name)} model's time to read a "
        f"prompt, {100 * decode:.0f} % per new token"
    )
