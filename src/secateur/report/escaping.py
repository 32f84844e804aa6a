"""Text that comes from names and data, made harmless: in HTML, in JSON inside a script, and in plotly's labels."""

import html
import json
from typing import Any

# Longer names are no names.
MOST_CHARACTERS = 120


def in_html(text: object) -> str:
    """Escape for an element's content or a quoted attribute."""
    return html.escape("".join(_visible(letter) for letter in str(text)), quote=True)


def in_label(text: object) -> str:
    """Escape for plotly, whose labels know tags and whose templates know `%{...}`; long text is cut."""
    whole = str(text)
    short = whole if len(whole) <= MOST_CHARACTERS else whole[: MOST_CHARACTERS - 1] + "…"
    return in_html(" ".join(short.split())).replace("{", "&#123;").replace("$", "&#36;")


def in_script(value: Any) -> str:
    """Write JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _visible(letter: str) -> str:
    """Replace what is no character of a document: controls, and halves of surrogate pairs."""
    return letter if letter in "\n\t" or ((letter.isprintable() or letter.isspace()) and letter != "\0") else "�"
