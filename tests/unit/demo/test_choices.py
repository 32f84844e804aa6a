import math
from collections import Counter

import pytest

from secateur.demo.choices import RecordedChoices, derive_seed


def test_derived_seeds_are_fixed_and_differ() -> None:
    assert derive_seed("document", 0, 1) == derive_seed("document", 0, 1)
    assert len({derive_seed("document", seed, index) for seed in range(20) for index in range(20)}) == 400


def test_surprisal_adds_up_over_choices() -> None:
    choices = RecordedChoices(seed=3)
    choices.pick("abcd")
    choices.integer(0, 9)
    choices.sample("abcde", 2)
    assert choices.surprisal == pytest.approx(math.log(4) + math.log(10) + math.log(5 * 4))


def test_weighted_pick_pays_for_the_option_taken() -> None:
    weights = {"rare": 1.0, "frequent": 3.0}
    for seed in range(20):
        choices = RecordedChoices(seed)
        taken = choices.pick_weighted(weights)
        assert choices.surprisal == pytest.approx(-math.log(weights[taken] / 4))


def test_weighted_pick_follows_its_weights() -> None:
    choices = RecordedChoices(seed=0)
    counts = Counter(choices.pick_weighted({"rare": 1.0, "frequent": 3.0}) for _ in range(4000))
    assert counts["rare"] / 4000 == pytest.approx(0.25, abs=0.03)


def test_mean_surprisal_is_the_entropy_of_what_is_drawn() -> None:
    """Draws pairs of unequal probability often enough to count them, and compares with the plug-in entropy."""
    num_draws = 20_000
    counts: Counter[tuple[str, int]] = Counter()
    surprisal = 0.0
    for seed in range(num_draws):
        choices = RecordedChoices(seed)
        letter = choices.pick_weighted({"a": 0.7, "b": 0.3})
        counts[letter, choices.integer(0, 1 if letter == "a" else 4)] += 1
        surprisal += choices.surprisal
    entropy = -sum(count / num_draws * math.log(count / num_draws) for count in counts.values())
    assert surprisal / num_draws == pytest.approx(entropy, rel=0.01)


def test_sample_takes_every_option_once_and_every_order() -> None:
    orders = {tuple(RecordedChoices(seed).sample("abc", 3)) for seed in range(200)}
    assert len(orders) == 6
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)


def test_impossible_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one option"):
        RecordedChoices(0).pick([])
    with pytest.raises(ValueError, match=r"num_samples=3"):
        RecordedChoices(0).sample("ab", 3)
