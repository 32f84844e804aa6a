import pytest
import torch

from secateur.evaluation.prefix_cache import PrefixCache

STATE = torch.zeros(4)
BYTES = 16


@pytest.fixture
def cache():
    """Room for three states, in the first pass."""
    made = PrefixCache(3 * BYTES)
    made.begin_pass()
    return made


def depths(cache, *widths):
    """How far each of several candidates is known."""
    return [cache.deepest(0, each) for each in widths]


def test_gives_the_furthest_state_that_a_candidate_begins_with(cache):
    cache.put(0, (1,), STATE)
    cache.put(0, (1, 2), STATE)
    assert depths(cache, (1, 2, 3), (1, 5, 3), (4, 2, 3)) == [2, 1, 0]
    assert cache[0, (1, 2)] is STATE
    assert cache.deepest(1, (1, 2, 3)) == 0, "of other tokens nothing is known"


def test_a_whole_candidate_has_no_state_to_go_on_from(cache):
    cache.put(0, (1, 2), STATE)
    assert cache.deepest(0, (1, 2)) == 0


def test_never_holds_more_than_its_bytes(cache):
    for width in range(10):
        cache.put(0, (width,), STATE)
        assert cache.num_bytes <= 3 * BYTES
    cache.put(0, (11,), torch.zeros(13))
    assert cache.num_bytes == 3 * BYTES


def test_of_one_pass_what_came_first_stays(cache):
    for prefix in [(1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)]:
        cache.put(0, prefix, STATE)
    assert depths(cache, (1, 2, 3, 4, 5)) == [3]


def test_what_an_earlier_pass_used_goes_deepest_first(cache):
    for prefix in [(1,), (1, 2), (1, 2, 3)]:
        cache.put(0, prefix, STATE)
    cache.begin_pass()
    cache.put(0, (7,), STATE)
    assert depths(cache, (1, 2, 3, 4), (7, 1)) == [2, 1]


def test_what_is_used_again_stays_with_all_before_it(cache):
    for prefix in [(1,), (1, 2), (5,)]:
        cache.put(0, prefix, STATE)
    cache.begin_pass()
    assert cache.deepest(0, (1, 2, 9)) == 2
    for prefix in [(6,), (6, 7)]:
        cache.put(0, prefix, STATE)
    assert depths(cache, (1, 2, 9), (5, 1), (6, 7, 8)) == [2, 0, 1]


def test_without_room_nothing_is_kept():
    nothing = PrefixCache(0)
    nothing.begin_pass()
    nothing.put(0, (1,), STATE)
    assert nothing.deepest(0, (1, 2)) == 0
