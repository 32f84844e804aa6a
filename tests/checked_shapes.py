"""Shapes and types are checked at every call, in modules that say shapes.

Elsewhere, in loops of plain Python, the checks would take longer than what they check, and mypy has seen the types.
Imported before anything of Secateur.
"""

from pathlib import Path

from jaxtyping import install_import_hook

SOURCE = Path(__file__).parents[1] / "src"
CHECKED = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in SOURCE.rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(CHECKED, "beartype.beartype")
