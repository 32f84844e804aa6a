"""Windows to train on: packed by domain, limited alike, with what counts in them."""

import pytest
import torch

from secateur.errors import DataError
from secateur.recovery.schedule import SCHEDULES, rate_factor
from secateur.recovery.text import build_recovery_set
from secateur.recovery.weighting import Evenly


def words(count: int, offset: int = 0) -> list[str]:
    return [" ".join(f"w{3 + (offset + n + k) % 90}" for k in range(9)) for n in range(count)]


def test_domains_give_the_same_share_of_their_text(tokenizer) -> None:
    documents = {"many": words(80), "few": words(20, 7)}
    everything = build_recovery_set(documents, tokenizer, 10, 10**6)
    assert everything.domain_names == ("many", "few")
    assert torch.bincount(everything.domains).tolist() == [80, 20]
    half = build_recovery_set(documents, tokenizer, 10, 500)
    assert torch.bincount(half.domains).tolist() == [40, 10]
    assert everything.fingerprint != half.fingerprint
    assert everything.counted.all()


def test_too_little_text_is_refused(tokenizer) -> None:
    with pytest.raises(DataError, match="at least 40 are needed"):
        build_recovery_set({"text": words(3)}, tokenizer, 10, 10**6)
    with pytest.raises(DataError, match="domain 'none' of the recovery set has less text that counts than a window"):
        build_recovery_set({"text": words(30), "none": ["w3"]}, tokenizer, 10, 10**6)


def test_an_epoch_takes_every_window_once_in_another_order() -> None:
    weighting = Evenly(num_windows=10, batch_windows=4, seed=3)
    taken = torch.cat([weighting.places(step) for step in range(5)])
    first, second = taken[:10].tolist(), taken[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    assert torch.equal(Evenly(10, 4, 3).places(3), weighting.places(3)), "whatever was asked before"


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_rise_then_fall_and_no_step_is_wasted(name) -> None:
    factors = [rate_factor(name, step, 100, 0.1) for step in range(100)]
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == 1
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.1
    assert min(factors) > 0
