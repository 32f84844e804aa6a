import pytest
import transformers

from secateur.errors import ModelError
from secateur.model.families import FAMILIES, find_family


def test_an_unknown_family_lists_the_known_ones_and_suggests_the_nearest():
    with pytest.raises(ModelError, match=r"'qwen'.*known: .*llama, mistral, .*qwen2, qwen3, .*; did you mean 'qwen[23]'"):
        find_family("qwen")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_names_what_transformers_has(name, make_dense):
    family = find_family(name)
    assert family.model_type == name
    assert family.uniform_as in FAMILIES
    model = make_dense(name).model
    assert type(model) is getattr(transformers, f"{family.class_prefix}ForCausalLM")
    assert type(model.model.layers[0]).__name__ == f"{family.class_prefix}DecoderLayer"
    for norm in family.attention.head_norms:
        assert getattr(model.model.layers[0].self_attn, norm).weight.shape == (8,)
