"""Which form an architecture takes; that the forms hold the model is shown in tests/equivalence."""

import ast
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import GenerationConfig

from secateur.export.checkpoint import express, round_weights, save_checkpoint
from secateur.export.modeling_file import modeling_file
from secateur.model.families import FAMILIES, find_family
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

UNIFORM = Architecture.from_widths((2, 40) * 3)
VARIED = Architecture.from_widths((0, 40, 0, 0, 4, 0))


def test_layers_that_are_alike_give_a_stock_config(prepared):
    form = express(prepared.dense, UNIFORM, "float32")
    assert not form.remote_code
    assert form.config["model_type"] == "llama"
    sizes = {
        name: form.config[name]
        for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "head_dim")
    }
    assert sizes == {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40, "head_dim": 8}
    assert "per_layer_config" not in form.config or not form.config["per_layer_config"]


def test_layers_that_differ_give_one_entry_per_layer_that_is_left(prepared):
    form = express(prepared.dense, VARIED, "bfloat16")
    assert form.remote_code
    assert form.config["num_hidden_layers"] == 2
    assert form.config["dtype"] == "bfloat16"
    assert form.config["per_layer_config"] == {
        "0": {"intermediate_size": 40, "skip": ["attention"]},
        "1": {"num_attention_heads": 8, "num_key_value_heads": 4, "skip": ["mlp"]},
    }


def test_blocks_that_gained_a_bias_are_named(prepared):
    """What is gone or whole gained none; globally there is none, as in the dense model."""
    architecture = Architecture.from_widths((0, 40, 3, 48, 2, 8))
    form = express(prepared.dense, architecture, "float32", output_bias=True)
    assert form.config["output_bias"] == []
    assert form.config["per_layer_config"] == {
        "0": {"intermediate_size": 40, "skip": ["attention"], "output_bias": ["mlp"]},
        "1": {
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "intermediate_size": 48,
            "output_bias": ["attention"],
        },
        "2": {
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 8,
            "output_bias": ["attention", "mlp"],
        },
    }


@pytest.mark.parametrize(
    ("widths", "remote_code"), [((2, 40), True), ((4, 40), True), ((2, 48), True), ((4, 48), False)]
)
def test_layers_alike_that_gained_a_bias_are_no_stock_model(prepared, widths, remote_code):
    form = express(prepared.dense, Architecture.from_widths(widths * 3), "float32", output_bias=True)
    assert form.remote_code == remote_code


def test_a_bias_that_was_there_is_not_named(make_dense):
    dense = make_dense("llama", attention_bias=True)
    form = express(dense, Architecture.from_widths((2, 40, 1, 40, 2, 48)), "float32", output_bias=True)
    named = [layer.get("output_bias") for layer in form.config["per_layer_config"].values()]
    assert named == [["mlp"], ["mlp"], None]


def test_layers_alike_without_attention_are_no_stock_model(prepared):
    assert express(prepared.dense, Architecture.from_widths((0, 40) * 3), "float32").remote_code
    assert express(prepared.dense, Architecture.from_widths((2, 0) * 3), "float32").remote_code


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_no_path_of_the_machine_is_written(make_dense, family):
    dense = make_dense(family)
    dense.model.config._name_or_path = "/home/somebody/model"
    # For a uniform Llama of three KV heads Mistral stands in.
    for architecture in (UNIFORM, Architecture.from_widths((3, 40) * 3), VARIED):
        form = express(dense, architecture, "float32")
        assert "/home/somebody" not in json.dumps(form.config)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modelling_file_is_python_of_its_family_and_needs_transformers_alone(family):
    text = modeling_file(find_family(family))
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [node.module]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    }
    assert imported == {"copy", "torch", "transformers"}
    assert f"class Secateur{find_family(family).class_name}(DenseForCausalLM)" in text
    assert f'model_type = "secateur_{family}"' in text
    assert family == "llama" or "llama" not in text.lower()


def test_layers_are_numbered_anew_and_tied_heads_are_left_out(prepare, tmp_path):
    prepared = prepare("llama", 2, True)
    pruned = prune(prepared.dense, prepared.bank, VARIED)
    save_checkpoint(
        prepared.dense, pruned, express(prepared.dense, VARIED, "float32"), "float32", tmp_path / "exported"
    )
    stored = load_file(tmp_path / "exported/model.safetensors")
    assert "lm_head.weight" not in stored
    layers = {name.split(".")[2] for name in stored if name.startswith("model.layers.")}
    assert layers == {"0", "1"}
    assert torch.equal(stored["model.layers.1.self_attn.q_proj.weight"], pruned.model.layers[2].self_attn.q_proj.weight)


def test_generation_settings_come_along(make_dense, prepared, tmp_path):
    dense = make_dense()
    dense.model.generation_config = GenerationConfig(temperature=0.3, do_sample=True, eos_token_id=[1, 2])
    pruned = prune(prepared.dense, prepared.bank, UNIFORM)
    save_checkpoint(dense, pruned, express(dense, UNIFORM, "float32"), "float32", tmp_path / "exported")
    read = GenerationConfig.from_pretrained(tmp_path / "exported")
    assert (read.temperature, read.eos_token_id) == (0.3, [1, 2])


def test_a_folder_that_is_there_is_not_written_into(prepared, tmp_path):
    pruned = prune(prepared.dense, prepared.bank, UNIFORM)
    with pytest.raises(FileExistsError):
        save_checkpoint(prepared.dense, pruned, express(prepared.dense, UNIFORM, "float32"), "float32", tmp_path)


def test_rounding_gives_what_the_type_can_hold_and_keeps_the_computing_type(prepared):
    pruned = prune(prepared.dense, prepared.bank, UNIFORM)
    before = pruned.model.layers[0].mlp.up_proj.weight.clone()
    round_weights(pruned, "bfloat16")
    after = pruned.model.layers[0].mlp.up_proj.weight
    assert after.dtype is torch.float32
    assert torch.equal(after, before.bfloat16().float())
    assert not torch.equal(after, before)
    untouched = prepared.bank.slices(1, 40)["up_proj.weight"]
    assert torch.equal(untouched, before), "the bank is not rounded with the model"
