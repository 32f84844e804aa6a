"""Write a pruned model as one GGUF file for llama.cpp: architecture `llama` where layers are alike, else `deci`.

Format and names: the `gguf` package, and what llama.cpp's src/models/llama.cpp and deci.cpp read.
"""

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ModelError
from secateur.export.gguf_vocabulary import Vocabulary, read_vocabulary
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, DenseShape, block_names, decoder_layers
from secateur.space.architecture import Architecture, LayerShape

FILE_NAME = "model.gguf"
# `deci` leaves a layer out that has no FFN, and llama.cpp reads sizes of the cache off the first layer: where these are
# gone, an FFN of a Q8_0 block, or a KV head, of zeros stands there.
LEAST_FFN = 32
MISSING = "exporting to GGUF needs the `gguf` package; install it with: pip install 'secateur[gguf]'"
ATTENTION_NAMES = ("attn_q", "attn_k", "attn_v")
MLP_NAMES = ("ffn_gate", "ffn_up")


def gguf_package() -> Any:
    """Import `gguf`.

    Raises:
        ModelError: It is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise ModelError(MISSING) from error


def check_gguf(dense: DenseModel) -> None:
    """Refuse what llama.cpp's graphs of Llama do not compute; called before a run begins.

    Raises:
        ModelError: The family, its windows, its activation, its rotary embedding or its tokenizer have no place there,
            or the `gguf` package is missing.
    """
    gguf_package()
    config, family = dense.model.config, dense.family
    if not family.llama_form:
        raise ModelError(
            f"a model of family {family.model_type!r} cannot be written as GGUF: what it computes is not what the "
            "`llama` and `deci` graphs of llama.cpp do; use --target per-layer, uniform or padded"
        )
    slides = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or [])
    if slides or (getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)):
        raise ModelError("a model with sliding attention windows cannot be written as GGUF; use another --target")
    if config.hidden_act != "silu":
        raise ModelError(f"llama.cpp's graphs of Llama have the activation 'silu', the model has {config.hidden_act!r}")
    rotary: Any = dense.model.base_model.rotary_emb
    if rotary.attention_scaling != 1.0 or 2 * len(rotary.inv_freq) != dense.shape.head_dim:
        raise ModelError("the model's rotary embedding is partial or scales attention, which GGUF's `deci` has not")
    read_vocabulary(dense.tokenizer, dense.shape.vocab_size)


@dataclass(frozen=True)
class WrittenGguf:
    """What a file holds: llama.cpp's architecture, SHA-256 of every tensor, and entries that no model counts."""

    architecture: str
    digests: dict[str, str]
    added_parameters: int


