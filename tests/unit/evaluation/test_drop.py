"""The bound of a drop: what other windows of the same text stay below, as often as was said."""

import pytest
import torch

from secateur.evaluation.drop import drop_bound


def test_the_mean_over_other_windows_is_below_it_as_often_as_was_said():
    generator = torch.Generator().manual_seed(0)
    kept = 0
    for _ in range(2_000):
        seen = 0.1 + 0.05 * torch.randn(16, generator=generator)
        to_come = 0.1 + 0.05 * torch.randn(64, generator=generator)
        kept += bool(to_come.mean() <= drop_bound(seen, 64, 0.95))
    assert 0.935 <= kept / 2_000 <= 0.965


def test_more_windows_of_either_kind_narrow_it():
    windows = torch.tensor([0.1, 0.3] * 8)
    assert drop_bound(windows, 100, 0.95) < drop_bound(windows, 10, 0.95) < drop_bound(windows[:4], 10, 0.95)
    assert drop_bound(windows, 10, 0.95) > 0.2


def test_answers_that_are_all_alike_promise_no_certainty():
    alike = torch.zeros(100)
    assert drop_bound(alike, 100, 0.95) == 0
    assert drop_bound(alike, 100, 0.95, least_variance=0.01) == pytest.approx(0.0235, abs=1e-3)


def test_one_window_has_no_deviation():
    with pytest.raises(ValueError, match="at least two"):
        drop_bound(torch.tensor([0.1]), 10, 0.95)
