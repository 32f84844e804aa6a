"""What every family holds: pruned in memory it is recovered, merged as it was trained, exported as it was merged."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from secateur.export.checkpoint import express, save_checkpoint
from secateur.model.families import FAMILIES
from secateur.pruning.surgery import prune
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.recover import recover
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import Trainee
from secateur.recovery.training import Training, TrainingRecord
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

pytestmark = pytest.mark.usefixtures("stranger")

# A layer without attention, one without MLP.
GONE = (0, 40, 2, 16, 4, 0)
STEPS = 4
# Shorter than the text, in the layers that slide.
WINDOWS = {"mistral": 5, "gemma2": 5, "gemma3_text": 5}


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request: pytest.FixtureRequest, prepare: Callable):
    # Called as in test_family_contract.py, so that what it has prepared is there already.
    return prepare(request.param, 1, False, window=WINDOWS.get(request.param), experts="widths")


@pytest.fixture
def pruned(family):
    return prune(family.dense, family.bank, Architecture.from_widths(GONE))


def recovery_of(family, method: str, **settings) -> Recovery:
    tokens = family.calibration.tokens
    counted = torch.ones(len(tokens), tokens.shape[1] - 1, dtype=torch.bool)
    texts = Texts(RecoverySet(tokens, counted, torch.zeros(len(tokens), dtype=torch.int64), ("text",)), tokens)
    recipe = Recipe(
        method=method,
        learning_rate=5e-3,
        batch_windows=len(tokens),
        epochs=STEPS,
        judgements=2,
        warmup_ratio=0.0,
        dropout=0.0,
        **settings,
    )
    return Recovery(recipe, texts, seed=0, batch_tokens=4096)


@torch.no_grad()
def logits_of(model, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


def trained(recovery: Recovery, model: PreTrainedModel) -> tuple[Trainee, TrainingRecord]:
    """Train as `recover` does, without the end."""
    trainee, texts = recovery.trainee(model), recovery.texts.recovery
    parts = (recovery.objective(), recovery.weighting(), recovery.judge(trainee), recovery.plan(model))
    return trainee, Training(trainee, texts, *parts).run()


def test_lora_trains_merges_and_exports(family, pruned, tmp_path):
    before = copy.deepcopy(dict(pruned.named_parameters()))
    tokens, was = family.selection.tokens, logits_of(pruned, family.selection.tokens)
    trainee, record = trained(recovery_of(family, "lora"), pruned)
    assert record.judgements[-1].loss < record.judgements[0].loss - 0.02
    adapted = logits_of(trainee.judged(), tokens)
    assert (adapted - was).abs().max() > 0.1
    recovered = trainee.finish()
    torch.testing.assert_close(logits_of(recovered, tokens), adapted, atol=1e-4, rtol=0)
    after = dict(recovered.named_parameters())
    assert after.keys() == before.keys()
    entry, changed = family.dense.family, {name for name in after if not torch.equal(after[name], before[name])}
    routing = (".router.weight", ".gate.weight", ".shared_expert_gate.weight")
    assert changed == {name for name in after if f"{entry.layers}." in name and after[name].ndim == 2} - {
        name for name in after if name.endswith(routing)
    }
    form = express(family.dense, Architecture.from_widths(GONE), "float32")
    save_checkpoint(family.dense, recovered, form, "float32", tmp_path / "exported")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported", dtype=torch.float32, trust_remote_code=form.remote_code
    )
    torch.testing.assert_close(logits_of(loaded.eval(), tokens), logits_of(recovered, tokens), atol=2e-4, rtol=0)


def test_every_weight_is_trained_and_none_of_the_dense_model(family, pruned):
    dense = {name: each.clone() for name, each in family.dense.model.named_parameters()}
    before = {name: each.clone() for name, each in pruned.named_parameters()}
    recovered, record = recover(pruned, recovery_of(family, "full"))
    assert record.training.judgements[-1].loss < record.training.judgements[0].loss - 0.02
    assert all(torch.equal(each, dense[name]) for name, each in family.dense.model.named_parameters())
    assert not any(torch.equal(each, before[name]) for name, each in recovered.named_parameters())


@pytest.mark.parametrize("family", [*REPRESENTATIVES, "qwen2_moe"], indirect=True)
def test_layers_computed_twice_give_the_same_losses(family, pruned):
    twice = copy.deepcopy(pruned)
    _, once = recover(pruned, recovery_of(family, "lora"))
    model, record = recover(twice, recovery_of(family, "lora", checkpointing=True))
    assert record.training.losses == pytest.approx(once.training.losses, abs=1e-5)
    assert not any(getattr(each, "gradient_checkpointing", False) for each in model.modules())
    assert not model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("family", ["gpt_neox", "qwen3_moe"], indirect=True)
def test_projections_in_four_bits_of_any_width_are_trained_and_merged(family, pruned):
    pytest.importorskip("bitsandbytes")
    _, record = recover(pruned, recovery_of(family, "qlora"))
    assert record.training.judgements[-1].loss < record.training.judgements[0].loss - 0.02
    assert record.merged_into != "nothing"
