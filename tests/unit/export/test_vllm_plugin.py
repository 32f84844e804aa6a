"""vLLM finds our plugin. It is not installed here: a stand-in holds what its registry is told; no more is shown."""

import ast
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

NAMES = {
    "SecateurLlamaForCausalLM",
    "SecateurMistralForCausalLM",
    "SecateurQwen2ForCausalLM",
    "SecateurQwen3ForCausalLM",
    "SecateurSmolLM3ForCausalLM",
    "SecateurStarcoder2ForCausalLM",
    "SecateurOlmo2ForCausalLM",
    "SecateurGemma2ForCausalLM",
    "SecateurGemma3ForCausalLM",
}


@pytest.fixture
def registered(monkeypatch):
    """What the entry point tells the registry of vLLM."""
    told = {}
    vllm = ModuleType("vllm")
    vllm.ModelRegistry = type("ModelRegistry", (), {"register_model": staticmethod(told.__setitem__)})
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    (plugin,) = [each for each in entry_points(group="vllm.general_plugins") if each.name == "secateur"]
    plugin.load()()
    return told


def test_the_entry_point_names_our_architectures(registered):
    assert set(registered) == NAMES


def test_what_it_names_is_there(registered):
    (target,) = set(registered.values())
    module, name = target.split(":")
    spec = find_spec(module)
    assert spec is not None
    classes = [node for node in ast.parse(Path(spec.origin).read_text()).body if isinstance(node, ast.ClassDef)]
    assert name in [each.name for each in classes]
