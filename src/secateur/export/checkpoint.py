"""Write a pruned model as a Hugging Face folder."""

import json
from itertools import compress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from secateur.export.form import ExportedForm
from secateur.export.modeling_file import MODULE, config_class_name, model_class_name, modeling_file
from secateur.model.families import FAMILIES, Family
from secateur.model.loading import DTYPES, DenseModel
from secateur.model.separate import joined_state
from secateur.model.shape import BlockKind, DenseShape
from secateur.space.architecture import Architecture, LayerShape


def express(dense: DenseModel, architecture: Architecture, dtype: str, *, output_bias: bool = False) -> ExportedForm:
    """Choose the plainest form that holds an architecture: a stock config if its layers are alike, else per layer.

    Args:
        output_bias: The reconstruction gave narrowed blocks a bias. Where the dense output projection has none, no
            stock config holds such a block, not even in a uniform architecture.
    """
    shape = dense.shape.with_output_bias() if output_bias else dense.shape
    present = [bool(layer.kv_heads or layer.ffn_width) for layer in architecture.layers]
    kept = list(compress(architecture.layers, present))
    entries = dense.model.config.attribute_map
    base = dense.model.config.to_dict() | {"dtype": dtype}
    base[entries.get("num_hidden_layers", "num_hidden_layers")] = len(kept)
    base.pop("_name_or_path", None)
    for name in dense.family.per_layer_lists:
        if base.get(name):
            base[name] = list(compress(base[name], present))
    alike = len(set(kept)) == 1 and kept[0].kv_heads and kept[0].ffn_width
    alike = alike and not _blocks_with_new_bias(shape, kept[0])
    stock = _stock_config(dense, kept[0], base) if alike else None
    if stock is not None:
        return ExportedForm(config=stock, files={})
    return _per_layer_form(dense, shape, kept, base)


def save_checkpoint(
    dense: DenseModel,
    pruned: PreTrainedModel,
    form: ExportedForm,
    dtype: str,
    folder: Path,
    shard_size: str = "5GB",
) -> None:
    """Write weights, config, tokenizer and, where the form needs one, the modelling file into an empty folder.

    Args:
        shard_size: Of a file of weights, at most; more than one get an index beside them.
    """
    folder.mkdir(parents=True)
    state = _renumbered_state(dense, pruned)
    if dense.family.mlp.experts is not None and not form.remote_code:
        # As the hub has it, a tensor per expert, which is what others than transformers read.
        state = revert_weight_conversion(dense.model, state)
    _save_shards(state, DTYPES[dtype], folder, shard_size)
    (folder / "config.json").write_text(json.dumps(form.config, indent=2, sort_keys=True) + "\n")
    for name, text in form.files.items():
        (folder / name).write_text(text)
    dense.tokenizer.save_pretrained(folder)
    generation: GenerationConfig | None = dense.model.generation_config
    if generation is not None:
        generation.save_pretrained(folder)


def _save_shards(state: dict[str, Tensor], dtype: torch.dtype, folder: Path, shard_size: str) -> None:
    """Write tensors in files of at most a size, with an index where they are several; one is converted at a time."""
    sizes = {name: torch.empty(tensor.shape, dtype=dtype, device="meta") for name, tensor in state.items()}
    split = split_torch_state_dict_into_shards(sizes, max_shard_size=shard_size)
    for file, names in split.filename_to_tensors.items():
        tensors = {name: state[name].to(dtype).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2))


def round_weights(model: PreTrainedModel, dtype: str) -> None:
    """Round a model's weights in place to what an export in `dtype` holds, so that what is evaluated is what ships."""
    for parameter in model.parameters():
        rounded = parameter.data.to(DTYPES[dtype]).to(parameter.dtype)
        if not torch.equal(rounded, parameter.data):  # what is shared with the dense model stays so
            parameter.data = rounded


def _renumbered_state(dense: DenseModel, pruned: PreTrainedModel) -> dict[str, Tensor]:
    """Give the pruned model's tensors under the names of a model without the layers that are gone altogether."""
    family = dense.family
    prefix = f"{family.layers}."
    layers = pruned.get_submodule(family.layers)
    present = [index for index, layer in enumerate(layers.children()) if any(True for _ in layer.parameters())]
    position = {old: new for new, old in enumerate(present)}
    tied = bool(pruned.config.tie_word_embeddings)
    state = {}
    for name, tensor in joined_state(pruned.state_dict(), family).items():
        if tied and name == f"{family.head}.weight":
            continue
        if name.startswith(prefix):
            index, rest = name.removeprefix(prefix).split(".", 1)
            name = f"{prefix}{position[int(index)]}.{rest}"  # noqa: PLW2901
        state[name] = tensor
    return state


