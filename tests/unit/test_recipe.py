"""A recipe as a user writes it: what it leaves open is decided from the model and the text."""

import pytest

from secateur.recipe import HIGHEST_RATE, RECIPES, USUAL_STEPS, Recipe


@pytest.mark.parametrize(("windows", "decided"), [(100, 2), (800, 4), (4_000, 20), (100_000, 64)])
def test_a_step_takes_as_many_windows_as_give_the_usual_steps(windows, decided):
    recipe = Recipe(epochs=2).resolved(windows, dense=False)
    assert recipe.batch_windows == decided
    if 2 < decided < 64:
        assert recipe.steps(windows) == USUAL_STEPS


@pytest.mark.parametrize("way", ["ratio", "p-dro"])
def test_an_adversary_is_given_windows_to_weigh_against_each_other(way):
    assert Recipe(robust=way).resolved(100, dense=True).batch_windows == 8
    assert Recipe(robust=way, batch_windows=3).resolved(100, dense=True).batch_windows == 3


def test_half_of_the_loss_is_the_dense_models_where_it_is_there_and_nothing_was_said():
    assert Recipe().resolved(100, dense=True).distill == 0.5
    assert Recipe().resolved(100, dense=False).distill == 0.0
    assert Recipe(distill=0.0).resolved(100, dense=True).distill == 0.0


def test_the_rate_falls_as_one_over_the_width_from_the_published_one():
    assert Recipe().rate(4_096) == pytest.approx(1e-4)
    assert Recipe().rate(1_024) == pytest.approx(4e-4)
    assert Recipe().rate(16) == HIGHEST_RATE
    assert Recipe(learning_rate=0.3).rate(4_096) == 0.3


def test_the_published_recipe_leaves_nothing_to_the_defaults():
    settings = RECIPES["llm-pruner"]["recovery"]
    assert (settings["rank"], settings["alpha"], settings["dropout"], settings["learning_rate"]) == (8, 16, 0.05, 1e-4)
    recipe = Recipe(**settings)
    assert recipe.resolved(100, dense=True) == recipe
