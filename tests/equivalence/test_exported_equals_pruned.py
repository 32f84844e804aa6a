"""Saved equals loaded by others: plain `from_pretrained` gives the logits of the pruned model."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.data import Role
from secateur.errors import ExportError
from secateur.export.checkpoint import express, round_weights, save_checkpoint
from secateur.export.verify import verify_export
from secateur.model.loading import load_dense
from secateur.model.shape import decoder_layers
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import cost_of
from tiny import PLAIN

VARIED = Architecture.from_widths((0, 40, 2, 16, 4, 0))
UNIFORM = Architecture.from_widths((3, 40) * 3)


pytestmark = pytest.mark.usefixtures("stranger")


def export(prepared, architecture, folder, dtype="float32", output_bias=False):
    pruned = prune(prepared.dense, prepared.bank, architecture)
    round_weights(pruned, dtype)
    form = express(prepared.dense, architecture, dtype, output_bias=output_bias)
    save_checkpoint(prepared.dense, pruned, form, dtype, folder)
    return pruned, form


def load(folder, form):
    """Load as a stranger does: trust is given only where the form says that it is needed."""
    flags = {"trust_remote_code": True} if form.remote_code else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **flags).eval()


@torch.no_grad()
def logits_of(model, tokens):
    return model(input_ids=tokens, use_cache=False).logits


def generations(model, prompt):
    """Greedy tokens with the KV cache and without."""
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    return [model.generate(prompt, attention_mask=mask, use_cache=cached, **settings) for cached in (True, False)]


def assert_same_model(loaded, pruned, tokens):
    torch.testing.assert_close(logits_of(loaded, tokens), logits_of(pruned, tokens), atol=1e-4, rtol=0)
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in pruned.parameters())


@pytest.mark.parametrize(("family", "reconstruction"), [("llama", "least_squares"), ("gemma3_text", "bias")])
def test_a_stranger_loads_the_pruned_model(prepare, family, reconstruction, architecture, tmp_path):
    prepared = prepare(family, reconstruction=reconstruction)
    pruned, form = export(prepared, architecture, tmp_path / "exported", output_bias=reconstruction == "bias")
    loaded = load(tmp_path / "exported", form)
    assert_same_model(loaded, pruned, prepared.selection.tokens)
    cached, uncached = generations(loaded, prepared.selection.tokens[:2, :6])
    assert torch.equal(cached, uncached)
    # Whole layers that are gone are not in the folder, not even as empty ones.
    present = sum(1 for layer in architecture.layers if layer.kv_heads or layer.ffn_width)
    assert loaded.config.num_hidden_layers == len(decoder_layers(loaded, prepared.dense.family)) == present

    loaded.save_pretrained(tmp_path / "again")
    again = load(tmp_path / "again", form)
    assert_same_model(again, pruned, prepared.selection.tokens)


@pytest.mark.parametrize(
    ("family", "ratio", "tied", "reconstruction"),
    [
        ("llama", 4, True, "bias"),
        ("qwen2", 1, False, "bias"),
        ("qwen3", 4, True, "least_squares"),
        ("gpt_neox", 1, False, "bias"),
        ("gpt2", 1, True, "bias"),
    ],
)
def test_other_head_ratios_and_tied_embeddings_load_alike(prepare, family, ratio, tied, reconstruction, tmp_path):
    prepared = prepare(family, ratio, tied, reconstruction)
    for name, architecture in (("varied", VARIED), ("uniform", UNIFORM)):
        pruned, form = export(prepared, architecture, tmp_path / name, output_bias=reconstruction == "bias")
        loaded = load(tmp_path / name, form)
        assert_same_model(loaded, pruned, prepared.selection.tokens)
        head, embedding = loaded.get_output_embeddings(), loaded.get_input_embeddings()
        assert (head.weight is embedding.weight) == tied


@pytest.mark.parametrize("family", [*PLAIN, "mistral"])
@pytest.mark.parametrize(
    "widths", [(2, 40) * 3, (3, 40) * 3, (3, 40, 0, 0, 3, 40)], ids=["divides", "does-not", "dropped"]
)
def test_uniform_architectures_need_no_remote_code(prepare, family, widths, tmp_path):
    prepared = prepare(family)
    _, form = export(prepared, Architecture.from_widths(widths), tmp_path / "exported")
    assert not form.remote_code
    assert not list((tmp_path / "exported").glob("*.py"))
    assert "trust_remote_code" not in " ".join(form.loading_lines("x"))
    config = json.loads((tmp_path / "exported/config.json").read_text())
    # 6 query heads do not divide the hidden size of 32, which LlamaConfig refuses.
    stands_in = family == "llama" and widths[0] == 3
    assert config["model_type"] == ("mistral" if stands_in else family)
    # Mistral's default window is shorter than a Llama's context.
    assert config.get("sliding_window") is None


def test_sharded_weights_go_in_and_out(prepared, tmp_path):
    """Files of a few kilobytes stand for those of a few gigabytes."""
    prepared.dense.model.save_pretrained(tmp_path / "dense", max_shard_size="20KB")
    prepared.dense.tokenizer.save_pretrained(tmp_path / "dense")
    assert len(list((tmp_path / "dense").glob("*.safetensors"))) > 1
    dense = load_dense(str(tmp_path / "dense"), "cpu")
    pruned = prune(dense, prepared.bank, VARIED)
    form = express(dense, VARIED, "float32")
    save_checkpoint(dense, pruned, form, "float32", tmp_path / "exported", shard_size="20KB")
    assert len(list((tmp_path / "exported").glob("*.safetensors"))) > 1
    assert (tmp_path / "exported" / "model.safetensors.index.json").is_file()
    assert_same_model(load(tmp_path / "exported", form), pruned, prepared.selection.tokens)


def test_layers_that_differ_need_the_modelling_file(prepared, tmp_path):
    _, form = export(prepared, VARIED, tmp_path / "exported")
    assert form.remote_code
    assert all("trust_remote_code=True" in line for line in form.loading_lines("x"))
    code = (tmp_path / "exported/modeling_secateur.py").read_text()
    assert "import secateur" not in code
    assert "from secateur" not in code
    with pytest.raises(Exception, match=r"trust_remote_code|custom code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "exported", trust_remote_code=False)


@pytest.mark.parametrize("reconstruction", ["least_squares", "bias"])
@pytest.mark.parametrize("biases", [("attention_bias",), ("attention_bias", "mlp_bias")])
@pytest.mark.parametrize("architecture", [VARIED, UNIFORM], ids=["varied", "uniform"])
def test_llama_with_biases_loads_alike(
    make_dense, make_tokens, prepared, biases, architecture, reconstruction, tmp_path
):
    """Mistral has no such biases, so it cannot stand in for a uniform one."""
    dense = make_dense("llama", **dict.fromkeys(biases, True))
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{width} for width in architecture.widths], reconstruction=reconstruction)
    biased = replace(prepared, dense=dense, bank=bank)
    pruned, form = export(biased, architecture, tmp_path / "exported", output_bias=reconstruction == "bias")
    assert_same_model(load(tmp_path / "exported", form), pruned, prepared.selection.tokens)


def test_a_uniform_architecture_with_every_bias_already_there_stays_a_stock_model(make_dense):
    """With two KV heads the heads divide the hidden size, so Llama's own classes hold it."""
    dense = make_dense("llama", attention_bias=True, mlp_bias=True)
    assert not express(dense, Architecture.from_widths((2, 40) * 3), "float32", output_bias=True).remote_code


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 2}),
    ],
    ids=["mistral", "qwen2-all", "qwen3-mixed"],
)
@pytest.mark.parametrize(
    "widths",
    [(0, 40, 2, 16, 4, 0), (4, 48, 3, 16, 0, 40), (3, 40) * 3],
    ids=["first-attention-gone", "last-attention-gone", "uniform"],
)
def test_sliding_windows_survive(make_dense, make_tokens, prepared, family, overrides, widths, tmp_path):
    """Also where the cache counts its tokens in a layer whose attention is gone."""
    dense = make_dense(family, **overrides)
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    architecture = Architecture.from_widths(widths)
    bank = build_bank(dense, statistics, [{width} for width in widths])
    pruned, form = export(replace(prepared, dense=dense, bank=bank), architecture, tmp_path / "exported")
    loaded = load(tmp_path / "exported", form)
    tokens = prepared.selection.tokens
    assert_same_model(loaded, pruned, tokens)
    cached, uncached = generations(loaded, tokens[:2, :8])
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("widths", [(3, 40, 2, 16, 4, 8), (3, 40) * 3], ids=["varied", "uniform"])
def test_scaled_rotary_embeddings_survive(make_dense, make_tokens, prepared, widths, tmp_path):
    """As in Llama 3; for the uniform one, Mistral stands in."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    dense = make_dense("llama", rope_parameters=rope)
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    bank = build_bank(dense, statistics, [{width} for width in widths])
    scaled = replace(prepared, dense=dense, bank=bank)
    pruned, form = export(scaled, Architecture.from_widths(widths), tmp_path / "exported")
    assert_same_model(load(tmp_path / "exported", form), pruned, prepared.selection.tokens)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("exported", [VARIED, UNIFORM], ids=["varied", "uniform"])
def test_half_precision_holds_exactly_what_was_rounded(prepared, exported, dtype, tmp_path):
    pruned, form = export(prepared, exported, tmp_path / "exported", dtype)
    loaded = load(tmp_path / "exported", form)
    torch.testing.assert_close(
        logits_of(loaded, prepared.selection.tokens), logits_of(pruned, prepared.selection.tokens), atol=1e-4, rtol=0
    )
    stored = load_file(tmp_path / "exported/model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert json.loads((tmp_path / "exported/config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("exported", [VARIED, UNIFORM], ids=["varied", "uniform"])
def test_the_tokenizer_comes_along(prepared, exported, tmp_path):
    export(prepared, exported, tmp_path / "exported")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert loaded("w3 w7 w95")["input_ids"] == prepared.dense.tokenizer("w3 w7 w95")["input_ids"]


@pytest.mark.parametrize("exported", [VARIED, UNIFORM], ids=["varied", "uniform"])
def test_peft_trains_the_export(prepared, exported, tmp_path):
    _, form = export(prepared, exported, tmp_path / "exported")
    loaded = load(tmp_path / "exported", form)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    wrapped = get_peft_model(loaded, LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM"))
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    tokens = prepared.selection.tokens
    losses = []
    for _ in range(8):
        loss = wrapped(input_ids=tokens, labels=tokens).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


class TestVerification:
    """A fresh process, which never imports Secateur, holds the folder to what was measured."""

    @pytest.fixture
    def biased(self, prepare):
        return prepare(reconstruction="bias")

    @pytest.fixture
    def counted(self, biased):
        """Parameters with the biases that narrowed blocks have gained."""
        counted = cost_of(biased.space.shape, VARIED).total_parameters
        assert counted > cost_of(biased.dense.shape, VARIED).total_parameters
        return counted

    @pytest.fixture
    def verify(self, biased, counted, tmp_path):
        """Verify after something has happened to the weights file."""
        pruned, form = export(biased, VARIED, tmp_path / "exported", output_bias=True)

        def run(happen=lambda _path: None):
            happen(tmp_path / "exported/model.safetensors")
            tokens = biased.selection.tokens
            return verify_export(tmp_path / "exported", form, biased.dense, pruned, tokens, counted)

        return run

    def test_passes_what_is_right(self, verify, counted, tmp_path):
        seen = verify()
        assert not seen.secateur_imported
        assert seen.class_name == "SecateurLlamaForCausalLM"
        assert seen.num_parameters == counted
        assert seen.max_logit_difference < 1e-4
        assert seen.bytes == (tmp_path / "exported/model.safetensors").stat().st_size

    def test_refuses_one_weight_that_differs(self, verify):
        def corrupt(path):
            weights = load_file(path)
            weights["model.layers.1.self_attn.o_proj.weight"][0, 0] += 1
            save_file(weights, path, metadata={"format": "pt"})

        with pytest.raises(ExportError, match="logits that differ by"):
            verify(corrupt)

    @pytest.mark.parametrize(
        ("reported", "message"),
        [
            ({"num_parameters": 7}, r"has 7 parameters when loaded, \d+ were counted"),
            ({"max_logit_difference": float("nan")}, "logits that differ by nan"),
            ({"tokenizes_alike": False}, "a tokenizer that cuts text otherwise"),
            ({"generates_alike_with_and_without_cache": False}, "generates other tokens with its KV cache"),
            (None, "does not load in a fresh process: ValueError: no such tensor"),
        ],
    )
    def test_refuses_whatever_the_fresh_process_finds_wrong(
        self, verify, counted, monkeypatch, tmp_path, reported, message
    ):
        """A script stands in for the real check, which takes seconds: what counts is what is made of its words."""
        fine = {
            "secateur_imported": False,
            "tokenizes_alike": True,
            "class_name": "SecateurLlamaForCausalLM",
            "num_parameters": counted,
            "max_logit_difference": 0.0,
            "generates_alike_with_and_without_cache": True,
            "bytes": 1,
        }
        script = 'raise ValueError("no such tensor")' if reported is None else f"print({json.dumps(fine | reported)!r})"
        (tmp_path / "check.py").write_text(script)
        monkeypatch.setattr("secateur.export.verify.CHECK", tmp_path / "check.py")
        with pytest.raises(ExportError, match=message):
            verify()
