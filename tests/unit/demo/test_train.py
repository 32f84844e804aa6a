import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import secateur.demo.train as train_module
from secateur.demo.checkpoint import Progress, load_checkpoint, save_checkpoint
from secateur.demo.train import LOG_NAME, TrainingPlan, train


def _plan(minutes: float) -> TrainingPlan:
    return TrainingPlan(
        minutes=minutes,
        seed=0,
        learning_rate=1e-3,
        tokens_per_step=32,
        window_lengths=(8, 16),
        log_every_steps=2,
        heldout_documents=2,
    )


def test_learning_rate_rises_stays_and_falls_to_zero() -> None:
    plan = TrainingPlan(1.0, seed=0, learning_rate=0.01, tokens_per_step=256, warmup_ratio=0.1, cooldown_ratio=0.5)
    rates = [plan.learning_rate_at(ratio) for ratio in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0, 1.1)]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.01, 0.005, 0.0, 0.0])


def test_windows_reach_their_last_length_at_half_time() -> None:
    plan = TrainingPlan(1.0, seed=0, learning_rate=0.01, tokens_per_step=256, window_lengths=(64, 256))
    assert [plan.window_length_at(ratio) for ratio in (0.0, 0.24, 0.25, 0.5, 1.0, 1.1)] == [64, 64, 256, 256, 256, 256]


@pytest.mark.parametrize(("field", "value"), [("minutes", 0.0), ("learning_rate", -1.0), ("tokens_per_step", 0)])
def test_impossible_plans_are_refused(field: str, value: float) -> None:
    values = {"minutes": 1.0, "seed": 0, "learning_rate": 0.1, "tokens_per_step": 256} | {field: value}
    with pytest.raises(ValueError, match=f"`{field} > 0` must hold"):
        TrainingPlan(**values)


def test_windows_that_do_not_fill_a_step_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens_per_step=100"):
        TrainingPlan(minutes=1.0, seed=0, learning_rate=0.1, tokens_per_step=100)


def test_seeds_of_heldout_streams_are_refused() -> None:
    with pytest.raises(ValueError, match="seed=1000000"):
        TrainingPlan(minutes=1.0, seed=1_000_000, learning_rate=0.1, tokens_per_step=256)


@pytest.mark.slow
def test_training_leaves_a_decoder_and_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "TOKENIZER_DOCUMENTS", 200)
    messages: list[str] = []
    seconds = itertools.count()
    train(_plan(minutes=0.05), tmp_path, messages.append, lambda: float(next(seconds)))
    log = (tmp_path / "decoder" / LOG_NAME).read_text().splitlines()
    first = json.loads(log[-1])
    assert (first["step"], first["tokens"], first["elapsed_s"]) == (3, 3 * 32, 3.0)
    weights = load_file(tmp_path / "decoder" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}

    train(_plan(minutes=0.1), tmp_path, messages.append, lambda: float(next(seconds)))
    assert "continuing after step 3" in messages
    continued = (tmp_path / "decoder" / LOG_NAME).read_text().splitlines()
    assert continued[: len(log)] == log
    assert json.loads(continued[-1])["step"] == 6
    assert not list(tmp_path.glob("*.partial"))


def test_checkpoint_restores_model_optimizer_and_progress(tmp_path: Path) -> None:
    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    model, optimizer = fresh()
    step(model, optimizer)
    progress = Progress(step=1, tokens=3, elapsed_s=0.5, next_document=7, leftover=[1, 2])
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, [optimizer], progress)
    other, other_optimizer = fresh()
    assert load_checkpoint(path, other, [other_optimizer]) == progress
    for pair in ((model, optimizer), (other, other_optimizer)):
        step(*pair)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    with safe_open(path, framework="pt") as file:
        assert any(name.endswith(":exp_avg") for name in file.keys())  # noqa: SIM118
