from dataclasses import replace

import pytest
import torch

from secateur.errors import ConfigError, RunFolderError
from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery, Texts
from secateur.recovery.attempts import Attempt, proposed
from secateur.recovery.objective import CrossEntropy, mean_loss
from secateur.recovery.recover import recover, tuning_of
from secateur.recovery.text import RecoverySet
from secateur.recovery.training import Training
from secateur.recovery.tuning import best_of, choices_around, finalists, rung_against_end

WINDOWS, LENGTH = 24, 8
RECIPE = Recipe(
    method="lora", trials=7, batch_windows=4, rank=4, alpha=8, learning_rate=3e-3, judgements=2, distill=0.0
)


def repeated_words(num_windows: int, seed: int) -> torch.Tensor:
    """Text that a model can learn something of: each window goes through the same eight words from some place."""
    starts = torch.randint(LENGTH, (num_windows, 1), generator=torch.Generator().manual_seed(seed))
    return 10 + (starts + torch.arange(LENGTH)) % LENGTH


@pytest.fixture(scope="module")
def make_recovery():
    tokens = repeated_words(WINDOWS, seed=0)
    counted = torch.ones(WINDOWS, LENGTH - 1, dtype=torch.bool)
    text = RecoverySet(tokens, counted, torch.zeros(WINDOWS, dtype=torch.long), ("text",))
    texts = Texts(text, repeated_words(8, seed=1))
    return lambda recipe=RECIPE, folder=None, seed=0: Recovery(recipe, texts, seed, 96, folder=folder)


def killed_after(steps):
    done = 0

    def advance(value=None):
        nonlocal done
        done += 1
        if done == steps:
            raise KeyboardInterrupt

    return advance


@pytest.fixture(scope="module")
def make_pruned(make_model):
    return lambda: make_model(num_hidden_layers=1, tied=True)


@pytest.fixture(scope="module")
def tuned(make_pruned, make_recovery):
    """A recovery that was tuned without being disturbed, and what its progress heard."""
    recovery, heard = make_recovery(), []
    model, record = recover(make_pruned(), recovery, heard.append)
    return model, record, recovery, heard


def test_the_recipe_as_given_is_the_first_and_is_never_beaten_by_what_is_chosen(tuned, make_pruned, make_recovery):
    model, record, recovery, _ = tuned
    tuning = record.tuning
    assert tuning.default.recipe == RECIPE.model_copy(update={"trials": 0})
    assert [each.number for each in tuning.attempts] == list(range(RECIPE.trials))
    _, alone = recover(make_pruned(), make_recovery(tuning.default.recipe))
    assert tuning.default.end_loss == pytest.approx(alone.training.best.loss, abs=1e-5)
    chosen = tuning.attempts[tuning.chosen]
    assert chosen.end_loss == min(each.end_loss for each in tuning.attempts if each.end_loss is not None)
    assert record.recipe == chosen.recipe
    # What was recorded is what the model is, with nothing of an adapter left.
    assert mean_loss(model, recovery.texts.selection, 8) == pytest.approx(chosen.end_loss, abs=1e-4)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in make_pruned().named_parameters()]
    assert not hasattr(model, "peft_config")


def test_a_tuned_recipe_gives_the_same_recovery_by_itself(tuned, make_pruned, make_recovery):
    model, record, recovery, _ = tuned
    same, alone = recover(make_pruned(), make_recovery(record.recipe))
    assert alone.training.losses == pytest.approx(record.training.losses, abs=1e-5)
    tokens = recovery.texts.selection
    torch.testing.assert_close(same(tokens).logits, model(tokens).logits, atol=1e-4, rtol=1e-4)


def test_at_most_half_the_tokens_are_spent_and_every_rung_has_as_many(tuned):
    tuning = tuned[1].tuning
    assert tuning.tokens <= tuning.tokens_of_all / 2
    assert {each.tokens for each in tuning.attempts if each.end_loss is None} == {tuning.rung_tokens}
    assert len({each.recipe.batch_windows for each in tuning.attempts}) > 1
    assert len({each.recipe for each in tuning.attempts}) == RECIPE.trials


def test_what_was_killed_goes_on_as_if_it_had_not_been(tuned, make_pruned, make_recovery, tmp_path):
    model, record, *_ = tuned
    recovery = make_recovery(folder=tmp_path)
    # In the first attempt, in one that was drawn, and in a finalist.
    for steps in (1, 9, 21):
        with pytest.raises(KeyboardInterrupt):
            recover(make_pruned(), recovery, killed_after(steps))
    again, resumed = recover(make_pruned(), recovery)
    left_out = {"attempts": {"__all__": {"seconds", "rung_loss", "end_loss"}}, "spearman": True}
    assert resumed.tuning.model_dump(exclude=left_out) == record.tuning.model_dump(exclude=left_out)
    for one, other in zip(resumed.tuning.attempts, record.tuning.attempts, strict=True):
        assert one.rung_loss == pytest.approx(other.rung_loss, abs=1e-4)
        assert one.end_loss == pytest.approx(other.end_loss, abs=1e-4)
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(parameter, model.get_parameter(name), atol=1e-4, rtol=1e-4)
    # Of the trainings, only that of the chosen one is kept.
    kept = sorted(path.name for path in (tmp_path / "attempts").iterdir() if path.is_dir())
    assert kept == [f"{resumed.tuning.chosen:03d}-end"]


