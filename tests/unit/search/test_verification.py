"""What is verified next: the smallest that is expected to hold, at most so many times, learning from each."""

import pytest

from secateur.search.verification import Predicted, Prospect, Verification, next_to_verify, smallest_held
from secateur.space.architecture import Architecture

LIMIT = 0.1


def prospect(share, searched):
    width = round(share * 1000)
    return Prospect(
        architecture=Architecture.from_widths((width, width)), share=share, searched=searched, predicted=None
    )


# From the smallest to the largest: half a percent of the size apart, the drop falling by a tenth each.
PROSPECTS = [prospect(0.7 + 0.005 * step, 0.2 * 0.9**step) for step in range(40)]


def run(factor, most=6, prospects=PROSPECTS):
    """Verify until there is no more to do; a verified bound is the searched one times a factor."""
    verified = []
    while (each := next_to_verify(prospects, verified, LIMIT, most)) is not None:
        bound = each.searched * (factor(each) if callable(factor) else factor)
        verified.append(Verification(prospect=each, drop=0.9 * bound, bound=bound, held=bound <= LIMIT))
    return verified


def smallest_that_holds(factor):
    return min((each for each in PROSPECTS if each.searched * factor <= LIMIT), key=lambda each: each.share)


def test_where_the_search_was_right_one_verification_is_enough():
    verified = run(1.0)
    assert len(verified) == 1
    assert smallest_held(verified).prospect == smallest_that_holds(1.0)


@pytest.mark.parametrize("factor", [0.5, 0.8, 0.95, 1.05, 1.3, 2.0])
def test_a_factor_between_search_and_result_is_learned_from_the_first(factor):
    verified = run(factor)
    assert len(verified) <= 3
    assert smallest_held(verified).prospect.share <= smallest_that_holds(factor).share + 0.011


def test_a_larger_one_is_tried_after_one_that_failed_and_a_smaller_one_after_one_that_held():
    failed = run(1.5)
    assert not failed[0].held
    assert failed[1].prospect.share > failed[0].prospect.share
    held = run(0.7)
    assert held[0].held
    assert held[1].prospect.share < held[0].prospect.share


@pytest.mark.parametrize("most", [1, 3, 6])
def test_never_more_than_allowed_and_nothing_twice(most):
    """A factor that jumps about teaches nothing."""
    verified = run(lambda each: 0.5 if round(each.share * 1000) % 10 else 2.5, most)
    assert 1 <= len(verified) <= most
    assert len({each.prospect.architecture.key for each in verified}) == len(verified)


def test_where_nothing_holds_all_are_spent_on_ever_safer_ones():
    verified = run(1e3)
    assert len(verified) == 6
    assert smallest_held(verified) is None
    assert verified[1].prospect == PROSPECTS[-1], "what loses least is the last resort"


def test_the_smallest_that_held_is_the_result_however_large_the_others_are():
    verified = run(0.5)
    shares = [each.prospect.share for each in verified if each.held]
    assert smallest_held(verified).prospect.share == min(shares)
    assert smallest_held([]) is None


def test_the_dense_model_is_no_prospect():
    assert next_to_verify([prospect(1.0, 0.01)], [], LIMIT, 6) is None


def test_drops_are_written_in_another_unit_everywhere():
    said = Predicted(drop=1.0, low=0.5, high=2.0)
    each = prospect(0.8, 3.0).model_copy(update={"predicted": said})
    written = Verification(prospect=each, drop=4.0, bound=5.0, held=False).written(lambda drop: 10 * drop)
    assert (written.drop, written.bound, written.prospect.searched) == (40, 50, 30)
    assert written.prospect.predicted == Predicted(drop=10, low=5, high=20)
    assert written.prospect.share == 0.8
