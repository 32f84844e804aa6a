"""A model in memory as a dense model: the same weights, and nothing that is done to it shows."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from secateur.errors import ConfigError, ModelError
from secateur.model.live import check_live, live_dense
from secateur.model.loading import load_dense
from tiny import REPRESENTATIVES

TOKENS = torch.arange(24).view(2, 12)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_it_computes_what_the_model_computes_and_leaves_it_alone(
    family: str,
    make_model: Callable[..., PreTrainedModel],
    save_model: Callable[..., Path],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    model = make_model(family, 2)
    wanted, names = model(input_ids=TOKENS).logits, [name for name, _ in model.named_modules()]
    state = copy.deepcopy(model.state_dict())
    dense = live_dense(model, tokenizer, scratch=tmp_path)
    assert torch.equal(dense.model(input_ids=TOKENS).logits, wanted)
    assert dense.fingerprint() == load_dense(str(save_model(tmp_path / "model", family, 2)), "cpu").fingerprint()
    assert not dense.mapped_layers, "weights that are there already need no files"
    for parameter in dense.model.parameters():
        parameter.data = parameter.data + 1
    dense.model.config.hidden_size = 0
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model(input_ids=TOKENS).logits, wanted)


def test_its_weights_are_the_same_memory(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = make_model("llama", tied=True)
    dense = live_dense(model, tokenizer)
    assert {p.data_ptr() for p in dense.model.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert dense.model.lm_head.weight is dense.model.get_input_embeddings().weight


def test_sixteen_bits_are_computed_in_float32_from_files_and_stored_as_they_were(
    make_model: Callable[..., PreTrainedModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_model("llama").half()
    exact = make_model("llama")
    dense = live_dense(model, tokenizer, scratch=tmp_path)
    assert (dense.stored_dtype, dense.model.dtype, len(dense.mapped_layers)) == ("float16", torch.float32, 3)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    frequencies = dict(dense.model.named_buffers())["model.rotary_emb.inv_freq"]
    assert torch.equal(frequencies, dict(exact.named_buffers())["model.rotary_emb.inv_freq"])
    assert live_dense(model, tokenizer, "float16").model.dtype is torch.float16


def test_what_is_no_model_to_prune_is_refused(
    make_model: Callable[..., PreTrainedModel], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    model = make_model("llama")
    headless = AutoModel.from_pretrained(save_model(tmp_path / "model"))
    adapted = peft.get_peft_model(make_model("llama"), peft.LoraConfig(target_modules=["q_proj"]))
    for refused, words in (
        (torch.nn.Linear(2, 2), "expected a causal model"),
        (headless, "load it with AutoModelForCausalLM"),
        (adapted, "merge_and_unload"),
        (adapted.get_base_model(), "carries adapters"),
        (model.double(), "torch.float64"),
    ):
        with pytest.raises((ModelError, ConfigError), match=words):
            check_live(refused)
