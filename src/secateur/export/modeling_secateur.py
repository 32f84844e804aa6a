"""A Llama decoder whose layers differ in size, written by Secateur. Needs transformers and nothing else.

Sizes come from the config's `per_layer_config`: per layer the number of heads and the width of the MLP where they
differ from the dense model's, `skip` for an attention or MLP that was removed, and `output_bias` for one whose output
projection has a bias that the dense model's has not.
"""

import copy

import torch
from torch import nn
from transformers import Cache
from transformers import LlamaConfig as DenseConfig
from transformers import LlamaForCausalLM as DenseForCausalLM
from transformers.pytorch_utils import Conv1D

# Where the dense model keeps what is cut: inside a layer the norms around a block, its module, the projections into and
# out of its heads or channels, norms over all of them, and attributes (of the module, of its config) that count heads.
# An MLP may be a mixture of experts instead: where these and the router are, and the config's entries of their sizes.
LAYERS = "model.layers"
WIDTH = "intermediate_size"
ATTENTION = {
    "norms": ["input_layernorm"],
    "module": "self_attn",
    "into": ["q_proj", "k_proj", "v_proj"],
    "out": "o_proj",
    "cut_norms": [],
    "counts": [],
}
MLP = {
    "norms": ["post_attention_layernorm"],
    "module": "mlp",
    "into": ["gate_proj", "up_proj"],
    "out": "down_proj",
    "cut_norms": [],
    "counts": [],
}
EXPERTS = {}


class SecateurLlamaConfig(DenseConfig):
    """The dense model's config with `per_layer_config`; the global sizes are the dense ones."""

    model_type = "secateur_llama"

    def validate(self):
        """Check nothing: the dense model's rules read sizes that differ between layers here."""


class AbsentAttention(nn.Module):
    """Stands where a layer's attention was: adds nothing to the residual stream.

    A cache's length is read off the first layer of each kind (full attention, sliding window). Where that layer has no
    attention, a zero per token keeps the count.
    """

    def __init__(self, cache_index):
        super().__init__()
        self.cache_index = cache_index

    def forward(self, hidden_states, *args, **kwargs):
        for cache in (*args, *kwargs.values()):
            if isinstance(cache, Cache) and self.cache_index is not None:
                count = hidden_states.new_zeros(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
                cache.update(count, count, self.cache_index)
        return torch.zeros_like(hidden_states), None


class AbsentMlp(nn.Module):
    """Stands where a layer's MLP was: adds nothing to the residual stream."""

    def forward(self, hidden_states):
        return torch.zeros_like(hidden_states)


def cut(tensor, axis, kept, dense):
    return nn.Parameter(tensor.detach().narrow(axis, 0, tensor.shape[axis] * kept // dense).clone())


def cut_projection(projection, axis, kept, dense):
    """Keep `kept` of `dense` parts of a projection's outputs (axis 0) or inputs (axis 1)."""
    transposed = isinstance(projection, Conv1D)
    projection.weight = cut(projection.weight, 1 - axis if transposed else axis, kept, dense)
    if axis == 0 and projection.bias is not None:
        projection.bias = cut(projection.bias, 0, kept, dense)
    if transposed:
        projection.nx, projection.nf = projection.weight.shape
    else:
        projection.out_features, projection.in_features = projection.weight.shape


def cut_block(module, names, kept, dense):
    """Keep `kept` of `dense` heads or channels; loading fills what is kept."""
    for name in names["into"]:
        cut_projection(module.get_submodule(name), 0, kept, dense)
    cut_projection(module.get_submodule(names["out"]), 1, kept, dense)
    for name in names["cut_norms"]:
        norm = module.get_submodule(name)
        for entry, parameter in list(norm.named_parameters()):
            setattr(norm, entry, cut(parameter, 0, kept, dense))
    for path in names["counts"]:
        holder = module
        if path.startswith("config."):
            holder = module.config = copy.copy(module.config)
        name = path.removeprefix("config.")
        setattr(holder, name, getattr(holder, name) * kept // dense)


def cut_experts(module, config, sizes):
    """Keep the first channels of every expert, or the first experts and their rows of the router."""
    experts, router = module.get_submodule(EXPERTS["module"]), module.get_submodule(EXPERTS["router"])
    count, width = getattr(sizes, EXPERTS["count"]), getattr(sizes, EXPERTS["width"])
    gate, up = experts.gate_up_proj.detach()[:count].chunk(2, dim=1)
    experts.gate_up_proj = nn.Parameter(torch.cat([gate[:, :width], up[:, :width]], dim=1))
    experts.down_proj = nn.Parameter(experts.down_proj.detach()[:count, :, :width].clone())
    experts.num_experts, experts.intermediate_dim = count, width
    router.weight = nn.Parameter(router.weight.detach()[:count].clone())
    router.num_experts, router.top_k = count, min(router.top_k, count)
    # What computes them is read off it.
    experts.config = config


def remove_block(layer, names, absent):
    for norm in names["norms"]:
        layer.set_submodule(norm, nn.Identity())
    if names["module"]:
        layer.set_submodule(names["module"], absent)
        return
    # An MLP without a module of its own; its activation gives zero for zero.
    layer.set_submodule(names["into"][0], absent)
    layer.set_submodule(names["out"], nn.Identity())


def add_bias(projection):
    """Give a projection without a bias one of zeros, which loading fills."""
    projection.bias = nn.Parameter(torch.zeros_like(projection.weight[:, 0]))


class SecateurLlamaForCausalLM(DenseForCausalLM):
    config_class = SecateurLlamaConfig

    def __init__(self, config):
        dense = copy.deepcopy(config)
        dense.per_layer_config = None
        super().__init__(dense)
        config._attn_implementation = dense._attn_implementation
        if EXPERTS:
            config._experts_implementation = dense._experts_implementation
        self.config = self.base_model.config = config
        kinds = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
        for index, layer in enumerate(self.get_submodule(LAYERS)):
            sizes = config.per_layer_config[index]
            skipped = getattr(sizes, "skip", None) or []
            biased = getattr(sizes, "output_bias", None) or []
            attention, mlp = (layer.get_submodule(names["module"]) for names in (ATTENTION, MLP))
            if "attention" in skipped:
                counts = index == kinds.index(kinds[index])
                remove_block(layer, ATTENTION, AbsentAttention(index if counts else None))
            else:
                cut_block(attention, ATTENTION, sizes.num_attention_heads, dense.num_attention_heads)
                # Where nothing differs but the numbers of heads, the implementation is read off the global config.
                if attention.config is dense:
                    attention.config = config
            if "mlp" in skipped:
                remove_block(layer, MLP, AbsentMlp())
            elif EXPERTS:
                cut_experts(mlp, config, sizes)
            else:
                width = mlp.get_submodule(MLP["out"]).weight.numel() // dense.hidden_size
                cut_block(mlp, MLP, getattr(sizes, WIDTH) or width, width)
            if "attention" in biased:
                add_bias(attention.get_submodule(ATTENTION["out"]))
            if "mlp" in biased:
                add_bias(mlp.get_submodule(MLP["out"]))
