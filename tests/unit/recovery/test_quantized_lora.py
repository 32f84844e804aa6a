"""QLoRA: trained on four bits, merged into what does best, and nothing of the four bits is left."""

import builtins

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from secateur.errors import ConfigError
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.objective import mean_loss
from secateur.recovery.quantized_lora import QuantizedLowRank
from secateur.recovery.recover import recover
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import projections

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture
def model(make_model):
    return make_model("llama", hidden_size=64, head_dim=16, intermediate_size=192)


@pytest.fixture
def texts():
    """Text in which the next token follows from the last one, mostly."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(96, (24, 16), generator=generator)
    tokens[:, 1::2] = (tokens[:, ::2] + 7) % 96
    recovery = RecoverySet(tokens, torch.ones(24, 15, dtype=torch.bool), torch.zeros(24, dtype=torch.int64), ("text",))
    return Texts(recovery, tokens[:8])


def recovery_of(texts, folder=None, **settings):
    recipe = Recipe(method="qlora", learning_rate=5e-3, batch_windows=8, epochs=8, judgements=4, **settings)
    return Recovery(recipe, texts, seed=0, batch_tokens=4096, folder=folder)


def test_it_lowers_the_loss_and_leaves_a_plain_model(model, texts, tmp_path):
    names, before = dict(model.named_modules()).keys(), mean_loss(model, texts.selection, 8)
    model = model.to(torch.bfloat16)
    kinds = {name: type(each) for name, each in projections(model).items()}
    recovered, record = recover(model, recovery_of(texts, tmp_path / "recovery", modules="mlp"))
    after = mean_loss(recovered, texts.selection, 8)
    assert record.merged_into in ("original", "dequantized")
    assert after < before - 0.2
    assert record.training.best.loss < record.training.judgements[0].loss - 0.2
    assert dict(recovered.named_modules()).keys() == names
    assert {name: type(each) for name, each in projections(recovered).items()} == kinds
    assert {each.dtype for each in recovered.parameters()} == {torch.bfloat16}
    assert not any(each.requires_grad for each in recovered.parameters())


def trained(model, **settings) -> QuantizedLowRank:
    """Give a trainee whose changes are no longer nothing."""
    trainee = QuantizedLowRank(model, 4, 8, **settings)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return trainee


@pytest.mark.parametrize("best", [0, 1, 2])
def test_what_is_left_does_best_on_the_selection_set(model, texts, best):
    """Merged into dequantised weights it is exactly what was trained; merged into nothing, what was there before."""
    tokens, asked = texts.selection, []

    def judge(candidate):
        asked.append(candidate(input_ids=tokens).logits.clone())
        return 0.0 if len(asked) == best + 1 else 1.0

    weights = {name: each.weight.clone() for name, each in projections(model).items()}
    pruned = model(input_ids=tokens).logits
    trainee = trained(model, judge=judge)
    with torch.no_grad():
        adapted = trainee.judged()(input_ids=tokens).logits
    assert (adapted - pruned).abs().max() > 0.05
    model = trainee.finish()
    logits = model(input_ids=tokens).logits
    assert trainee.merged_into == ("nothing", "original", "dequantized")[best]
    torch.testing.assert_close(asked[0], pruned, atol=1e-4, rtol=0)
    torch.testing.assert_close(asked[2], adapted, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, asked[best], atol=1e-4, rtol=0)
    changed = any(not torch.equal(each.weight, weights[name]) for name, each in projections(model).items())
    assert changed is (best > 0)


def test_adapted_weights_take_a_seventh_of_the_bytes_while_they_are_trained(make_model, tmp_path):
    model = make_model("llama", hidden_size=512, num_attention_heads=8, head_dim=64, intermediate_size=768)
    whole = sum(each.weight.nbytes for each in projections(model).values())
    QuantizedLowRank(model, 4, 8, judge=lambda _: 0.0, folder=tmp_path)
    held = [each for each in model.modules() if isinstance(each, bitsandbytes.nn.Linear4bit)]
    states = [each.weight.quant_state for each in held]
    taken = sum(each.weight.nbytes for each in held)
    taken += sum(each.absmax.nbytes + each.state2.absmax.nbytes for each in states)
    assert len(held) == 21
    assert whole / taken > 7


def test_weights_that_it_has_no_form_for_are_refused(make_model):
    model = make_model("gpt2")
    assert any(isinstance(each, Conv1D) for each in projections(model).values())
    with pytest.raises(ConfigError, match=r"GPT2LMHeadModel are Conv1D.*use recovery.method=lora"):
        QuantizedLowRank(model, 4, 8, judge=lambda _: 0.0)
    assert not any(isinstance(each, nn.Linear) and each is not model.lm_head for each in model.modules())


def test_without_the_library_it_says_what_to_install(model, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "bitsandbytes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'secateur\[qlora\]'"):
        QuantizedLowRank(model, 4, 8, judge=lambda _: 0.0)
