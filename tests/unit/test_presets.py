"""Published methods as settings: every one of them can be run, and says where it comes from."""

import re

import pytest

from secateur.config import RunConfig, build_config
from secateur.errors import ConfigError
from secateur.presets import PRESETS, find_preset
from secateur.pruning.orders import IMPORTANCE
from secateur.search.methods import ALLOCATIONS


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_a_valid_configuration(name):
    config = build_config([PRESETS[name].settings])
    assert config.pruning.importance in IMPORTANCE
    settings = PRESETS[name].settings
    assert build_config([settings, {"budget": {"keep": 0.5}}]) == config.model_copy(
        update={"budget": config.budget.model_copy(update={"keep": 0.5})}
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_title_and_a_source(name):
    preset = find_preset(name)
    assert preset.name == name
    assert preset.title
    assert preset.source
    if preset.published and name != "secateur":
        assert re.search(r"\b\d{4}\.\d{5}\b", preset.source), "published methods name their paper"


def test_a_preset_decides_about_order_or_allocation():
    assert {preset.decides for preset in PRESETS.values()} == {"order", "allocation"}
    for preset in PRESETS.values():
        if preset.decides == "order":
            assert build_config([preset.settings]).search.method == "uniform"


@pytest.mark.parametrize("decides", ["order", "allocation"])
def test_no_two_presets_are_the_same_method(decides):
    """OSSCAR's order at a uniform ratio is also the baseline of the allocations; within one table nothing is twice."""
    configs = [build_config([preset.settings]) for preset in PRESETS.values() if preset.decides == decides]
    assert all(one != other for number, one in enumerate(configs) for other in configs[:number])


def test_secateur_is_the_default():
    assert build_config([PRESETS["secateur"].settings]) == RunConfig()


def test_every_allocation_is_some_presets():
    methods = {build_config([preset.settings]).search.method for preset in PRESETS.values()}
    assert set(ALLOCATIONS) <= methods


def test_published_methods_have_no_more_than_their_own_reconstruction():
    """Sequential reconstruction is this tool's; it must not help those that it is compared with."""
    for preset in PRESETS.values():
        sequential = build_config([preset.settings]).pruning.reconstruction == "sequential"
        assert sequential == (preset.name == "secateur")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("flapp", "flap"), ("ji2032", "ji2023"), ("LLM-pruner", "llm-pruner"), ("wanda_sp", "wanda-sp")],
)
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=rf"preset '{name}' is unknown; known: .*; did you mean '{nearest}'\?"):
        find_preset(name)


def test_a_name_like_none_lists_all():
    with pytest.raises(ConfigError, match=r"known: evopress, flap, .*, wanda-sp$"):
        find_preset("nonsense")
