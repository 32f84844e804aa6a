"""Whole runs for other targets than transformers with a modelling file."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Finished, assert_counted, finish
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from secateur.config import RunConfig, build_config, resolve
from secateur.space.architecture import Architecture
from tiny import sentencepiece_tokenizer


def run_for(target: str, small_settings: dict[str, Any], root: Path, model: Path, text: str) -> Finished:
    layers = [
        small_settings,
        {"model": {"name": str(model)}, "data": {"sources": [text]}, "export": {"target": target}},
    ]
    return finish(resolve(build_config([*layers, {"baselines": {"uniform": False}}])), root)


def alike(architecture: Architecture) -> bool:
    return len({layer for layer in architecture.layers if layer.kv_heads or layer.ffn_width}) == 1


@pytest.mark.parametrize("target", ["uniform", "per-layer"])
def test_a_run_says_what_layers_alike_cost(
    small_settings: dict[str, Any], small_config: RunConfig, tmp_path: Path, target: str
) -> None:
    """Of the space that was not asked for a little is measured too, in the same way."""
    model, text = Path(small_config.model.name), small_config.data.sources[0]
    settings = small_settings | {"search": small_settings["search"] | {"alternative_measurements": 25}}
    run = run_for(target, settings, tmp_path / "run", model, text)
    record = run.report.uniformity
    assert record is not None
    assert alike(record.uniform.architecture)
    assert not alike(record.per_layer.architecture)
    chosen, other = (record.uniform, record.per_layer)[:: 1 if target == "uniform" else -1]
    measured = {(m.architecture.key, m.protocol): m.kl for m in run.measurements}
    assert {chosen.kl, chosen.sliced} == {kl for (key, _), kl in measured.items() if key == chosen.architecture.key}
    assert {other.kl, other.sliced} == {kl for (key, _), kl in measured.items() if key == other.architecture.key}
    assert chosen.num_measurements == run.report.num_measurements
    assert 0 < other.num_measurements <= 25
    assert_counted(run)
    if target == "uniform":
        export = run.report.export
        assert not export.remote_code
        loaded = AutoModelForCausalLM.from_pretrained(run.root / "exported", dtype=torch.float32)
        assert alike(run.report.choice.architecture)
        assert sum(p.numel() for p in loaded.parameters()) == run.report.row("secateur").cost.total_parameters


@pytest.mark.slow
def test_padded_models_are_stock_ones_and_the_report_says_what_the_zeros_cost(
    small_settings: dict[str, Any], small_config: RunConfig, tmp_path: Path
) -> None:
    model, text = Path(small_config.model.name), small_config.data.sources[0]
    run = run_for("padded", small_settings, tmp_path / "run", model, text)
    export = run.report.export
    loaded = AutoModelForCausalLM.from_pretrained(run.root / "exported", dtype=torch.float32)
    assert type(loaded) is LlamaForCausalLM
    assert not export.remote_code
    pruned = run.report.row("secateur").cost.total_parameters
    assert export.num_parameters == pruned + export.added_parameters == sum(p.numel() for p in loaded.parameters())
    assert export.added_parameters > 0
    assert f"{export.added_parameters:,} zeros" in (run.root / "exported" / "README.md").read_text()


def test_a_gguf_run_leaves_one_file_and_how_to_load_it(
    small_settings: dict[str, Any], small_config: RunConfig, tmp_path: Path
) -> None:
    pytest.importorskip("gguf", reason="the gguf package is missing: pip install 'secateur[gguf]'")
    tokenizer = sentencepiece_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=4,
        max_position_embeddings=128,
        initializer_range=0.25,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    text = small_config.data.sources[0]
    run = run_for("gguf", small_settings, tmp_path / "run", tmp_path / "decoder", text)
    assert {path.name for path in (run.root / "exported").iterdir()} == {"model.gguf", "README.md"}
    export = run.report.export
    assert export.class_name in ("GGUF llama", "GGUF deci")
    assert export.bytes == (run.root / "exported" / "model.gguf").stat().st_size
    pruned = run.report.row("secateur").cost.total_parameters
    assert export.num_parameters == pruned + export.added_parameters
    card = (run.root / "exported" / "README.md").read_text()
    assert 'Llama("path/to/this/folder/model.gguf")' in card.split("# ")[0]
