"""A model that is in memory already -> a dense model. The one that was given stays as it is, and is not there twice."""

import copy
from pathlib import Path
from typing import Literal

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import ModelError
from secateur.model.families import Family, find_family, with_experts
from secateur.model.loading import DTYPES, DenseModel, as_dense
from secateur.model.placement import refuse_offloaded

NAMES = {dtype: name for name, dtype in DTYPES.items()}


def live_dense(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str = "auto",
    scratch: Path | None = None,
    experts: Literal["widths", "whole"] = "widths",
) -> DenseModel:
    """Make a dense model of one in memory, on the devices where it lies.

    Modules are new ones and weights the same memory, so that nothing that is done to the dense model shows in the one
    that was given; it may be in training mode, and its parameters may have gradients.

    Args:
        dtype: To compute in; `auto` as `load_dense` has it. Weights of another are converted, the given ones are not.
        scratch: Folder for files from which converted weights on a CPU are mapped; what is not converted needs none.
        experts: As `load_dense` takes it.

    Raises:
        ModelError: It is no causal model of a known family with weights of its own in a floating-point type.
    """
    family = with_experts(check_live(model), experts)
    own = sharing_copy(model).eval()
    stored = NAMES[model.dtype]
    on_cpu = all(parameter.device.type == "cpu" for parameter in own.parameters())
    computed = DTYPES[dtype if dtype != "auto" else ("float32" if on_cpu else stored)]
    own.config.dtype = computed
    converted = [each for each in own.parameters() if each.is_floating_point() and each.dtype is not computed]
    if converted and (scratch is None or not on_cpu):
        for parameter in converted:
            parameter.data = parameter.data.to(computed)
        converted = []
    restore_buffers(own)
    name = str(model.name_or_path) or type(model).__name__
    return as_dense(name, own, tokenizer, family, stored, scratch if converted else None)


def check_live(model: object) -> Family:
    """Give the family of a model in memory.

    Raises:
        ModelError: As `live_dense`; says what to give instead.
    """
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"the model is a {type(model).__name__}, expected a causal model of transformers, a folder or a hub id; "
            "of a PEFT model give what merge_and_unload() returns, of a compiled one the model that was compiled"
        )
    family = find_family(model.config.model_type)
    expected = getattr(transformers, family.class_name)
    if not isinstance(model, expected):
        raise ModelError(
            f"the model is a {type(model).__name__}, expected a {family.class_name}; load it with AutoModelForCausalLM"
        )
    if getattr(model, "peft_config", None):
        raise ModelError("the model carries adapters; merge them into its weights first, or take them off")
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelError(
            "the model is quantised, and quantised weights cannot be cut; prune first, quantise afterwards"
        )
    if model.dtype not in NAMES:
        raise ModelError(f"the model's weights are {model.dtype}, expected {', '.join(DTYPES)}; convert it with .to()")
    refuse_offloaded(model)
    return family


def sharing_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model's modules, config and buffers; parameters are new objects on the same memory."""
    shared = {id(parameter): nn.Parameter(parameter.detach(), requires_grad=False) for parameter in model.parameters()}
    return copy.deepcopy(model, memo=dict(shared))


def restore_buffers(model: PreTrainedModel) -> None:
    """Give buffers that no checkpoint holds the type again that they are made in.

    `model.half()` and `model.to(dtype)` round them as well (frequencies of rotary embeddings), which an export that is
    loaded elsewhere does not: it would not compute what was measured.
    """
    rounded = {name: buffer for name, buffer in model.named_buffers() if buffer.dtype in NAMES}
    if all(buffer.dtype is torch.float32 for buffer in rounded.values()):
        return
    with init_empty_weights(include_buffers=False):
        fresh = dict(type(model)(copy.deepcopy(model.config)).named_buffers())
    for name, buffer in rounded.items():
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        if own in module._non_persistent_buffers_set and fresh[name].dtype is not buffer.dtype:
            module.register_buffer(own, fresh[name].to(buffer.device), persistent=False)