def stock_holds(dense: DenseModel, kv_heads: int) -> bool:
    """Say whether some family's stock classes hold a model of so many KV heads in every layer."""
    config, family = dense.model.config, dense.family
    if _holds_heads(dense, family, kv_heads):
        return True
    # The stand-in has no biases.
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    return not biased and _holds_heads(dense, FAMILIES[family.uniform_as], kv_heads)


def _stock_config(dense: DenseModel, layer: LayerShape, base: dict[str, Any]) -> dict[str, Any] | None:
    """Express a uniform architecture with the stock classes, or None where they cannot hold it."""
    sizes = _sizes(dense, layer)
    config, family = dense.model.config, dense.family
    if _holds_heads(dense, family, layer.kv_heads):
        return base | {config.attribute_map.get(name, name): value for name, value in sizes.items()}
    if not stock_holds(dense, layer.kv_heads):
        return None
    stand_in = FAMILIES[family.uniform_as]
    config_class = CONFIG_MAPPING[stand_in.model_type]
    known = config_class().to_dict()
    renamed = {key: value for key, value in (base | sizes).items() if key in known}
    renamed |= {"model_type": stand_in.model_type, "architectures": [stand_in.class_name], "sliding_window": None}
    return config_class.from_dict(renamed).to_dict()


def _holds_heads(dense: DenseModel, family: Family, kv_heads: int) -> bool:
    """Say whether a family's stock classes hold a model of so many KV heads in every layer."""
    heads = kv_heads * dense.shape.queries_per_group
    if family.stock_heads == "dividing":
        return dense.shape.hidden_size % heads == 0
    return family.stock_heads == "any" or kv_heads == dense.shape.num_kv_heads


def _sizes(dense: DenseModel, layer: LayerShape) -> dict[str, int]:
    """Give the config entries of a layer's own sizes, under the names of the attributes."""
    sizes: dict[str, int] = {}
    if layer.kv_heads:
        sizes["num_attention_heads"] = layer.kv_heads * dense.shape.queries_per_group
        if hasattr(dense.model.config, "num_key_value_heads"):
            sizes["num_key_value_heads"] = layer.kv_heads
    if layer.ffn_width:
        sizes[dense.family.mlp.width] = layer.ffn_width
        experts = dense.family.mlp.experts
        if experts is not None and experts.whole:
            sizes[experts.per_token] = min(getattr(dense.model.config, experts.per_token), layer.ffn_width)
    if dense.family.stock_heads != "dense":
        sizes["head_dim"] = dense.shape.head_dim
    return sizes


def _blocks_with_new_bias(shape: DenseShape, layer: LayerShape) -> list[str]:
    widths = {BlockKind.ATTENTION: layer.kv_heads, BlockKind.MLP: layer.ffn_width}
    return [kind.value for kind, width in widths.items() if shape.block(kind).added_at(width)]


def _per_layer_form(dense: DenseModel, shape: DenseShape, kept: list[LayerShape], base: dict[str, Any]) -> ExportedForm:
    family = dense.family
    overrides: dict[str, dict[str, Any]] = {}
    for index, layer in enumerate(kept):
        sizes: dict[str, Any] = {name: value for name, value in _sizes(dense, layer).items() if name != "head_dim"}
        widths = {BlockKind.ATTENTION: layer.kv_heads, BlockKind.MLP: layer.ffn_width}
        if skipped := [kind.value for kind, width in widths.items() if not width]:
            sizes["skip"] = skipped
        if biased := _blocks_with_new_bias(shape, layer):
            sizes["output_bias"] = biased
        overrides[str(index)] = sizes
    if "output_router_logits" in base:
        base = base | {"output_router_logits": False}  # for a loss over all layers, of the same experts each
    if any("output_bias" in layer for layer in overrides.values()):
        base = base | {"output_bias": []}  # what a layer that names none has: transformers asks for it
    if family.stock_heads != "dense":
        base = base | {"head_dim": dense.shape.head_dim}
    classes = {"AutoConfig": config_class_name(family), "AutoModelForCausalLM": model_class_name(family)}
    config = base | {
        "model_type": f"secateur_{family.model_type}",
        "architectures": [model_class_name(family)],
        "auto_map": {auto: f"{MODULE}.{name}" for auto, name in classes.items()},
        "per_layer_config": overrides,
    }
    return ExportedForm(config=config, files={f"{MODULE}.py": modeling_file(family)})
