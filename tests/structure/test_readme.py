"""The README says what is there: every file is on its map, every flag and setting that it names exists."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from secateur.cli import app
from secateur.config import RunConfig

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAP = README.split("## File map")[1].split("```")[1]


def test_every_file_is_on_the_map() -> None:
    package = ROOT / "src" / "secateur"
    files = [path for path in package.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    missing = [
        str(path.relative_to(package))
        for path in files
        if "demo" not in path.parts and not re.search(rf"\b{path.name}\b", MAP)
    ]
    assert missing == []


def test_every_file_on_the_map_is_there() -> None:
    present = {path.name for path in ROOT.rglob("*") if ".venv" not in path.parts}
    assert [name for name in re.findall(r"[\w-]+\.(?:py|md)\b", MAP) if name not in present] == []


def test_every_flag_in_the_readme_exists() -> None:
    commands = get_command(app).commands.values()  # type: ignore[attr-defined]
    known = {flag for command in commands for parameter in command.params for flag in parameter.opts}
    of_the_product = "\n".join(line for line in README.splitlines() if "benchmarks/" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", of_the_product)) <= known | {
        "--help",
        "--version",
        "--install-completion",
    }


SECTIONS = "|".join(RunConfig.model_fields)


@pytest.mark.parametrize("setting", sorted(set(re.findall(rf"`((?:{SECTIONS})\.[a-z_]+)`", README))))
def test_every_setting_in_the_readme_exists(setting: str) -> None:
    section, field = setting.split(".")
    assert field in type(getattr(RunConfig(), section)).model_fields


def test_defaults_in_the_readme_are_the_defaults() -> None:
    rows = re.findall(r"^\| `([a-z]+)\.([a-z_]+)` \| `?([\w.]+)`? \|", README, flags=re.MULTILINE)
    assert len(rows) >= 6
    for section, field, shown in rows:
        assert str(getattr(getattr(RunConfig(), section), field)) == shown, (section, field)
