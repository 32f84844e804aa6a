"""What was cut where: layers by attention and MLP, what is kept of each and what the reconstruction could not mend."""

from collections.abc import Sequence

from secateur.model.shape import module_of
from secateur.report.figures.picture import NumberTable, Picture, Trace, axis, layout, percent, short
from secateur.report.recorded import Recorded
from secateur.space.architecture import Architecture

# Layers up to which there is room for numbers in the cells.
ROOM = 16
BLOCKS = ("attention", "MLP")


def kept_shares(dense: Architecture, chosen: Architecture) -> list[float]:
    """Give the share of groups that every module keeps, in module order."""
    pairs = zip(chosen.widths, dense.widths, strict=True)
    return [kept / whole if whole else 1.0 for kept, whole in pairs]


def errors_of(run: Recorded, chosen: Architecture) -> list[float] | None:
    """Give every module's reconstruction error at its width; None where the run has kept none."""
    if run.errors is None or len(run.errors.by_width) != len(chosen.widths):
        return None
    pairs = zip(run.errors.by_width, chosen.widths, strict=True)
    found = [by_width.get(width) for by_width, width in pairs]
    return None if None in found else [error for error in found if error is not None]


def cuts(run: Recorded) -> Picture | None:
    """Draw what the chosen architecture keeps; None where nothing is measured yet."""
    dense, chosen = run.dense, run.chosen
    if dense is None or chosen is None or len(dense.layers) != len(chosen.layers):
        return None
    shares, errors = kept_shares(dense, chosen), errors_of(run, chosen)
    kept = [f"{width} of {whole}" for width, whole in zip(chosen.widths, dense.widths, strict=True)]
    texts = [f"{_counted(run, module)} {each}" for module, each in enumerate(kept)]
    names = [f"layer {module_of(m)[0]} {module_of(m)[1].value}" for m in range(len(shares))]
    header: tuple[str, ...] = ("module", "kept", "share")
    columns = [names, kept, [percent(share) for share in shares]]
    num_layers = len(dense.layers)
    above = [0.56, 1.0] if errors is not None else [0.0, 1.0]
    traces = [_map([100 * share for share in shares], texts, "theme:kept", "kept, %", 100.0, ".0f", above)]
    settings: dict[str, object] = {}
    about = f"The share of every block that is left: KV heads of attention, {run.counted} of the MLP. "
    if errors is not None:
        below = [0.0, 0.44]
        thousandths = [1000 * error for error in errors]
        most = max([*thousandths, 1e-6])
        traces.append({**_map(thousandths, texts, "theme:harm", "error, 10⁻³", most, ".2g", below), "yaxis": "y2"})
        settings["yaxis2"] = _rows(domain=below)
        header, columns = (*header, "reconstruction error, nats per token"), [*columns, [short(e) for e in errors]]
        about += (
            "Below it, what the reconstruction could not make up for in each block by itself, as the calibration "
            "estimates it, in thousandths of a nat per token."
        )
    else:
        about += "This run has kept no reconstruction errors."
    return Picture(
        name="cuts",
        title=_finding(run, dense, chosen, shares),
        about=about,
        traces=tuple(traces),
        layout=layout(
            axis("layer", dtick=1 if num_layers <= 2 * ROOM else 4, showgrid=False, zeroline=False, anchor="free"),
            _rows(domain=above),
            **settings,
        ),
        table=NumberTable(header, tuple(zip(*columns, strict=True))),
        height=380 if errors is not None else 240,
        wide=True,
    )


def _rows(**settings: object) -> dict[str, object]:
    return axis("", showgrid=False, zeroline=False, showline=False, autorange="reversed", **settings)


def _map(
    values: Sequence[float],
    texts: Sequence[str],
    colors: str,
    unit: str,
    most: float,
    written: str,
    domain: Sequence[float],
) -> Trace:
    """Make one heat map, layers from left to right; numbers stand in the cells where there is room."""
    return {
        "type": "heatmap",
        "z": [list(values[0::2]), list(values[1::2])],
        "y": list(BLOCKS),
        "text": [list(texts[0::2]), list(texts[1::2])],
        "zmin": 0,
        "zmax": most,
        "colorscale": colors,
        "xgap": 2,
        "ygap": 2,
        "texttemplate": f"%{{z:{written}}}" if len(values) <= 2 * ROOM else "",
        "hovertemplate": f"layer %{{x}}, %{{y}}<br>%{{z:{written}}}  {unit}<br>%{{text}}<extra></extra>",
        "colorbar": {
            "title": {"text": unit},
            "y": sum(domain) / 2,
            "len": domain[1] - domain[0],
            "thickness": 12,
            "outlinewidth": 0,
        },
    }


def _counted(run: Recorded, module: int) -> str:
    return "KV heads:" if module % 2 == 0 else f"{run.counted}:"


def _finding(run: Recorded, dense: Architecture, chosen: Architecture, shares: Sequence[float]) -> str:
    kept = [sum(chosen.widths[kind::2]) / max(sum(dense.widths[kind::2]), 1) for kind in (0, 1)]
    whole = f"{percent(kept[0], 0)} of all KV heads and {percent(kept[1], 0)} of all {run.counted} stay"
    gone = [module for module, share in enumerate(shares) if share == 0]
    untouched = [share for share in shares if share == 1]
    if gone:
        named = [f"{'attention' if m % 2 == 0 else 'MLP'} of layer {m // 2}" for m in gone]
        more = f" and {len(named) - 2} more" if len(named) > 3 else ""
        listed = ", ".join(named if len(named) <= 3 else named[:2])
        return f"{whole}; gone altogether: {listed}{more}"
    if len(set(shares[0::2])) == 1 and len(set(shares[1::2])) == 1:
        return f"{whole}, alike in every layer"
    least = min(range(len(shares)), key=lambda module: shares[module])
    kind = "attention" if least % 2 == 0 else "MLP"
    return (
        f"{whole}; most goes from the {kind} of layer {least // 2}, {len(untouched)} of {len(shares)} blocks stay whole"
    )
