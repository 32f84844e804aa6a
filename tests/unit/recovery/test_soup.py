"""Soups: means of merged weights, what goes in, and recoveries with several seeds that go on where they were."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.recipe import Recipe
from secateur.recovery.alike import differing_entry, first_difference
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.ingredients import StoredModel, open_ingredient
from secateur.recovery.objective import mean_loss
from secateur.recovery.recover import recover
from secateur.recovery.soup import greedy, kept, mean_of
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import values_of


def test_adapters_are_averaged_as_merged_deltas() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    whole = draw(8, 6)
    parts = [(0.5 + n, draw(8, 2), draw(2, 6)) for n in range(3)]
    mean = mean_of(whole + s * b @ a for s, b, a in parts)
    assert (mean - (whole + sum(s * b @ a for s, b, a in parts) / 3)).abs().max() < 1e-12
    apart = whole + mean_of(s * b for s, b, _ in parts) @ mean_of(a for _, _, a in parts)
    assert (mean - apart).abs().max() > 0.1, "the mean of A and the mean of B are something else"


def test_half_precision_is_averaged_wide_and_rounded_once() -> None:
    tensors = [torch.tensor([256.0]), torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([1.0])]
    halves = [each.bfloat16() for each in tensors]
    assert mean_of(halves).tolist() == [64.75]
    assert sum(halves[1:], halves[0]).item() == 256, "in 16 bits the small ones are lost"
    assert halves[0].item() == 256, "no ingredient is summed into"


@pytest.mark.parametrize(
    ("losses", "tasted", "members"),
    [
        ([2.0, 1.0, 3.0], {(1, 0): 0.9, (1, 0, 2): 0.8}, (1, 0, 2)),
        ([2.0, 1.0, 3.0], {(1, 0): 1.1, (1, 2): 0.8}, (1, 2)),
        ([2.0, 1.0, 3.0], {(1, 0): 1.0, (1, 0, 2): 1.2}, (1, 0)),
        ([2.0, 1.0, 3.0], {(1, 0): math.nan, (1, 2): 1.5}, (1,)),
        ([math.nan, 1.0, math.inf], {}, (1,)),
    ],
)
def test_greedy_adds_what_is_no_worse(
    losses: list[float], tasted: dict[tuple[int, ...], float], members: tuple[int, ...]
) -> None:
    tried = greedy(losses, tasted.__getitem__)
    assert kept(tried).members == members
    assert kept(tried).loss == min(each.loss for each in tried if each.kept) <= min(filter(math.isfinite, losses))


def test_a_soup_of_nothing_that_is_finite_is_refused() -> None:
    with pytest.raises(ModelError, match="finite"):
        greedy([math.nan, math.inf], lambda _members: 0.0)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"target_modules": ["q_proj", "down_proj"], "alpha_pattern": {"q_proj": 32}}),
        ("llama", {"target_modules": ["v_proj"], "use_rslora": True, "rank_pattern": {"layers.1.*v_proj": 3}}),
        ("gpt2", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    ],
)
def test_an_adapter_is_read_as_peft_merges_it(
    family: str, settings: dict[str, Any], save_model: Callable[..., Path], tmp_path: Path
) -> None:
    base = save_model(tmp_path / "base", family)
    adapted = get_peft_model(_loaded(base), LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **settings))
    adapted.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(_loaded(base), tmp_path / "adapter").merge_and_unload()
    ingredient = open_ingredient(tmp_path / "adapter", StoredModel(base))
    plain = StoredModel(base)
    changed = 0
    for name, wanted in merged.state_dict().items():
        if name in ingredient.heads:
            assert (ingredient.tensor(name) - wanted).abs().max() < 1e-5, name
            changed += not torch.equal(plain.tensor(name), wanted)
    assert changed >= 3
    with pytest.raises(ModelError, match="--base"):
        open_ingredient(tmp_path / "adapter")


def test_the_first_tensor_that_differs_is_named(save_model: Callable[..., Path], tmp_path: Path) -> None:
    first = open_ingredient(save_model(tmp_path / "a"))
    assert first_difference(first, open_ingredient(save_model(tmp_path / "b", seed=1))) is None
    narrow = first_difference(first, open_ingredient(save_model(tmp_path / "c", intermediate_size=40)))
    assert narrow is not None
    assert "mlp.down_proj.weight" in narrow
    assert "[32, 48]" in narrow
    assert "[32, 40]" in narrow
    tied = first_difference(first, open_ingredient(save_model(tmp_path / "d", tied=True)))
    assert tied is not None
    assert "d has no tensor 'lm_head.weight'" in tied


def test_configs_differ_only_in_what_logits_depend_on() -> None:
    config = {"rms_norm_eps": 1e-5, "_name_or_path": "a", "attention_dropout": 0.0}
    assert differing_entry(config, config | {"_name_or_path": "b", "attention_dropout": 0.1}) is None
    assert differing_entry(config, config | {"rms_norm_eps": 1e-6}) == "rms_norm_eps: 1e-05 and 1e-06"


@pytest.fixture
def recovery(tmp_path: Path) -> Recovery:
    generator = torch.Generator().manual_seed(5)
    # Words that follow each other: there is something to learn.
    starts = torch.randint(96, (24, 1), generator=generator)
    tokens = (starts + 7 * torch.arange(12)) % 96
    texts = RecoverySet(
        tokens[:16], torch.ones(16, 11, dtype=torch.bool), torch.zeros(16, dtype=torch.int64), ("text",)
    )
    recipe = Recipe(method="lora", soup=3, batch_windows=4, epochs=2, judgements=2, learning_rate=5e-3, rank=2, alpha=4)
    return Recovery(recipe, Texts(texts, tokens[16:]), 0, 64, folder=tmp_path / "recovery")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_several_seeds_end_in_a_soup_that_is_no_worse(
    method: Any, recovery: Recovery, make_model: Callable[..., PreTrainedModel]
) -> None:
    recovery = replace(recovery, recipe=recovery.recipe.model_copy(update={"method": method}), folder=None)
    model = make_model()
    dense = values_of(dict(model.named_parameters()))
    shared = {name: parameter.data for name, parameter in model.named_parameters()}
    soup, record = recover(model, recovery)
    assert record.soup is not None
    assert record.soup.loss <= min(record.soup.losses)
    assert len(set(record.soup.losses)) == 3, "every seed is another recovery"
    assert mean_loss(soup, recovery.texts.selection, 8) == pytest.approx(record.soup.loss, abs=1e-6)
    assert record.training.best.loss == pytest.approx(min(record.soup.losses), abs=1e-4)
    alone = recover(make_model(), replace(recovery, recipe=recovery.recipe.model_copy(update={"soup": 0})))[1]
    assert alone.training.best.loss == pytest.approx(record.soup.losses[0], abs=1e-4), "the first is the usual one"
    if method == "full":
        for name, tensor in shared.items():
            assert torch.equal(tensor, dense[name]), f"{name}: memory that is shared with the dense model has changed"


class KilledError(Exception):
    """Raised where a process would have been killed."""


def test_a_soup_that_was_killed_between_ingredients_goes_on(
    recovery: Recovery, make_model: Callable[..., PreTrainedModel]
) -> None:
    recovery = replace(recovery, recipe=recovery.recipe.model_copy(update={"method": "full"}))
    whole, wanted = recover(make_model(), replace(recovery, folder=None))
    steps = len(wanted.training.losses)

    def until(last: int) -> Callable[[float | None], None]:
        seen: Iterator[int] = iter(range(10_000))

        def advance(value: float | None = None) -> None:
            if next(seen) == last:
                raise KilledError

        return advance

    for last in (steps + 1, 2 * steps):  # inside the second, and as the third begins
        with pytest.raises(KilledError):
            recover(make_model(), recovery, until(last))
    assert recovery.folder is not None
    assert (recovery.folder / "soup" / "recovered-0.safetensors").is_file()
    assert not (recovery.folder / "training-0").exists(), "what is finished needs no state of its training"
    again, record = recover(make_model(), recovery)
    assert record.soup is not None
    assert wanted.soup is not None
    assert record.soup.members == wanted.soup.members
    assert record.soup.losses == pytest.approx(wanted.soup.losses, abs=1e-4)
    for (name, ours), theirs in zip(again.named_parameters(), whole.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4), name


def _loaded(folder: Path) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)
