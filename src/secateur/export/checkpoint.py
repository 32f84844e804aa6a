"""Write a pruned model as a Hugging Face folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from secateur.model.families import FAMILIES, Family
from secateur.model.loading import DTYPES, DenseModel
from secateur.model.shape import BlockKind, DenseShape
from secateur.space.architecture import Architecture, LayerShape

MODELING_SOURCE = Path(__file__).with_name("modeling_secateur.py")


@dataclass(frozen=True)
class ExportedForm:
    """How an architecture is expressed. `files` go beside the weights; `remote_code` says if loading runs one."""

    config: dict[str, Any]
    files: dict[str, str]

    @property
    def remote_code(self) -> bool:
        return bool(self.files)

    def loading_lines(self, folder: str) -> tuple[str, str]:
        """Give the lines that load model and tokenizer.

        The tokenizer needs the flag too: transformers 5 reads the model's config for it, and would stop and ask.
        """
        flag = ", trust_remote_code=True" if self.remote_code else ""  # the folder's own modelling file
        return (
            f'model = AutoModelForCausalLM.from_pretrained("{folder}"{flag})',
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}"{flag})',
        )


def express(dense: DenseModel, architecture: Architecture, dtype: str, *, output_bias: bool = False) -> ExportedForm:
    """Choose the plainest form that holds an architecture: a stock config if its layers are alike, else per layer.

    Args:
        output_bias: The reconstruction gave narrowed blocks a bias. Where the dense output projection has none, no
            stock config holds such a block, not even in a uniform architecture.
    """
    shape = dense.shape.with_output_bias() if output_bias else dense.shape
    kept = [layer for layer in architecture.layers if layer.kv_heads or layer.ffn_width]
    base = dense.model.config.to_dict() | {"num_hidden_layers": len(kept), "dtype": dtype}
    base.pop("_name_or_path", None)
    if base.get("layer_types"):
        base["layer_types"] = [
            kind
            for kind, layer in zip(base["layer_types"], architecture.layers, strict=True)
            if layer.kv_heads or layer.ffn_width
        ]
    alike = len(set(kept)) == 1 and kept[0].kv_heads and kept[0].ffn_width
    alike = alike and not _blocks_with_new_bias(shape, kept[0])
    stock = _stock_config(dense, kept[0], base) if alike else None
    if stock is not None:
        return ExportedForm(config=stock, files={})
    return _per_layer_form(dense, shape, kept, base)


def save_checkpoint(dense: DenseModel, pruned: PreTrainedModel, form: ExportedForm, dtype: str, folder: Path) -> None:
    """Write weights, config, tokenizer and, where the form needs one, the modelling file into an empty folder."""
    folder.mkdir(parents=True)
    save_torch_state_dict(
        {name: tensor.to(DTYPES[dtype]) for name, tensor in _renumbered_state(dense, pruned).items()}, folder
    )
    (folder / "config.json").write_text(json.dumps(form.config, indent=2, sort_keys=True) + "\n")
    for name, text in form.files.items():
        (folder / name).write_text(text)
    dense.tokenizer.save_pretrained(folder)
    generation: GenerationConfig | None = dense.model.generation_config
    if generation is not None:
        generation.save_pretrained(folder)


def round_weights(model: PreTrainedModel, dtype: str) -> None:
    """Round a model's weights in place to what an export in `dtype` holds, so that what is evaluated is what ships."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(DTYPES[dtype]).to(parameter.dtype)


def modeling_file(family: Family) -> str:
    """Write the modelling file for a family: the Llama one with the family's names."""
    text = MODELING_SOURCE.read_text()
    return (
        text.replace("models.llama.modeling_llama", f"models.{family.model_type}.modeling_{family.model_type}")
        .replace("secateur_llama", f"secateur_{family.model_type}")
        .replace("Llama", family.class_prefix)
    )


def _renumbered_state(dense: DenseModel, pruned: PreTrainedModel) -> dict[str, Tensor]:
    """Give the pruned model's tensors under the names of a model without the layers that are gone altogether."""
    prefix = f"{dense.family.layers}."
    layers = pruned.get_submodule(dense.family.layers)
    present = [index for index, layer in enumerate(layers.children()) if any(True for _ in layer.parameters())]
    position = {old: new for new, old in enumerate(present)}
    tied = bool(pruned.config.tie_word_embeddings)
    state = {}
    for name, tensor in pruned.state_dict().items():
        if tied and name == f"{dense.family.head}.weight":
            continue
        if name.startswith(prefix):
            index, rest = name.removeprefix(prefix).split(".", 1)
            name = f"{prefix}{position[int(index)]}.{rest}"  # noqa: PLW2901
        state[name] = tensor.contiguous()
    return state


def _stock_config(dense: DenseModel, layer: LayerShape, base: dict[str, Any]) -> dict[str, Any] | None:
    """Express a uniform architecture with the stock classes, or None where they cannot hold it."""
    heads = layer.kv_heads * dense.shape.queries_per_group
    sizes = {
        "num_attention_heads": heads,
        "num_key_value_heads": layer.kv_heads,
        "intermediate_size": layer.ffn_width,
        "head_dim": dense.shape.head_dim,
    }
    if dense.shape.hidden_size % heads == 0 or dense.family.uniform_as == dense.family.model_type:
        return base | sizes
    if base.get("attention_bias") or base.get("mlp_bias"):
        return None
    stand_in = FAMILIES[dense.family.uniform_as]
    config_class = getattr(transformers, f"{stand_in.class_prefix}Config")
    known = config_class().to_dict()
    renamed = {key: value for key, value in (base | sizes).items() if key in known}
    renamed |= {
        "model_type": stand_in.model_type,
        "architectures": [f"{stand_in.class_prefix}ForCausalLM"],
        "sliding_window": None,
    }
    return config_class.from_dict(renamed).to_dict()


def _blocks_with_new_bias(shape: DenseShape, layer: LayerShape) -> list[str]:
    widths = {BlockKind.ATTENTION: layer.kv_heads, BlockKind.MLP: layer.ffn_width}
    return [kind.value for kind, width in widths.items() if shape.block(kind).added_at(width)]


def _per_layer_form(dense: DenseModel, shape: DenseShape, kept: list[LayerShape], base: dict[str, Any]) -> ExportedForm:
    prefix = f"Secateur{dense.family.class_prefix}"
    module = "modeling_secateur"
    overrides: dict[str, dict[str, Any]] = {}
    for index, layer in enumerate(kept):
        sizes: dict[str, Any] = {}
        skipped = []
        if layer.kv_heads:
            sizes["num_attention_heads"] = layer.kv_heads * dense.shape.queries_per_group
            sizes["num_key_value_heads"] = layer.kv_heads
        else:
            skipped.append("attention")
        if layer.ffn_width:
            sizes["intermediate_size"] = layer.ffn_width
        else:
            skipped.append("mlp")
        if skipped:
            sizes["skip"] = skipped
        if biased := _blocks_with_new_bias(shape, layer):
            sizes["output_bias"] = biased
        overrides[str(index)] = sizes
    if any("output_bias" in layer for layer in overrides.values()):
        base = base | {"output_bias": []}  # what a layer that names none has: transformers asks for it
    config = base | {
        "model_type": f"secateur_{dense.family.model_type}",
        "architectures": [f"{prefix}ForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.{prefix}Config", "AutoModelForCausalLM": f"{module}.{prefix}ForCausalLM"},
        "head_dim": dense.shape.head_dim,
        "per_layer_config": overrides,
    }
    return ExportedForm(config=config, files={f"{module}.py": modeling_file(dense.family)})
