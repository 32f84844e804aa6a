"""plotly's own script, from the installed package, small and quick enough to lie inside the page."""

import base64
import gzip
import re
from functools import cache
from importlib.resources import files

# Kinds of trace besides plotly's core, scatter, that the figures of the report are made of.
KINDS = ("bar", "heatmap")
# Where a kind says its name, counted from the beginning of its module.
HEAD = 4_000
FORWARDS = re.compile(r'[\w$]+\(\([^)]*\)=>\{"use strict";[\w$]+\.exports=([\w$]+)\(\)')
NAMED = re.compile(r'moduleType:"trace",name:"(\w+)"')
REGISTERED = re.compile(r"\.register\(\[((?:[\w$]+\(\),)*[\w$]+\(\))\]\)")


@cache
def packed_plotly() -> str:
    """Give plotly.min.js, compressed and in base64: 4.8 MB become 2.0, and a browser unpacks them in a moment.

    The same bytes come from the same version.
    """
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    return base64.b64encode(gzip.compress(quick(script).encode(), compresslevel=9, mtime=0)).decode("ascii")


def quick(script: str) -> str:
    """Let plotly start only the kinds of trace that are needed: a third of the time, most of which maps and 3D take.

    The bundle is a module per kind, each run when it is first called, and one call that registers them all; the modules
    stay, the calls go. A bundle that is built otherwise is left as it is.
    """
    # From the end, where the call is.
    called = REGISTERED.search(script, max(script.rfind(".register(["), 0))
    if called is None:
        return script
    kept = [each for each in called[1].split(",") if _kind(script, each.removesuffix("()")) in KINDS]
    if len(kept) != len(KINDS):
        return script
    return script[: called.start(1)] + ",".join(kept) + script[called.end(1) :]


def _kind(script: str, module: str) -> str | None:
    """Give the name of the trace that a module of the bundle registers; None where it cannot be told."""
    forwards = FORWARDS.match(script, _defined(script, module))
    begins = _defined(script, forwards[1]) if forwards else 0
    named = NAMED.search(script, begins, begins + HEAD) if begins else None
    return named[1] if named else None


def _defined(script: str, module: str) -> int:
    """Give the place behind `module=`; 0 if there is none. A pattern would take seconds for a bundle of megabytes."""
    place = script.find(f"{module}=")
    while place > 0 and (script[place - 1].isalnum() or script[place - 1] in "_$"):
        place = script.find(f"{module}=", place + 1)
    return place + len(module) + 1 if place > 0 else 0
