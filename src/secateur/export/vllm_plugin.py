"""What vLLM calls in each of its processes, by the entry point `secateur` of `vllm.general_plugins` in pyproject.toml.

Importing this module imports Secateur, by which transformers knows exported per-layer configs; `register` names the
class that runs them. Written against the source of vLLM 0.33.0 and never run: docs/serving.md.
"""

from secateur.export.modeling_file import model_class_name
from secateur.model.families import FAMILIES, Family

MODEL = "secateur.export.vllm_model:SecateurForCausalLM"


def register() -> None:
    """Name the model class of every family that is served to vLLM, which imports it where a checkpoint asks for it."""
    from vllm import ModelRegistry  # noqa: PLC0415 - it may not be there

    for family in FAMILIES.values():
        if is_served(family):
            ModelRegistry.register_model(model_class_name(family), MODEL)


def is_served(family: Family) -> bool:
    """Say whether the backend is read to serve the family: named as Llama, heads counted by weights, logits undivided.

    The backend reads no divisor of logits but `logit_scale` (Granite), and cuts no attribute that counts heads (Phi-3).
    What it makes of a mixture's experts was not read.
    """
    named = family.layers == "model.layers" and family.head == "lm_head"
    return named and not (family.logits_divisor or family.attention.head_counts or family.mlp.experts)
