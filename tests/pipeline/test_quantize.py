"""Quantising what a run has exported: smaller, as good, and loadable by others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_runs import Finished, Invoke, assert_refused
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from secateur.export.quantized import load_plain, load_quantized, quantized_card

pytestmark = pytest.mark.filterwarnings("ignore")
pytest.importorskip("torchao", reason="torchao is missing: pip install 'secateur[quantize]'")


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.root, tmp_path / "run"))


def test_an_export_is_quantised_beside_itself_and_held_to_what_was_measured(invoke: Invoke, copied: Path) -> None:
    result = invoke("export", copied, "--quantize", "int8")
    assert result.exit_code == 0, result.output
    assert "on bfloat16" in result.stdout
    folder = copied / "exported-int8"
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    assert "Quantised to int8" in (folder / "README.md").read_text()
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    before = AutoModelForCausalLM.from_pretrained(copied / "exported", dtype=torch.float32)
    tokens = torch.randint(100, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        log_p, log_q = (model(tokens).logits.float().log_softmax(-1) for model in (before, loaded))
    assert float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) < 0.01 * float(-(log_p.exp() * log_p).sum(-1).mean())
    assert_refused(invoke("export", copied, "--quantize", "int8"), "is not empty", "--out")


def test_the_file_of_a_model_whose_layers_are_most_of_it_is_a_little_over_half(tmp_path: Path) -> None:
    """On this one, perplexity is not the question: weights are random."""
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    plain, quantized = load_plain(tmp_path / "model"), load_quantized(tmp_path / "model")
    plain.save_pretrained(tmp_path / "plain")
    quantized.save_pretrained(tmp_path / "quantized")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("quantized", "plain")]
    assert 0.5 < sizes[0] / sizes[1] < 0.6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("--point K", "--quantize int8")),
        (("--quantize", "int3"), ("int3 is unknown", "int8")),
        (("--quantize", "int8", "--point", "99"), ("--point 99",)),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    invoke: Invoke, copied: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(invoke("export", copied, *arguments), *words)


def test_a_gguf_file_is_left_to_the_tool_of_llama_cpp(invoke: Invoke, copied: Path) -> None:
    (copied / "exported" / "config.json").unlink()
    assert_refused(invoke("export", copied, "--quantize", "int8"), "GGUF", "llama.cpp's own tool")


def test_the_card_says_so_under_its_title() -> None:
    card = quantized_card("---\ntags: [x]\n---\n\n# A model\n\nMade by us.\n", "int8", "as good")
    assert card.startswith("---\ntags: [x]\n---\n\n# A model\n\nQuantised to int8")
    assert card.endswith("as good.\n\nMade by us.\n")
