"""Runs an exported per-layer model in vLLM's Transformers backend. Imported by vLLM alone.

Written against the source of vLLM 0.33.0 and never run. There the backend itself gives each layer's attention the heads
that `per_layer_config` names for the layer, and caches of as many. Two things it does not do: it builds models by
`AutoModel`, which knows no class of ours, and it refuses a layer without attention.
"""

from functools import cached_property

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from vllm.model_executor.models.transformers import TransformersForCausalLM
from vllm.model_executor.models.transformers.base import PreTrainedModelClasses

from secateur.export.registration import define_classes

READ = "0.33.0"
REPLACED = ("_create_model", "_pre_trained_model_classes", "_create_attention_instances", "_pp_indices")
if missing := [name for name in REPLACED if not hasattr(TransformersForCausalLM, name)]:
    raise ImportError(
        f"Secateur's vLLM plugin was written against vLLM {READ}; this vLLM's Transformers backend has no "
        f"{missing[0]!r}. Export with --target padded instead."
    )


class SecateurForCausalLM(TransformersForCausalLM):
    """A decoder whose layers differ in heads and width, and may have no attention or no MLP."""

    _layer: tuple[int, int] | None = None

    def _create_model(self) -> PreTrainedModel:
        """Build the causal model, whose class cuts the layers, and give the decoder under its head.

        A config that came from another process has not been registered in this one.
        """
        define_classes(self.config.model_type)
        return AutoModelForCausalLM.from_config(**self._from_config_kwargs).base_model

    @cached_property
    def _pre_trained_model_classes(self) -> PreTrainedModelClasses:
        with torch.device("meta"):
            model = self._create_model()
        return PreTrainedModelClasses(decoder=type(model.get_decoder()), encoders={})

    def _pp_indices(self) -> tuple[int, int]:
        return self._layer or super()._pp_indices()

    def _create_attention_instances(self, prefix: str = "") -> None:
        """Create vLLM's attention for the layers that have one, each as if it were this rank's only layer."""
        for index in range(*super()._pp_indices()):
            if "attention" in self.text_config.per_layer_config[index].skip:
                continue
            self._layer = (index, index + 1)
            super()._create_attention_instances(prefix)
        self._layer = None
