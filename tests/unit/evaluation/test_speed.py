"""Timings on a clock that a test moves, and memory. No real time is asserted."""

import pytest
import torch

from secateur.errors import ConfigError
from secateur.evaluation.memory import peak_memory
from secateur.evaluation.speed import TimedModel, compare_speed, weights_bytes
from secateur.evaluation.timing import WARM_UPS


class CountingClock:
    """A clock that a model's forward passes move: so many seconds per token that goes in."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def charge(self, model, seconds):
        forward = model.forward

        def charged(*args, **kwargs):
            self.now += seconds * kwargs["input_ids"].shape[1]
            return forward(*args, **kwargs)

        model.forward = charged
        return model


@pytest.fixture
def clock():
    return CountingClock()


@pytest.fixture
def models(make_model, clock):
    return [
        TimedModel("dense", clock.charge(make_model(), 2.0), 100),
        TimedModel("pruned", clock.charge(make_model(seed=1), 1.0), 50),
    ]


def test_prefill_decode_and_throughput_are_told_apart(models, clock):
    speed = compare_speed(models, prompt_tokens=10, new_tokens=5, batch=3, repeats=4, seed=0, clock=clock)
    dense, pruned = speed.models
    assert (dense.prefill_ms.median, dense.decode_ms_per_token.median) == (20_000, 2_000), "decoding reads the cache"
    assert dense.throughput_tokens_per_s.median == pytest.approx(3 * 5 / (20 + 4 * 2))
    assert (pruned.prefill_ms.low, pruned.prefill_ms.high) == (10_000, 10_000)
    (ratio,) = speed.ratios
    assert (ratio.name, ratio.against) == ("pruned", "dense")
    assert (ratio.prefill.median, ratio.decode.low, ratio.throughput.high) == (0.5, 0.5, 2.0)
    assert (dense.weights_bytes, pruned.weights_bytes) == (100, 50)


def test_a_slow_moment_of_the_machine_is_in_both_parts_of_a_ratio(models, clock):
    """The machine slows down from repeat to repeat: times spread, their ratios do not."""
    step = iter(range(100))

    def slower():
        for each in models:
            clock.charge(each.model, 0.5 * next(step) / 2)

    repeated = compare_speed(models[:1] * 2, 8, 3, 1, 6, seed=0, clock=clock, advance=slower)
    assert repeated.models[0].prefill_ms.low < repeated.models[0].prefill_ms.high
    assert repeated.ratios[0].prefill.median == 1.0
    assert (repeated.ratios[0].prefill.low, repeated.ratios[0].prefill.high) == (1.0, 1.0)


def test_lengths_give_way_to_positions(models, clock):
    speed = compare_speed(models, prompt_tokens=500, new_tokens=500, batch=1, repeats=2, seed=0, clock=clock)
    assert (speed.prompt_tokens, speed.new_tokens) == (32, 32), "of 64 positions"
    with pytest.raises(ConfigError, match="at least 2 new tokens"):
        compare_speed(models, 8, 1, 1, 2, seed=0, clock=clock)


def test_all_are_warmed_up_and_then_timed_as_often(models, clock):
    calls = []
    for each in models:
        each.model.register_forward_hook(lambda *_, name=each.name: calls.append(name))
    compare_speed(models, 4, 2, 1, repeats=3, seed=0, clock=clock)
    # A prefill is one pass; decoding one token two; and the measure of memory once more two.
    assert [calls.count(name) for name in ("dense", "pruned")] == [(1 + 2) * (WARM_UPS + 3) + 2] * 2


def test_memory_is_the_weights_and_what_the_work_adds(make_model):
    model = make_model()
    own = sum(each.numel() * each.element_size() for each in (*model.parameters(), *model.buffers()))
    grown = peak_memory(model, lambda: torch.ones(32 << 20))
    if grown is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert own + 0.9 * (128 << 20) < grown < own + 1.3 * (128 << 20)


def test_files_are_counted_where_there_are_some(save_model, tmp_path, make_model):
    folder = save_model(tmp_path / "model")
    assert weights_bytes(str(folder), make_model(), "float32") == (folder / "model.safetensors").stat().st_size
    parameters = sum(each.numel() for each in make_model().parameters())
    assert weights_bytes("somebody/hub-id", make_model(), "bfloat16") == 2 * parameters
