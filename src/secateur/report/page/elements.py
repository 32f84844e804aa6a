"""Building blocks of the page. All text that goes in is plain and is escaped here."""

from collections.abc import Iterable, Sequence

from secateur.report.escaping import in_html
from secateur.report.figures.picture import NumberTable, Picture


def table(numbers: NumberTable, caption: str = "", own: str | None = None, *, whole: bool = False) -> str:
    """Write a table that scrolls inside itself.

    Args:
        own: First cell of the row to set off.
        whole: Show all of it at once.
    """
    head = "".join(f'<th scope="col">{in_html(each)}</th>' for each in numbers.header)
    lines = []
    for row in numbers.rows:
        cells = "".join(f"<td{_long(cell)}>{in_html(cell)}</td>" for cell in row[1:])
        mark = ' class="own"' if own is not None and row[0] == own else ""
        lines.append(f'<tr{mark}><th scope="row">{in_html(row[0])}</th>{cells}</tr>')
    said = f"<caption>{in_html(caption)}</caption>" if caption else ""
    kind = "scroll whole" if whole else "scroll"
    label = in_html(caption or "numbers")
    return (
        f'<div class="{kind}" tabindex="0" role="region" '
        f'aria-label="{label}"><table>{said}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _long(cell: str) -> str:
    return ' class="long"' if len(cell) > 40 else ""


def figure(picture: Picture) -> str:
    """Write a figure: its finding, the place where it is drawn, how to read it, and its numbers."""
    name = in_html(picture.name)
    wide = ' class="wide"' if picture.wide else ""
    label = in_html(f"{picture.title}. The numbers are in the table below.")
    return f"""<figure{wide} id="figure-{name}" aria-labelledby="title-{name}">
<h3 id="title-{name}">{in_html(picture.title)}</h3>
<div class="plot" data-figure="{name}" style="min-height:{picture.height}px" role="img" aria-label="{label}"></div>
<figcaption>{in_html(picture.about)}</figcaption>
<details><summary>The numbers as a table</summary>{table(picture.table, picture.title)}</details>
</figure>"""


def grid(parts: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(parts)}</div>'


def nothing(text: str) -> str:
    """Say in one line that there is nothing to show, and why."""
    return f'<p class="none">{in_html(text)}</p>'


def card(title: str, content: str, wide: bool = False) -> str:
    return f'<div class="card{" wide" if wide else ""}"><h3>{in_html(title)}</h3>{content}</div>'


def section(name: str, title: str, intro: str, content: str) -> str:
    """Write one part of the page."""
    return f"""<section id="{name}" aria-labelledby="h-{name}"><div class="wrap">
<h2 id="h-{name}">{in_html(title)}</h2>
<p class="intro">{in_html(intro)}</p>
{content}
</div></section>"""


def words(lines: Sequence[str]) -> str:
    return f'<ul class="words">{"".join(f"<li>{in_html(line)}</li>" for line in lines)}</ul>'
