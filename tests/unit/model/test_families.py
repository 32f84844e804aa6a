import pytest
import transformers

from secateur.errors import ModelError
from secateur.model.families import FAMILIES, find_family


def test_an_unknown_family_lists_the_known_ones_and_suggests_the_nearest():
    with pytest.raises(
        ModelError, match=r"'qwen'.*known: .*llama, mistral, .*qwen2, .*qwen3, .*; did you mean 'qwen[23]'"
    ):
        find_family("qwen")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_names_what_transformers_has(name, make_dense):
    family = find_family(name)
    assert family.model_type == name
    assert family.uniform_as in FAMILIES
    model = make_dense(name).model
    assert type(model) is getattr(transformers, family.class_name)
    layers = model.get_submodule(family.layers)
    assert [type(layer).__name__.startswith(family.class_prefix) for layer in layers] == [True] * 3
    attention = layers[0].get_submodule(family.attention.module)
    for norm in family.attention.head_norms:
        assert attention.get_submodule(norm).weight.shape == (8,)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_rewritten_where_loading_leaves_other_modules(name, make_dense):
    model = make_dense(name).model
    stock = type(model)(model.config)
    kinds = [{(path, type(module)) for path, module in each.named_modules()} for each in (model, stock)]
    assert find_family(name).is_rewritten == (kinds[0] != kinds[1])