def test_attempts_of_another_recipe_are_refused(make_pruned, make_recovery, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        recover(make_pruned(), make_recovery(folder=tmp_path), killed_after(4))
    with pytest.raises(RunFolderError, match="another recipe"):
        recover(make_pruned(), make_recovery(RECIPE.model_copy(update={"rank": 2}), tmp_path))


def test_an_attempt_that_diverges_is_recorded_and_the_others_go_on(make_pruned, make_recovery, monkeypatch):
    whole = Training._step

    def step(self):
        return self._plan.learning_rate * self._progress.rate_scale < 5e-3 and whole(self)

    monkeypatch.setattr(Training, "_step", step)
    _, record = recover(make_pruned(), make_recovery())
    failed = [each for each in record.tuning.attempts if each.failure]
    assert failed
    assert all(each.learning_rate >= 5e-3 and each.rung_loss is None for each in failed)
    assert all(each.failure.startswith("diverged at steps 0") and each.seconds > 0 for each in failed)
    assert record.tuning.attempts[record.tuning.chosen].failure is None
    assert len(record.tuning.attempts) == RECIPE.trials


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_model_is_left_as_it_was_by_every_attempt(make_pruned, make_recovery, method):
    model, fresh = make_pruned(), make_pruned()
    addresses = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    recipe = RECIPE.model_copy(update={"method": method})
    tuning_of(model, make_recovery(recipe), CrossEntropy()).run()
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == addresses
    assert all(torch.equal(parameter, fresh.get_parameter(name)) for name, parameter in model.named_parameters())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not model.training


def test_progress_is_told_in_steps_of_the_given_size(tuned):
    # Seven rungs of two steps, and two to the end of twelve: half the tokens leave no room for a third.
    assert len(tuned[3]) == 7 * 2 + 2 * 12
    assert RECIPE.all_steps(WINDOWS) >= len(tuned[3])


def attempt(number, rung, end=None, planned=100):
    return Attempt(
        number=number,
        recipe=Recipe(),
        values={},
        learning_rate=1e-3,
        rung_loss=rung,
        end_loss=end,
        failure=None if rung else "diverged",
        tokens=20,
        planned_tokens=planned,
        seconds=0.0,
    )


def test_finalists_are_the_given_recipe_and_the_best_that_half_the_tokens_leave_room_for():
    attempts = [attempt(0, 9.0), *(attempt(number, float(number)) for number in (3, 1, 2)), attempt(4, None)]
    attempts = [each.model_copy(update={"number": place}) for place, each in enumerate(attempts)]
    many = attempts + [attempt(number, 8.0) for number in range(5, 10)]
    given = Recipe(trials=10, finalists=4)
    # 1,000 for all, 200 for the rungs: room for three of 100.
    assert finalists(many, given, rung_tokens=20) == [0, 2, 3]
    assert finalists(many, given.model_copy(update={"finalists": 2}), rung_tokens=20) == [0, 2]
    assert best_of([attempt(0, 9.0, 2.0), attempt(1, 1.0, 1.0), attempt(2, 1.0, 1.0)]).number == 1


def test_rung_and_end_are_compared_over_what_has_both():
    agreeing = [
        attempt(0, 1.0, 1.5),
        attempt(1, 3.0, 2.5),
        attempt(2, 2.0, 2.0),
        attempt(3, 0.5),
        attempt(4, None, 9.0),
    ]
    assert rung_against_end(agreeing) == pytest.approx(1.0)
    assert rung_against_end(agreeing[1:]) is None


def test_what_is_tried_next_follows_from_what_was_tried():
    """A planted optimum: learning rates of a third of the given one, and adapters in the attention alone."""
    choices = choices_around(RECIPE, 3e-3, ("all", "attention", "mlp"), windows=400)
    attempts: list[Attempt] = []
    for number in range(24):
        values = proposed(choices, attempts, seed=0)
        away = abs(torch.tensor(values["learning_rate"] / 1e-3).log().item())
        loss = None if values["learning_rate"] > 2e-2 else away + (values["modules"] != "attention")
        attempts.append(attempt(number, loss).model_copy(update={"values": values}))
    assert proposed(choices, attempts[:12], seed=0) == attempts[12].values
    assert proposed(choices, attempts[:12], seed=1) != attempts[12].values
    early, late = attempts[1:7], attempts[-6:]
    near = [sum(each.rung_loss is not None and each.rung_loss < 1.2 for each in part) for part in (early, late)]
    assert near[1] >= near[0] + 2


def test_a_recipe_with_a_part_that_a_model_lacks_is_not_tried(make_pruned, make_recovery):
    model = make_pruned()
    for layer in model.model.layers:
        layer.mlp = torch.nn.Identity()
    tuning = tuning_of(model, make_recovery(), CrossEntropy())
    assert tuning.choices.parts == ("all", "attention")


def test_too_few_attempts_or_too_little_text_are_refused(make_pruned, make_recovery):
    with pytest.raises(ValueError, match="at least 7 are needed"):
        Recipe(trials=6)
    assert Recipe(trials=7).trials == 7
    with pytest.raises(ConfigError, match="too little to judge a recipe by"):
        recover(make_pruned(), replace(make_recovery(RECIPE.model_copy(update={"batch_windows": 32}))))