def write_gguf(
    dense: DenseModel, pruned: PreTrainedModel, architecture: Architecture, dtype: str, path: Path
) -> WrittenGguf:
    """Write weights, sizes and vocabulary.

    Args:
        dtype: Of matrices; norms and biases are always float32, as llama.cpp wants them.

    Raises:
        ModelError: As `check_gguf`.
    """
    gguf = gguf_package()
    config, shape = dense.model.config, dense.shape
    kept = _kept(architecture)
    alike = len({layer for _, layer in kept}) == 1 and all(kept[0][1].model_dump().values())
    name = "llama" if alike else "deci"
    writer = gguf.GGUFWriter(path, name)
    kv_heads = [layer.kv_heads if place else max(1, layer.kv_heads) for place, (_, layer) in enumerate(kept)]
    heads = [count * shape.queries_per_group for count in kv_heads]
    widths = [layer.ffn_width or LEAST_FFN for _, layer in kept]
    writer.add_name(Path(dense.name).name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(len(kept))
    writer.add_head_count(heads[0] if alike else heads)
    writer.add_head_count_kv(kv_heads[0] if alike else kv_heads)
    writer.add_feed_forward_length(widths[0] if alike else widths)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(_rope_theta(dense))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    types = {"float32": gguf.LlamaFileType.ALL_F32, "float16": gguf.LlamaFileType.MOSTLY_F16}
    writer.add_file_type(types.get(dtype, gguf.LlamaFileType.MOSTLY_BF16))
    _add_vocabulary(writer, read_vocabulary(dense.tokenizer, shape.vocab_size))
    matrix = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    digests, added = {}, 0
    for tensor_name, tensor in gguf_tensors(dense, pruned, architecture):
        kind = gguf.GGMLQuantizationType[matrix if tensor.ndim == 2 else "F32"]
        data = gguf.quants.quantize(tensor.float().cpu().contiguous().numpy(), kind)
        digests[tensor_name] = hashlib.sha256(data.tobytes()).hexdigest()
        added += tensor.numel() if _is_added(tensor_name, kept) else 0
        writer.add_tensor(tensor_name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return WrittenGguf(name, digests, added)


def gguf_tensors(
    dense: DenseModel, pruned: PreTrainedModel, architecture: Architecture
) -> Iterator[tuple[str, Tensor]]:
    """Give the tensors of a pruned model under llama.cpp's names and in its layout."""
    family, shape = dense.family, dense.shape
    yield "token_embd.weight", _weight(pruned.get_input_embeddings())
    yield "output_norm.weight", _weight(pruned.get_submodule(family.final_norm))
    if not pruned.config.tie_word_embeddings:
        yield "output.weight", _weight(pruned.get_output_embeddings())
    factors = _rope_factors(dense)
    if not torch.allclose(factors, torch.ones_like(factors)):
        yield "rope_freqs.weight", factors
    layers = decoder_layers(pruned, family)
    for place, (index, layer) in enumerate(_kept(architecture)):
        for kind in BlockKind:
            attention = kind is BlockKind.ATTENTION
            names = block_names(family, kind)
            block = "attn" if attention else "ffn"
            if not architecture.width(index, kind):
                if not attention or place == 0:
                    yield from _idle_block(place, shape, kind)
                continue
            module = layers[index].get_submodule(names.module)
            yield f"blk.{place}.{block}_norm.weight", _weight(layers[index].get_submodule(names.norm))
            counts = (layer.kv_heads * shape.queries_per_group, layer.kv_heads)
            into = ATTENTION_NAMES if attention else MLP_NAMES
            for part, (name, source) in enumerate(zip(into, names.inputs, strict=True)):
                for entry, tensor in module.get_submodule(source).named_parameters():
                    rotated = attention and part < len(counts)
                    made = interleaved(tensor.detach(), counts[part]) if rotated else tensor.detach()
                    yield f"blk.{place}.{name}.{entry}", made
            output = "attn_output" if attention else "ffn_down"
            for entry, tensor in module.get_submodule(names.output).named_parameters():
                yield f"blk.{place}.{output}.{entry}", tensor.detach()


def interleaved(tensor: Tensor, num_heads: int) -> Tensor:
    """Reorder the rows of a query or key projection: llama.cpp rotates pairs of neighbours, transformers halves."""
    rows = tensor.reshape(num_heads, 2, tensor.shape[0] // num_heads // 2, *tensor.shape[1:])
    return rows.transpose(1, 2).reshape(tensor.shape)


def _is_added(name: str, kept: list[tuple[int, LayerShape]]) -> bool:
    """Say whether a tensor is of a block of zeros, or of no model's parameters."""
    if name == "rope_freqs.weight":
        return True
    parts = name.split(".")
    if parts[0] != "blk":
        return False
    layer = kept[int(parts[1])][1]
    return not (layer.kv_heads if parts[2].startswith("attn") else layer.ffn_width)


def _weight(module: Any) -> Tensor:
    return module.weight.detach()


def _idle_block(place: int, shape: DenseShape, kind: BlockKind) -> Iterator[tuple[str, Tensor]]:
    """Give a block that adds nothing."""
    queries = shape.queries_per_group * shape.head_dim
    if kind is BlockKind.ATTENTION:
        norm, into, out = (
            "attn_norm",
            dict(zip(ATTENTION_NAMES, (queries, *[shape.head_dim] * 2), strict=True)),
            "attn_output",
        )
    else:
        norm, into, out = "ffn_norm", dict.fromkeys(MLP_NAMES, LEAST_FFN), "ffn_down"
    yield f"blk.{place}.{norm}.weight", torch.ones(shape.hidden_size)
    for name, rows in into.items():
        yield f"blk.{place}.{name}.weight", torch.zeros(rows, shape.hidden_size)
    yield f"blk.{place}.{out}.weight", torch.zeros(shape.hidden_size, next(iter(into.values())))


def _kept(architecture: Architecture) -> list[tuple[int, LayerShape]]:
    return [(i, layer) for i, layer in enumerate(architecture.layers) if layer.kv_heads or layer.ffn_width]


def _rope_theta(dense: DenseModel) -> float:
    return float(dense.model.config.rope_parameters["rope_theta"])


def _rope_factors(dense: DenseModel) -> Tensor:
    """Give what each frequency is divided by, read off transformers' own: 1 where nothing is scaled."""
    rotary: Any = dense.model.base_model.rotary_emb
    exponents = torch.arange(0, dense.shape.head_dim, 2, dtype=torch.float32) / dense.shape.head_dim
    return (1.0 / _rope_theta(dense) ** exponents) / rotary.inv_freq.float().cpu()


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    for name, number in vocabulary.special.items():
        getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(vocabulary.begins_with_bos)
