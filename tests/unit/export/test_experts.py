"""Mixtures of experts as others load them: the hub's names, the sizes in the config, and what no target holds."""

import json

import pytest
import torch
from safetensors.torch import load_file

from secateur.errors import ModelError
from secateur.export.checkpoint import express, save_checkpoint
from secateur.export.target import check_target
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

# The hub's names of one expert's projections.
NAMES = {
    "mixtral": "block_sparse_moe.experts.{}.w{}.weight",
    "qwen2_moe": "mlp.experts.{}.{}_proj.weight",
    "qwen3_moe": "mlp.experts.{}.{}_proj.weight",
}
PARTS = {"mixtral": ("1", "3", "2")}


def exported(prepared, widths, folder):
    architecture = Architecture.from_widths(widths)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    save_checkpoint(prepared.dense, pruned, express(prepared.dense, architecture, "float32"), "float32", folder)
    return pruned, load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize(("experts", "widths", "sizes"), [("widths", (4, 16), (6, 16)), ("whole", (4, 3), (3, 48))])
def test_layers_alike_are_stored_as_the_hub_has_them(prepare, tmp_path, family, experts, widths, sizes):
    prepared = prepare(family, experts=experts)
    pruned, state, config = exported(prepared, widths * 3, tmp_path / "exported")
    count, width = sizes
    stock = pruned.model.layers[2].mlp.stock()
    gate, up, down = PARTS.get(family, ("gate", "up", "down"))
    for expert in range(count):
        into = stock.experts.gate_up_proj[expert].chunk(2)
        for part, tensor in ((gate, into[0]), (up, into[1]), (down, stock.experts.down_proj[expert])):
            assert state[f"model.layers.2.{NAMES[family].format(expert, part)}"].equal(tensor)
    assert not [name for name in state if "gate_up_proj" in name]
    names = prepared.dense.family.mlp.experts
    assert config[prepared.dense.model.config.attribute_map.get(names.count, names.count)] == count
    assert (config[names.width], config[names.per_token]) == (width, 2)


def test_a_token_goes_to_no_more_experts_than_there_are(prepare, tmp_path):
    prepared = prepare("qwen3_moe", experts="whole")
    _, _, config = exported(prepared, (4, 1) * 3, tmp_path / "exported")
    assert config["num_experts_per_tok"] == 1
    form = express(prepared.dense, Architecture.from_widths((4, 1, 2, 5, 4, 0)), "float32")
    sizes = [
        (layer.get("num_experts"), layer.get("num_experts_per_tok"))
        for layer in form.config["per_layer_config"].values()
    ]
    assert sizes == [(1, 1), (5, 2), (None, None)]


def test_layers_that_differ_are_stored_as_transformers_holds_them(prepare, tmp_path):
    prepared = prepare("mixtral", experts="whole")
    _, state, config = exported(prepared, (4, 2, 4, 5, 4, 6), tmp_path / "exported")
    assert state["model.layers.1.mlp.experts.down_proj"].shape == (5, 32, 48)
    assert state["model.layers.1.mlp.gate.weight"].shape == (5, 32)
    assert config["output_router_logits"] is False


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_any_implementation_of_the_experts_gives_the_same(prepare, tmp_path, implementation, stranger):
    from transformers import AutoModelForCausalLM

    prepared = prepare("qwen2_moe", experts="whole")
    pruned, *_ = exported(prepared, (4, 2, 4, 1, 2, 6), tmp_path / "exported")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported",
        trust_remote_code=True,  # the file that has just been written
        experts_implementation=implementation,
        dtype=torch.float32,
    ).eval()
    assert loaded.model.layers[0].mlp.experts.config._experts_implementation == implementation
    tokens = prepared.selection.tokens
    with torch.no_grad():
        torch.testing.assert_close(loaded(tokens).logits, pruned(tokens).logits, atol=2e-4, rtol=0)


def test_experts_that_only_fill_up_are_refused(make_dense):
    dense = make_dense("mixtral", experts="whole")
    with pytest.raises(ModelError, match="--target padded cannot fill layers up with experts: the router would"):
        check_target(dense, "padded", output_bias=False)
    check_target(make_dense("mixtral"), "padded", output_bias=False)


def test_llama_cpp_is_refused(make_dense):
    with pytest.raises(ModelError, match="family 'mixtral' cannot be written as GGUF"):
        check_target(make_dense("mixtral"), "gguf", output_bias=False)
