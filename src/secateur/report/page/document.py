"""`report.html`, put together: one file, nothing fetched, and nothing run but the page's own script."""

import base64
import hashlib
import math
from importlib.resources import files
from pathlib import Path
from typing import Any

from secateur.report.escaping import in_html, in_script
from secateur.report.figures.themes import THEMES
from secateur.report.page.opening import opening_html, title_of
from secateur.report.page.plotly_source import packed_plotly
from secateur.report.page.sections import NAMES, Sections
from secateur.report.recorded import Recorded
from secateur.runs.folder import written_whole

# Digits that count; more make the page larger and no picture finer.
DIGITS = 6


def write_page(run: Recorded, command: str, config_yaml: str, path: Path) -> None:
    """Write the report of a run.

    Args:
        command: That makes the run again.
        config_yaml: Its whole configuration.
    """
    with written_whole(path) as partial:
        partial.write_text(page_html(run, command, config_yaml), encoding="utf-8")


def page_html(run: Recorded, command: str, config_yaml: str) -> str:
    """Give the whole page."""
    sections = Sections(run, command, config_yaml)
    content = sections.html()
    figures = {
        "figures": {picture.name: rounded(picture.figure) for picture in sections.pictures},
        "architectures": sections.known.widths,
        "dense": run.dense.widths if run.dense else None,
        "themes": THEMES,
    }
    script = _own("page.js")
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in NAMES.items())
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<title>{in_html(title_of(run))} | Secateur</title>
<style>{_own("style.css")}</style>
</head>
<body>
<a class="skip" href="#main">To the content</a>
{opening_html(run)}
<nav aria-label="Parts of the report"><div class="wrap"><ul>{links}</ul></div></nav>
<main id="main">
{content}
</main>
<footer><div class="wrap">Made by Secateur {in_html(run.versions.get("secateur", ""))}. The same numbers for machines:
report.json, front.json and run.db in the run folder.</div></footer>
<script type="application/json" id="figures">{in_script(figures)}</script>
<script type="text/plain" id="plotly">{packed_plotly()}</script>
<script>{script}</script>
</body>
</html>
"""


def rounded(value: Any) -> Any:
    """Round numbers to what can be seen; what is no number, where one has diverged, is left out."""
    if isinstance(value, dict):
        return {name: rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _own(name: str) -> str:
    return files("secateur.report.page").joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Let the page's script run, by its digest, and what it makes of plotly; nothing else, and no address is opened."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
