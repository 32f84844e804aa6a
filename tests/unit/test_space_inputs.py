"""Which space a configuration leaves, and which alternative it is held against."""

import pytest

from secateur.config import build_config
from secateur.errors import ConfigError
from secateur.export.checkpoint import stock_holds
from secateur.inputs import define_limits
from secateur.model.families import FAMILIES
from secateur.search.methods import METHODS, SEARCHES
from secateur.space.uniform_space import UniformSpace
from secateur.space_inputs import alternative_of, refuse_target


def config_of(target="uniform", budget=None, **search):
    return build_config([{"export": {"target": target}, "budget": budget or {"keep": 0.6}, "search": search}])


class TestLayersAlike:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_have_head_counts_that_the_stock_classes_hold(self, make_dense, family):
        dense = make_dense(family)
        space, budget = define_limits(config_of(), dense)
        assert isinstance(space, UniformSpace)
        assert space.count(budget) > 0
        assert all(stock_holds(dense, heads) for heads in space.options[0][1:])

    def test_are_divided_among_devices(self, make_dense):
        limits = build_config([{"export": {"target": "uniform"}, "space": {"tensor_parallel": 4, "multiple_of": 2}}])
        dense = make_dense()
        space, _ = define_limits(limits, dense)
        assert all(heads * dense.shape.queries_per_group % 4 == 0 for heads in space.options[0])
        assert all(width % 4 == 0 for width in space.options[1])

    def test_protected_ones_stay(self, make_dense):
        limits = build_config([{"export": {"target": "uniform"}, "space": {"protect_first": 1, "protect_last": 1}}])
        space, _ = define_limits(limits, make_dense(num_hidden_layers=4))
        assert space.protected == {0, 3}

    @pytest.mark.parametrize("method", sorted(set(METHODS) - set(SEARCHES)))
    def test_need_a_method_that_keeps_them_so(self, method):
        with pytest.raises(ConfigError, match=f"--target uniform needs .* got search.method={method}"):
            refuse_target(config_of(method=method))
        refuse_target(config_of("per-layer", method=method))


class TestTheAlternative:
    def test_is_the_other_space_at_the_same_ceiling(self, make_dense):
        dense = make_dense()
        for target in ("uniform", "per-layer"):
            space, budget = define_limits(config_of(target), dense)
            alternative = alternative_of(config_of(target), dense)
            assert isinstance(alternative.space, UniformSpace) != isinstance(space, UniformSpace)
            assert alternative.budget.ceiling == budget.ceiling

    @pytest.mark.parametrize(
        "settings",
        [
            {"search": {"alternative_measurements": 24}},
            {"search": {"method": "random"}},
            {"budget": {"max_drop": "5%"}},
            {"budget": {"max_decode_ms": 1.0}},
            {"search": {"objectives": ["quality", "kv_cache_bytes_per_token"]}},
        ],
    )
    def test_is_left_out_where_it_is_not_asked_or_cannot_be_measured_alike(self, make_dense, settings):
        assert alternative_of(build_config([settings]), make_dense()) is None
