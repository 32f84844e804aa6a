import numpy as np
import pytest
from pydantic import ValidationError

from planted import SPACE
from secateur.model.shape import BlockKind
from secateur.space.smaller_space import Choice, Removed, SmallerSpace

WHY = {"mean_effect": 0.3, "low": 0.1, "num_samples": 12, "round": 2}
ALONE = Removed(**Choice.of(SPACE, 3, 2).model_dump(), order=1, **WHY)
TOGETHER = Removed(**Choice.of(SPACE, 0, 1).model_dump(), order=2, partner=Choice.of(SPACE, 5, 4), **WHY)
DENSE = (8,) * 8


def changed(**levels):
    """The dense architecture but for some modules: m3=2 puts module 3 at level 2."""
    return tuple(levels.get(f"m{module}", level) for module, level in enumerate(DENSE))


def test_the_whole_space_admits_everything():
    whole = SmallerSpace.of(SPACE)
    rows = np.random.default_rng(0).integers(0, 9, size=(50, 8))
    assert whole.admitted(rows).all()
    assert whole.feasible_share(rows) == 1
    assert whole.removed == ()


def test_a_choice_that_has_left_is_not_admitted_and_others_of_its_module_are():
    smaller = SmallerSpace.of(SPACE, [ALONE])
    assert not smaller.admits(changed(m3=2))
    assert smaller.admits(changed(m3=1))
    assert smaller.admits(changed(m2=2))


def test_of_a_pair_that_has_left_each_is_still_admitted_alone():
    smaller = SmallerSpace.of(SPACE, [TOGETHER])
    assert not smaller.admits(changed(m0=1, m5=4))
    assert smaller.admits(changed(m0=1, m5=5))
    assert smaller.admits(changed(m0=2, m5=4))
    assert smaller.allowed == SmallerSpace.of(SPACE).allowed


def test_the_feasible_share_is_of_architectures_of_the_whole_space():
    rows = np.array([changed(m3=2), changed(m0=1, m5=4), changed(m3=1), DENSE])
    assert SmallerSpace.of(SPACE, [ALONE, TOGETHER]).feasible_share(rows) == 0.5


def test_what_left_and_why_survives_the_disk_and_gives_the_same_space():
    smaller = SmallerSpace.of(SPACE).without(SPACE, ALONE).without(SPACE, TOGETHER)
    read = [Removed.model_validate_json(each.model_dump_json()) for each in smaller.removed]
    assert SmallerSpace.of(SPACE, read) == smaller


def test_a_record_names_layer_block_and_width():
    assert (ALONE.layer, ALONE.kind, ALONE.width) == (1, BlockKind.MLP, 32)
    assert TOGETHER.partner == Choice(module=5, layer=2, kind=BlockKind.MLP, width=64)


def test_there_is_no_third_order():
    with pytest.raises(ValidationError):
        Removed(**Choice.of(SPACE, 3, 2).model_dump(), order=3, **WHY)
