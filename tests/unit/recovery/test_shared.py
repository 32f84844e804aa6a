"""Adapters that models of one bank share: slices, exact merges, and a training by turns that can be interrupted."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from secateur.errors import ConfigError, ModelError
from secateur.model.mixture import every_expert
from secateur.pruning.surgery import prune
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.objective import mean_loss
from secateur.recovery.shared import SharedLowRank, SharedRecovery, recover_shared
from secateur.recovery.shared_adapters import SharedAdapters
from secateur.recovery.text import RecoverySet
from secateur.runs.shelf import Shelf
from secateur.space.architecture import Architecture

FRONT = ((4, 48, 0, 24, 2, 40), (3, 32, 1, 48, 3, 16), (2, 16, 4, 0, 4, 48))
# Wider than any of them somewhere, and with a block that one of them has not.
BETWEEN = (4, 40, 2, 48, 4, 48)
RECIPE = Recipe(method="lora", learning_rate=1e-2, batch_windows=4, epochs=2.4, judgements=3, dropout=0.1)


def models_of(prepared, front: tuple[tuple[int, ...], ...] = FRONT) -> list[PreTrainedModel]:
    return [prune(prepared.dense, prepared.bank, Architecture.from_widths(widths)) for widths in front]


def filled(models: list[PreTrainedModel]) -> SharedAdapters:
    """Adapters that change something."""
    adapters = SharedAdapters.of_models(models, rank=4, alpha=8)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapters


def recovery_of(prepared, folder: Path | None = None, recipe: Recipe = RECIPE) -> Recovery:
    tokens = torch.cat([prepared.calibration.tokens, prepared.selection.tokens])
    counted = torch.ones(len(tokens), tokens.shape[1] - 1, dtype=torch.bool)
    texts = RecoverySet(tokens, counted, torch.zeros(len(tokens), dtype=torch.int64), ("text",))
    # The selection set is among what is trained on: random tokens have nothing else to teach.
    return Recovery(recipe, Texts(texts, prepared.selection.tokens), 0, 96, folder=folder)


@pytest.mark.parametrize(
    ("family", "experts"),
    [(family, "widths") for family in ("llama", "gpt_neox", "gpt2", "qwen2_moe")] + [("qwen3_moe", "whole")],
)
def test_merged_slices_give_the_logits_of_attached_ones(prepare, family: str, experts: str) -> None:
    prepared = prepare(family, experts=experts)
    front = FRONT if experts == "widths" else ((4, 6, 0, 3, 2, 5), (3, 4, 1, 6, 3, 2))
    models, tokens = models_of(prepared, front), prepared.selection.tokens
    adapters = filled(models)
    for model in models:
        before = model(input_ids=tokens).logits
        with every_expert(model):
            detach = adapters.attach(model)
            attached = model(input_ids=tokens).logits
            detach()
        assert torch.allclose(model(input_ids=tokens).logits, before, atol=1e-4), "detached, it is as it was"
        adapters.merge(model)
        merged = model(input_ids=tokens).logits
        assert (attached - before).abs().max() > 0.1
        assert (merged - attached).abs().max() < 1e-4


def test_a_model_shares_the_first_rows_and_columns(prepared) -> None:
    narrow, wide = models_of(prepared, ((2, 16, 2, 16, 2, 16), (4, 48, 4, 48, 4, 48)))
    before = {name: weight.clone() for name, weight in narrow.state_dict().items()}
    before_wide = {name: weight.clone() for name, weight in wide.state_dict().items()}
    adapters = filled([narrow, wide])
    adapters.merge(narrow)
    adapters.merge(wide)
    for path in adapters.paths:
        own = narrow.state_dict()[f"{path}.weight"] - before[f"{path}.weight"]
        whole = wide.state_dict()[f"{path}.weight"] - before_wide[f"{path}.weight"]
        assert torch.allclose(own, whole[: len(own), : own.shape[1]], atol=1e-6)


def test_a_wider_model_keeps_what_the_adapters_do_not_reach(prepared) -> None:
    adapters = filled(models_of(prepared, ((2, 16, 0, 16, 2, 0),)))
    wider = models_of(prepared, (BETWEEN,))[0]
    before = {name: weight.clone() for name, weight in wider.state_dict().items()}
    adapters.merge(wider)
    after = wider.state_dict()
    down, gone = "model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"
    assert not torch.equal(after[down][:, :16], before[down][:, :16])
    assert torch.equal(after[down][:, 16:], before[down][:, 16:])
    assert torch.equal(after[gone], before[gone]), "no model that was trained has that block"


def test_adapters_of_another_family_are_refused(prepare, prepared) -> None:
    adapters = filled(models_of(prepared))
    with pytest.raises(ModelError, match="another family"):
        adapters.merge(models_of(prepare("gpt2"))[0])


def test_a_step_reaches_only_what_its_model_has(prepared) -> None:
    models = models_of(prepared)
    adapters = filled(models)
    trainee = SharedLowRank(models, adapters)
    assert {id(trainee.at(step)) for step in range(3)} == {id(model) for model in models}, "each once in a round"
    for step in range(3):
        model = trainee.at(step)
        for parameter in adapters.parameters.values():
            parameter.grad = None
        model(input_ids=prepared.selection.tokens).logits.square().mean().backward()
        own = dict(model.named_modules())
        for path in adapters.paths:
            into, out_of = (adapters.parameters[f"{path}.{factor}"].grad for factor in "AB")
            if not isinstance(own.get(path), torch.nn.Linear):
                assert into is None
                assert out_of is None
                continue
            rows, columns = own[path].weight.shape
            assert into is not None
            assert out_of is not None
            assert into[:, :columns].abs().sum() > 0
            assert out_of[:rows].abs().sum() > 0
            assert not into[:, columns:].any()
            assert not out_of[rows:].any()
    assert all(parameter.grad is None for model in models for parameter in model.parameters())


@pytest.fixture(scope="module")
def recovered(prepared) -> SharedRecovery:
    """A training that nothing disturbed."""
    return recover_shared(models_of(prepared), recovery_of(prepared))


def test_every_model_is_better_or_left_as_it_was(prepared, recovered: SharedRecovery) -> None:
    models, found, tokens = models_of(prepared), recovered, prepared.selection.tokens
    training = found.record.training
    assert training.best.loss < training.judgements[0].loss - 0.1
    assert training.judgements[0].loss == pytest.approx(sum(each.before for each in found.record.losses) / 3, abs=1e-5)
    for model, loss in zip(models, found.record.losses, strict=True):
        assert mean_loss(model, tokens, 4) == pytest.approx(loss.before, abs=1e-5)
        assert loss.recovered == (loss.after < loss.before)
        found.adapters.merge(model)
        assert mean_loss(model, tokens, 4) == pytest.approx(loss.after, abs=1e-4)


def test_a_model_that_loses_is_said_to_be_not_recovered(prepared) -> None:
    models = models_of(prepared)
    states = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in models]
    recipe = RECIPE.model_copy(update={"learning_rate": 1e3})
    record = recover_shared(models, recovery_of(prepared, recipe=recipe)).record
    assert record.training.best_step == 0
    assert not any(loss.recovered for loss in record.losses)
    for model, state in zip(models, states, strict=True):
        assert all(torch.equal(weight, state[name]) for name, weight in model.state_dict().items()), "not merged"
        assert not any(module._forward_hooks for module in model.modules())


class StoppedError(Exception):
    """Raised in the middle of a training."""


def test_an_interrupted_training_goes_on_alike(prepared, recovered: SharedRecovery, tmp_path: Path) -> None:
    whole = recovered.record.training
    seen: list[float | None] = []

    def stop(loss: float | None = None) -> None:
        seen.append(loss)
        if len(seen) == whole.steps // 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        recover_shared(models_of(prepared), recovery_of(prepared, tmp_path), advance=stop)
    assert "state" in Shelf(tmp_path / "training")
    resumed = recover_shared(models_of(prepared), recovery_of(prepared, tmp_path)).record
    assert resumed.training.losses == pytest.approx(whole.losses, abs=1e-4)
    assert resumed.training.best.loss == pytest.approx(whole.best.loss, abs=1e-4)
    assert resumed.losses[0].before > resumed.losses[0].after, "what it was before is not what the shelf has made of it"


def test_models_between_take_steps_and_are_not_judged(prepared) -> None:
    models, others = models_of(prepared), models_of(prepared, (BETWEEN,))
    recipe = RECIPE.model_copy(update={"epochs": 0.8, "judgements": 1})
    found = recover_shared(models, recovery_of(prepared, recipe=recipe), between=others)
    assert found.record.between == 1
    assert len(found.record.losses) == len(models)
    # The widest of all decides how much there is.
    assert found.adapters.parameters["model.layers.0.mlp.gate_proj.B"].shape[0] == 48
    assert found.adapters.parameters["model.layers.2.self_attn.o_proj.A"].shape[1] == 64


def test_what_points_do_not_share_is_refused(prepared) -> None:
    with pytest.raises(ConfigError, match="use lora"):
        recover_shared(models_of(prepared), recovery_of(prepared, recipe=RECIPE.model_copy(update={"method": "full"})))
