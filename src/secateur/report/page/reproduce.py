"""Everything that is needed to do a run again."""

from secateur.report.escaping import in_html
from secateur.report.figures.picture import NumberTable
from secateur.report.page.elements import card, grid, nothing, table
from secateur.report.recorded import Recorded


def reproduce_html(run: Recorded, command: str, config_yaml: str) -> str:
    """Write the command, the configuration, versions, seed, data and times."""
    seed = [("seed", str(run.config["seed"]))]
    versions = NumberTable(("what", "version"), (*seed, *run.versions.items()))
    tokens = run.report.num_tokens if run.report else {}
    data = NumberTable(
        ("set", "digest", "tokens"),
        tuple((name, mark, f"{tokens[name]:,}" if name in tokens else "") for name, mark in run.fingerprints.items()),
    )
    parts = [
        card(
            "The command",
            '<div class="row"><span>Model and texts by their last names; the rest is what differs from the '
            "defaults.</span>"
            '<button type="button" data-copies="command" hidden>Copy</button></div>'
            f'<pre class="wrapped"><code id="command">{in_html(command)}</code></pre>'
            "<p>A run is a function of its configuration, its data and the seed: the same command finds the same "
            "architecture.</p>",
            wide=True,
        ),
        card("Versions and seed", table(versions, "versions that made this run", whole=True)),
        card(
            "Data",
            table(data, "digests of the weights and of every token set", whole=True)
            if data.rows
            else nothing("not known yet"),
        ),
        card("Where the time went", _times(run.seconds), wide=True),
        card(
            "The whole configuration",
            "<details><summary>config.yaml, defaults included</summary>"
            f'<pre tabindex="0"><code>{in_html(config_yaml)}</code></pre></details>',
            wide=True,
        ),
    ]
    return grid(parts)


def _times(seconds: dict[str, float]) -> str:
    if not seconds:
        return nothing("No stage has ended yet.")
    most = max(seconds.values())
    lines = "".join(
        f'<span>{in_html(name)}</span><span><div class="bar" style="width:{100 * each / most:.1f}%"></div></span>'
        f'<span class="seconds">{duration(each)}</span>'
        for name, each in seconds.items()
    )
    return f'<div class="bars">{lines}</div>'


def rough(seconds: float) -> str:
    """Write a time in one unit: `18 min`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}" if seconds < 10 * length else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """Write a time as people say it: `1 h 12 min`, `3 min 5 s`, `4.2 s`."""
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s"
