"""How the command line greets, explains and corrects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import Invoke, assert_refused

from secateur.config import RunConfig, build_config, read_yaml, to_yaml


def test_alone_it_names_three_commands_and_where_the_rest_is(invoke: Invoke) -> None:
    result = invoke()
    assert result.exit_code == 0
    commands = [line for line in result.stdout.splitlines() if line.startswith("  secateur ")]
    assert [line.split()[1] for line in commands] == ["plan", "prune", "evaluate"]
    assert "secateur --help" in result.stdout


def test_help_lists_every_verb_with_a_whole_sentence(invoke: Invoke) -> None:
    shown = invoke("--help").stdout
    assert "..." not in shown.split("Commands:")[1]
    assert "Check a configuration and print it whole, defaults included." in " ".join(shown.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prnue",), ("no such command 'prnue'. Did you mean 'prune'?", "see secateur --help")),
        (("prune", "demo", "--kep", "0.5"), ("no such option: --kep", "--keep", "see secateur prune --help")),
        (("show",), ("missing argument 'DIR'", "see secateur show --help")),
        (("prune", "demo", "--keep", "much"), ("'--keep'", "'much'")),
        (("prune",), ("no model was given", "secateur prune MODEL")),
        (("config", "nowhere.yaml"), ("'nowhere.yaml' cannot be read",)),
        (("show", "away" * 99), ("is too long for a path", "give a shorter one")),
    ],
)
def test_a_mistake_gets_one_line(invoke: Invoke, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_refused(invoke(*arguments), *words)


def test_a_written_configuration_runs_as_it_is(invoke: Invoke, small_config: RunConfig, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    text = small_config.data.sources[0]
    written = invoke("init", file, "--model", small_config.model.name, "--keep", 0.6, "--data", text)
    assert written.exit_code == 0, written.output
    assert f"secateur prune --config {file}" in written.stdout
    assert build_config([read_yaml(file)]).budget.keep == 0.6
    assert_refused(invoke("init", file), "exists already")
    file.write_text(file.read_text() + "\nserch:\n  rounds: 1\n")
    assert_refused(invoke("prune", "--config", file, "--out", tmp_path / "out"), "'serch'", "did you mean 'search'?")
    assert not (tmp_path / "out").exists()


def test_a_configuration_is_checked_and_printed_whole(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("search: {measurements: 50}\n")
    assert invoke("config", file).stdout == to_yaml(build_config([{"search": {"measurements": 50}}]))
    assert json.loads(invoke("config", "--schema").stdout)["properties"]["search"]
    file.write_text("search: {measurements: few}\n")
    assert_refused(invoke("config", file), "search.measurements='few'")


def test_doctor_says_what_is_there_and_what_an_extra_would_add(invoke: Invoke) -> None:
    shown = invoke("doctor")
    assert shown.exit_code == 0, shown.output
    for word in ("torch", "transformers", "GiB free", "bfloat16", "threads", "extras", "gguf"):
        assert word in shown.stdout
    assert json.loads(invoke("doctor", "--json").stdout)["versions"]["torch"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("secateur prune demo --preset puz", "puzzle"),
        ("secateur prune demo --set search.meas", "search.measurements="),
        ("secateur prune demo --target per", "per-layer"),
        ("secateur ex", "export"),
    ],
)
def test_a_shell_completes_what_secateur_knows(typed: str, offered: str) -> None:
    environment = os.environ | {
        "_SECATEUR_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    command = Path(sys.executable).with_name("secateur")
    completed = subprocess.run([command], env=environment, capture_output=True, text=True, check=False)
    assert completed.stdout.split() == [offered]


def test_help_waits_for_nothing_heavy() -> None:
    """Its time is that of what it imports: no library that takes longer than all the rest (benchmarks/startup.py)."""
    heavy = "('torch', 'transformers', 'pydantic', 'rich', 'yaml')"
    check = f"import sys, secateur.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
