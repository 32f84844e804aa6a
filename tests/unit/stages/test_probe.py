"""Every family can be timed in miniature, and is left as it was."""

from dataclasses import fields

import pytest
import torch

from secateur.data import Role
from secateur.model.families import FAMILIES
from secateur.model.shape import decoder_layers
from secateur.stages.probe import first_layers, probe_speeds


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_is_timed_and_left_as_it_was(make_dense, make_tokens, family) -> None:
    dense = make_dense(family)
    tokens = make_tokens(Role.CALIBRATION, num_windows=4)
    before = dense.model(tokens.tokens).logits
    shape = dense.shape
    widths = (tuple(range(shape.attention.num_groups + 1)), (0, shape.mlp.num_groups // 2, shape.mlp.num_groups))
    speeds = probe_speeds(dense, tokens, widths, 0.7, "obs", "least_squares", 24, torch.float32)
    numbers = [value for field in fields(speeds) if isinstance(value := getattr(speeds, field.name), float)]
    assert all(value >= 0 for value in numbers)
    assert min(speeds.forward_token, speeds.backwards_token, *speeds.bank.values(), speeds.thinking) > 0
    assert len(decoder_layers(dense.model, dense.family)) == dense.model.config.num_hidden_layers == 3
    assert torch.equal(dense.model(tokens.tokens).logits, before)


def test_the_first_layers_share_their_tensors(make_dense) -> None:
    dense = make_dense()
    small = first_layers(dense, 2)
    assert len(decoder_layers(small.model, small.family)) == small.shape.num_layers == 2
    known = {id(parameter) for parameter in dense.model.parameters()}
    assert all(id(parameter) in known for parameter in small.model.parameters())
