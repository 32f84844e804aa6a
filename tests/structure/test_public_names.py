"""What `import secateur` offers: exactly what is documented, and nothing heavy until it is asked for."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import secateur

ROOT = Path(__file__).parents[2]
SOURCE = ast.parse((ROOT / "src/secateur/__init__.py").read_text())


def test_all_that_is_public_is_there_and_told_to_type_checkers() -> None:
    imported = {alias.name for node in ast.walk(SOURCE) if isinstance(node, ast.ImportFrom) for alias in node.names}
    internal = {"import_module", "TYPE_CHECKING", "Any", "register_with_transformers"}
    assert set(secateur.__all__) == imported - internal == set(secateur._MODULE_OF)
    assert secateur.__all__ == sorted(secateur.__all__)
    assert all(getattr(secateur, name) is not None for name in secateur.__all__)
    assert set(secateur.__all__) <= set(dir(secateur))
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = secateur.prun


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing the module would put it in the name's place."""
    rooms = {path.stem for path in (ROOT / "src/secateur").iterdir()}
    assert not rooms & set(secateur.__all__)


def test_every_public_function_and_class_is_documented() -> None:
    page = (ROOT / "docs/python.md").read_text()
    for name in secateur.__all__:
        public = getattr(secateur, name)
        if inspect.isfunction(public) or inspect.isclass(public):
            assert inspect.getdoc(public), name
        if inspect.isfunction(public) and public.__module__.startswith("secateur.api"):
            assert re.search(rf"\b{name}\b", page), f"docs/python.md does not mention {name}"
    named = set(re.findall(r"\bsecateur\.([a-z_]+|[A-Z]\w+)\b", page))
    assert named <= set(secateur.__all__), "docs/python.md names what is not there"


def test_asking_for_an_error_or_the_text_generator_loads_no_heavy_library() -> None:
    code = "import sys, secateur; secateur.ConfigError; secateur.decoder_path(); print('torch' in sys.modules)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "False"
