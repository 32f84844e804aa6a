"""The pages say what is there: commands, settings, messages and the site's navigation."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
import pytest
import yaml
from typer.main import get_command

from secateur.cli import app
from secateur.config import RunConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Experiments and decisions say what was true on their day.
OF_THEIR_DAY = [DOCS / "log.md", *(DOCS / "adr").glob("0*.md")]
PAGES = sorted(path for path in DOCS.rglob("*.md") if path not in OF_THEIR_DAY)
IDS = [str(path.relative_to(DOCS)) for path in PAGES]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def load_hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = load_hooks()


def commands_of(path: Path) -> Iterator[list[str]]:
    """Give the words of every `secateur VERB ...`, in blocks and in the text."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    written = [line for block in blocks for line in block.splitlines()]
    written += re.findall(r"(?<!`)`(secateur [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in written:
        if line.startswith("secateur "):
            # Words in the place of which something else is to be put may be in brackets of any kind.
            yield shlex.split(line.replace("[", "").replace("]", ""), comments=True)[1:]


def known_flags(verb: str | None) -> set[str]:
    """Give the flags of a verb, or those of `secateur` itself."""
    line = get_command(app)
    command = line if verb is None else line.commands[verb]  # type: ignore[attr-defined]
    return {flag for parameter in command.params for flag in parameter.opts} | {"--help"}


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=[*IDS, "README.md"])
def test_commands_in_the_docs_exist(path: Path) -> None:
    for words in commands_of(path):
        verb = None if words[0].startswith("--") else words[0]
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known_flags(verb), words
        for flag, value in pairwise(words):
            if flag == "--set" and "=" in value:
                section, _, field = value.partition("=")[0].partition(".")
                assert field in type(getattr(RunConfig(), section)).model_fields, value


def test_commands_are_found_in_the_docs() -> None:
    found = [words for path in PAGES for words in commands_of(path)]
    assert len(found) > 30
    assert {words[0] for words in found} >= {"prune", "resume", "show", "export", "evaluate", "compare"}


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_settings_in_the_docs_exist(path: Path) -> None:
    sections = "|".join(name for name in RunConfig.model_fields if name != "seed")
    for section, field in re.findall(rf"`({sections})\.([a-z_]+)(?=[=`])", path.read_text(encoding="utf-8")):
        # Files and keys of report.json may be written alike.
        known = type(getattr(RunConfig(), section)).model_fields
        assert field in known or (section, field) in {("export", "bytes"), ("recovery", "json")}, f"{section}.{field}"


def paths_of(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for each in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from paths_of(each)


def test_the_navigation_has_every_page() -> None:
    listed = sorted(paths_of(SITE["nav"]))
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert listed == sorted(page for page in pages if not re.match(r"adr/0", page))
    decisions = HOOKS.decisions()
    assert [page for page in pages if re.match(r"adr/0", page) and Path(page).name not in decisions] == []


def test_a_page_that_fetches_something_is_refused() -> None:
    assert (
        HOOKS.fetched('<a href="https://arxiv.org/abs/2309.09507">x</a><script src="assets/bundle.js"></script>') == []
    )
    assert HOOKS.fetched('<script async src="https://unpkg.com/shim"></script>') == ["https://unpkg.com/shim"]
    assert HOOKS.fetched('<link rel="stylesheet" href="https://fonts.example/css">') == ["https://fonts.example/css"]
    assert SITE["theme"]["font"] is False
    assert SITE["strict"] is True


def directives() -> list[tuple[str, str, str]]:
    found = ((path, HOOKS.DIRECTIVE.findall(path.read_text(encoding="utf-8"))) for path in DOCS.rglob("*.md"))
    return [(path.name, kind, argument) for path, each in found for kind, argument in each]


def test_every_setting_is_on_a_page_with_its_default() -> None:
    made = "\n".join(HOOKS.make(kind, argument) for _, kind, argument in directives() if kind == "options")
    for section, field in RunConfig.model_fields.items():
        for name, each in getattr(field.annotation, "model_fields", {}).items():
            shown = HOOKS.shown(each.get_default(call_default_factory=True))
            assert f"| `{section}.{name}` | {shown} |" in made, f"{section}.{name}"


@pytest.mark.parametrize(("page", "kind", "argument"), directives())
def test_what_pages_ask_for_can_be_made(page: str, kind: str, argument: str) -> None:
    assert len(HOOKS.make(kind, argument)) > 40, page


def test_a_setting_that_is_not_there_is_no_row() -> None:
    with pytest.raises(KeyError):
        HOOKS.options_table("search", ["mesurements"])
    with pytest.raises(ValueError, match="headings"):
        HOOKS.readme_section("How it does not work")


def test_a_table_says_what_a_setting_may_be() -> None:
    [row] = HOOKS.options_table("drop", ["confidence"]).splitlines()[2:]
    assert row.startswith("| `drop.confidence` | `0.95` | with which the drop holds")
    assert row.endswith("| a number, > 0.5, < 1 |")
    assert "`none`, `bias`, `least_squares`, `sequential`" in HOOKS.options_table("pruning", ["reconstruction"])


def test_pages_are_linked_where_they_are_named() -> None:
    assert HOOKS.linked("see `docs/report.md`", "stages/load.md") == "see [`docs/report.md`](../report.md)"
    assert HOOKS.linked("see `docs/nowhere.md`", "stages/load.md") == "see `docs/nowhere.md`"


def test_the_reference_says_what_fields_are() -> None:
    extensions = griffe.load_extensions(str(DOCS / "griffe_fields.py"))
    budget = griffe.load("secateur.budget", search_paths=[ROOT / "src"], extensions=extensions)
    band = budget["BudgetConfig"]["band"]
    assert band.docstring.value == type(RunConfig().budget).model_fields["band"].description
    assert band.value == "0.003"


def said_in_the_source() -> str:
    """Give all strings of the package, with `…` in the place of what is put into them."""
    said = []
    for path in (ROOT / "src" / "secateur").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                said.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.append(node.value)
    return "\n".join(said)


SAID = said_in_the_source()
MESSAGE = re.compile(r"^\| (`+)(.+?)\1 \|", flags=re.MULTILINE)


@pytest.mark.parametrize(
    "path", [path for path in PAGES if "## What can go wrong" in path.read_text()], ids=lambda p: p.stem
)
def test_messages_in_the_docs_are_those_of_the_program(path: Path) -> None:
    section = path.read_text(encoding="utf-8").split("## What can go wrong")[1].split("\n## ")[0]
    for _, message in MESSAGE.findall(section):
        if message != "message":
            # Quotes around what is put in are the program's.
            assert all(part.strip(" '") in SAID for part in message.split("…")), message
            assert max(map(len, message.split("…"))) > 12, f"{message}: says too little to be found"
