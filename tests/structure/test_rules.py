"""Rules that hold for the whole of the source."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import secateur

PACKAGE = Path(secateur.__file__).parent
ROOT = Path(__file__).parents[2]
SOURCES = sorted(PACKAGE.rglob("*.py"))
# Libraries that are imported where they are used, since they may not be there.
EXTRAS = {"datasets", "lm_eval", "peft", "optuna", "bitsandbytes", "llama_cpp", "vllm", "torch.utils.tensorboard"}
EXTRAS |= {"mlflow", "trackio", "wandb", "ray"}
IDS = [str(path.relative_to(PACKAGE)) for path in SOURCES]


def test_imports_go_one_way():
    """The contracts are in pyproject.toml."""
    lint = Path(sys.executable).with_name("lint-imports")
    completed = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "0 broken" in completed.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_benchmarks_import_is_there(path):
    """No other test runs them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("secateur"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_room_has_its_place_in_the_order_of_imports():
    import tomllib

    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = " | ".join(contracts[0]["layers"]).split(" | ")
    rooms = {
        f"secateur.{path.stem}"
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"secateur.__init__", "secateur.__main__"} == set(layers)


@pytest.mark.parametrize(
    "module", ["secateur", "secateur.cli", "secateur.demo", "secateur.errors", "secateur.config", "secateur.presets"]
)
def test_asking_for_help_loads_no_heavy_library(module):
    heavy = ("torch", "transformers", "lightgbm", "scipy")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
class TestEveryFile:
    def test_is_short_enough_to_be_one_concept(self, path):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400

    def test_says_what_it_is_for(self, path):
        text = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)) or path.name == "__main__.py"

    def test_has_the_name_of_a_concept(self, path):
        vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
        assert not vague & {part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts}

    def test_reads_and_writes_no_pickles(self, path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & {
                    name.split(".")[0] for name in names
                }
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load", "numpy.load")

    def test_does_nothing_when_it_is_imported(self, path):
        """No logging set-up, no seed, no probing of devices: at the top level things are only defined.

        But `import secateur` makes transformers know its classes.
        """
        if path.name == "__main__.py" or path == PACKAGE / "__init__.py":
            return
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            called = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not called, f"line {node.lineno}: {ast.unparse(node)}"
            assert not isinstance(node, ast.For | ast.While | ast.With), f"line {node.lineno}"

    def test_catches_no_exception_silently(self, path):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"line {node.lineno}: bare except"
                assert not all(isinstance(each, ast.Pass) for each in node.body), f"line {node.lineno}: silent pass"

    def test_imports_at_the_top(self, path):
        """Except in the command line, where transformers waits to be imported, and around an extra."""
        if path.parent.name == "cli" or path.name == "registration.py":
            return
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import | ast.ImportFrom):
                        names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                        assert (names | {name.split(".")[0] for name in names}) & EXTRAS, f"line {node.lineno}"
