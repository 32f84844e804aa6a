"""The top of the page: what was made of which model, in one sentence and a few numbers."""

from secateur.report.escaping import in_html
from secateur.report.figures.picture import percent, short
from secateur.report.figures.speed import size
from secateur.report.page.reproduce import rough
from secateur.report.recorded import Recorded
from secateur.report.table import budget_title

SHEARS = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" '
    'stroke-linejoin="round" aria-hidden="true"><circle cx="6" cy="18.5" r="2.6"/><circle cx="18" cy="18.5" r="2.6"/>'
    '<path d="M7.4 16.3 15.6 3.2M16.6 16.3 8.4 3.2"/></svg>'
)


def title_of(run: Recorded) -> str:
    """Name the page."""
    result = run.result
    if result is not None:
        return f"{run.model}, pruned to {percent(1 - result.parameter_reduction)} of its decoder parameters"
    return f"{run.model}, being pruned"


def opening_html(run: Recorded) -> str:
    """Write the header."""
    unfinished = "" if run.report is not None else _unfinished(run)
    tiles = "".join(_tile(*each) for each in (_tiles(run) if run.rows else _early_tiles(run)))
    return f"""<header class="top"><div class="wrap">
<div class="brand">{SHEARS}<strong>Secateur</strong>
<span class="run">run {in_html(run.name)}, method {in_html(run.method)}</span>
<span class="space"></span><button type="button" id="theme" hidden>Dark theme</button></div>
<h1>{in_html(title_of(run))}</h1>
<p class="lead">{_lead(run)}</p>
{unfinished}
<p class="notice" id="undrawn" role="alert" hidden></p>
<ul class="tiles">{tiles}</ul>
<noscript><p class="notice">Figures need JavaScript; the tables below each of them hold the same numbers.</p></noscript>
</div></header>"""


def _lead(run: Recorded) -> str:
    """Say the result in a sentence or two. Only numbers stand in it as they are."""
    dense, result = run.row("dense"), run.result
    if dense is None or result is None:
        return (
            f"{len(run.measurements)} architectures have been measured so far; everything below is what is known by "
            "now."
        )
    change = result.perplexity.value / dense.perplexity.value - 1
    text = (
        f"Perplexity is <b>{result.perplexity.value:.2f}</b>, the dense model has {dense.perplexity.value:.2f} "
        f"(<b>{100 * change:+.1f} %</b>), on text that chose nothing, {_trained(run)}."
    )
    rivals = [row for row in run.rows if row.name.startswith("uniform")]
    if rivals:
        best = min(rivals, key=lambda row: row.perplexity.value)
        text += (
            f" Cutting every layer alike to {percent(1 - best.parameter_reduction)} comes to "
            f"{best.perplexity.value:.2f}."
        )
    if run.report is not None:
        text += f" Asked for: {in_html(budget_title(run.report))}."
    return text


def _trained(run: Recorded) -> str:
    pruned = run.row("secateur")
    if run.recovery is None or pruned is None:
        return "without any training"
    return f"after a short training; the pruned model has {pruned.perplexity.value:.2f} before it"


def _tiles(run: Recorded) -> list[tuple[str, str, str, bool]]:
    dense, result = run.row("dense"), run.result
    if dense is None or result is None:
        return _early_tiles(run)
    measured = run.report.num_measurements if run.report else len(run.measurements)
    interval = f"{result.perplexity.low:.2f} to {result.perplexity.high:.2f}"
    tiles = [
        (
            "decoder kept",
            percent(1 - result.parameter_reduction),
            f"{result.cost.decoder_parameters:,} parameters",
            True,
        ),
        ("perplexity", f"{result.perplexity.value:.3f}", f"{interval}", False),
        ("KL to dense", short(result.kl), "nats per token", False),
        (
            "KV cache",
            percent(result.cost.kv_cache_bytes_per_token / max(dense.cost.kv_cache_bytes_per_token, 1)),
            "of dense, per token",
            False,
        ),
        ("measured", f"{measured:,}", "architectures", False),
        ("time", rough(sum(run.seconds.values())), "all stages", False),
    ]
    if run.report is not None:
        export = run.report.export
        tiles.append(("exported", size(export.bytes), f"as {export.dtype}", False))
    return tiles


def _early_tiles(run: Recorded) -> list[tuple[str, str, str, bool]]:
    tiles = [("measured", f"{len(run.measurements):,}", f"{run.num_failed} failed", False)]
    if run.best is not None:
        kept = run.kept(run.best.architecture)
        tiles.insert(0, ("best KL so far", short(run.best.kl or 0.0), "nats per token, selection set", True))
        tiles.append(("kept by the best", percent(kept or 0.0), "decoder parameters", False))
    tiles.append(("time so far", rough(sum(run.seconds.values())), "finished stages", False))
    return tiles


def _tile(name: str, value: str, more: str, own: bool) -> str:
    return (
        f'<li class="tile{" own" if own else ""}"><div class="name">{in_html(name)}</div>'
        f'<div class="value">{in_html(value)}</div><div class="more">{in_html(more)}</div></li>'
    )


def _unfinished(run: Recorded) -> str:
    return (
        '<p class="notice">This run has not ended. Go on with <code>secateur resume '
        f"{in_html(run.name)}</code>; <code>secateur report {in_html(run.name)}</code> draws this page anew at any "
        "time.</p>"
    )
