import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM

from secateur.errors import ModelError
from secateur.model.loading import choose_device, load_dense, read_model_type
from tiny import REPRESENTATIVES


def refusal(name):
    """The message with which a model is refused: one line, whatever is wrong."""
    with pytest.raises(ModelError) as caught:
        load_dense(str(name), device="cpu")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_a_saved_model_is_loaded_as_it_was(save_model, make_dense, family, tmp_path):
    loaded = load_dense(str(save_model(tmp_path / "model", family)), device="cpu")
    made = make_dense(family)
    assert loaded.shape == made.shape
    assert loaded.family.model_type == family
    assert loaded.stored_dtype == "float32"
    assert loaded.fingerprint() == made.fingerprint()
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_the_tokenizer_is_loaded_with_the_model(save_model, tmp_path):
    loaded = load_dense(str(save_model(tmp_path / "model")), device="cpu")
    assert loaded.tokenizer("w5 w6")["input_ids"] == [5, 6]
    assert (loaded.tokenizer.bos_token_id, loaded.tokenizer.eos_token_id) == (0, 1)


def test_a_half_precision_checkpoint_computes_in_float32_on_a_cpu(make_dense, tokenizer, tmp_path):
    make_dense().model.bfloat16().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    loaded = load_dense(str(tmp_path / "model"), device="cpu")
    assert loaded.stored_dtype == "bfloat16"
    assert loaded.model.dtype is torch.float32
    assert load_dense(str(tmp_path / "model"), device="cpu", dtype="bfloat16").model.dtype is torch.bfloat16


def test_a_folder_that_is_missing(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nothing")


def test_a_folder_without_a_model(tmp_path):
    assert "has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "is not a model's config"),
        ("[]", "is not a model's config"),
        ("\x00\x01", "is not a model's config"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "cannot be loaded"),
    ],
)
def test_a_config_that_is_corrupt(save_model, tmp_path, text, word):
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text(text)
    assert word in refusal(folder)


def test_weights_that_are_cut_short(save_model, tmp_path):
    path = save_model(tmp_path / "model") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "has a head that cannot be used (ValueError: its tensors end at" in refusal(path.parent)


def test_weights_that_are_absent(save_model, tmp_path):
    folder = save_model(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "has no *.safetensors" in refusal(folder)


def test_a_tensor_that_is_missing_is_named(save_model, tmp_path):
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(folder)
    assert "lacks 1 tensors" in message
    assert "'model.layers.1.mlp.up_proj.weight'" in message


def test_a_tensor_of_another_size(save_model, tmp_path):
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be loaded" in refusal(folder)


def test_a_family_that_is_not_known(tokenizer, tmp_path):
    BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=8, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    message = refusal(tmp_path)
    assert "'bloom'" in message
    assert "known: gemma2, gemma3_text, gpt2" in message
    assert "docs/families.md says how to add one" in message


@pytest.mark.parametrize(
    ("family", "setting", "wanted"),
    [
        ("opt", {"do_layer_norm_before": False}, True),
        ("gpt2", {"add_cross_attention": True}, False),
        ("qwen2_moe", {"mlp_only_layers": [1]}, ()),
        ("qwen3_moe", {"decoder_sparse_step": 2}, 1),
    ],
)
def test_a_model_of_a_known_family_in_a_form_that_is_not(save_model, tmp_path, family, setting, wanted):
    ((entry, value),) = setting.items()
    message = refusal(save_model(tmp_path / "model", family, **setting))
    assert f"has {entry}={value}; of family '{family}' only models with {entry}={wanted} can be pruned" in message


def test_experts_are_asked_for_by_width_or_whole(save_model, tmp_path):
    folder = str(save_model(tmp_path / "model", "qwen2_moe"))
    assert load_dense(folder, device="cpu").shape.ffn_width == 48
    assert load_dense(folder, device="cpu", experts="whole").shape.ffn_width == 6


def test_the_family_is_read_without_the_weights(save_model, tmp_path):
    folder = save_model(tmp_path / "model", "qwen3")
    (folder / "model.safetensors").unlink()
    assert read_model_type(str(folder)) == "qwen3"
    assert read_model_type("organisation/hub-id") == ""


@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff\xfe", b"[1]"])
def test_a_config_without_a_family_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match="is not a model's config"):
        read_model_type(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_asking_for_a_gpu_where_there_is_none():
    with pytest.raises(ModelError, match="torch sees no GPU; use --device cpu or auto"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_fingerprint_tells_fine_tuned_weights_apart(make_dense, family):
    dense = make_dense(family)
    original = dense.fingerprint()
    assert make_dense(family).fingerprint() == original
    assert make_dense(family, seed=1).fingerprint() != original
    for name, parameter in dense.model.named_parameters():
        before = parameter.clone()
        parameter.data.mul_(1.01)
        assert dense.fingerprint() != original, name
        parameter.data.copy_(before)
    assert dense.fingerprint() == original


def test_the_fingerprint_looks_at_the_whole_of_a_tensor(make_dense):
    """Entries are taken from all over it, also where it has fewer than two per entry taken."""
    dense = make_dense("llama", hidden_size=120)
    norm = dense.model.model.norm.weight
    assert len(norm) == 120
    original = dense.fingerprint()
    norm.data[64:] += 1
    assert dense.fingerprint() != original


def test_a_checkpoint_that_does_not_say_its_dtype_is_stored_in_that_of_its_tensors(make_dense, tokenizer, tmp_path):
    make_dense().model.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_dense(str(tmp_path), device="cpu").stored_dtype == "float16"
