"""A Llama decoder whose layers differ in size, written by Secateur. Needs transformers and nothing else.

Sizes come from the config's `per_layer_config`: per layer `num_attention_heads`, `num_key_value_heads` and
`intermediate_size` where they differ from the dense model's, `skip` for an attention or MLP that was removed, and
`output_bias` for one whose output projection has a bias that the dense model's has not.
"""

import copy

import torch
from torch import nn
from transformers import LlamaConfig as DenseConfig
from transformers import LlamaForCausalLM as DenseForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer as DenseDecoderLayer


class SecateurLlamaConfig(DenseConfig):
    """The dense model's config with `per_layer_config`; the global sizes are the dense ones."""

    model_type = "secateur_llama"

    def validate(self):
        """Check nothing: the dense model's rules read sizes that differ between layers here."""


class AbsentAttention(nn.Module):
    """Stands where a layer's attention was: adds nothing to the residual stream."""

    def forward(self, hidden_states, **_kwargs):
        return torch.zeros_like(hidden_states), None


class AbsentMlp(nn.Module):
    """Stands where a layer's MLP was: adds nothing to the residual stream."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def add_bias(projection):
    """Give a projection without a bias one of zeros, which loading fills."""
    projection.bias = nn.Parameter(torch.zeros_like(projection.weight[:, 0]))


class SecateurLlamaForCausalLM(DenseForCausalLM):
    config_class = SecateurLlamaConfig

    def __init__(self, config):
        scaffold = copy.deepcopy(config)
        scaffold.per_layer_config = None
        scaffold.num_hidden_layers = 0
        super().__init__(scaffold)
        config._attn_implementation = scaffold._attn_implementation
        self.config = self.model.config = config
        cache_index = 0
        for index in range(config.num_hidden_layers):
            sizes = config.per_layer_config[index]
            skipped = getattr(sizes, "skip", None) or []
            biased = getattr(sizes, "output_bias", None) or []
            layer = DenseDecoderLayer(sizes, index)
            if "attention" in skipped:
                layer.input_layernorm, layer.self_attn = nn.Identity(), AbsentAttention()
            else:
                # Only layers with attention have a place in the KV cache; the first of them must be the first there,
                # since the cache's length is read off it. The attention implementation is read off the global config.
                layer.self_attn.layer_idx, layer.self_attn.config = cache_index, config
                cache_index += 1
            if "mlp" in skipped:
                layer.post_attention_layernorm, layer.mlp = nn.Identity(), AbsentMlp()
            if "attention" in biased:
                add_bias(layer.self_attn.o_proj)
            if "mlp" in biased:
                add_bias(layer.mlp.down_proj)
            self.model.layers.append(layer)
        self.post_init()
