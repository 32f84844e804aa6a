"""Decoder families as data: the names under which each keeps its projections.

A family is one entry of `FAMILIES`. All entries share one residual form, which `model.walk` and the exported modelling
file rely on:

    hidden = hidden + attention(attention_norm(hidden))
    hidden = hidden + mlp(mlp_norm(hidden))
"""

from dataclasses import dataclass

from secateur.errors import ModelError, suggestion


@dataclass(frozen=True)
class AttentionNames:
    """Names inside one decoder layer. `head_norms` act on each head and are shared by all heads (q/k norms)."""

    norm: str = "input_layernorm"
    module: str = "self_attn"
    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "o_proj"
    head_norms: tuple[str, ...] = ()


@dataclass(frozen=True)
class MlpNames:
    """Names inside one decoder layer. `inputs` are the projections whose output channels are the FFN channels."""

    norm: str = "post_attention_layernorm"
    module: str = "mlp"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"


@dataclass(frozen=True)
class Family:
    """One decoder family.

    `class_prefix` is what transformers puts before `ForCausalLM`, `Config` and `DecoderLayer`. `uniform_as` names the
    family whose stock classes express a uniformly pruned model of this one with the same mathematics and tensor names;
    it differs from the family itself where the family's config refuses a head count that does not divide the hidden
    size.
    """

    model_type: str
    class_prefix: str
    uniform_as: str
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    attention: AttentionNames = AttentionNames()
    mlp: MlpNames = MlpNames()


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        # LlamaConfig refuses hidden_size % num_attention_heads != 0 even with head_dim given; Mistral without a sliding
        # window is the same computation and does not.
        Family(model_type="llama", class_prefix="Llama", uniform_as="mistral"),
        Family(model_type="mistral", class_prefix="Mistral", uniform_as="mistral"),
        Family(model_type="qwen2", class_prefix="Qwen2", uniform_as="qwen2"),
        Family(
            model_type="qwen3",
            class_prefix="Qwen3",
            uniform_as="qwen3",
            attention=AttentionNames(head_norms=("q_norm", "k_norm")),
        ),
    )
}


def find_family(model_type: str) -> Family:
    """Look a family up by transformers' `model_type`.

    Raises:
        ModelError: The family has no entry; the message lists those that have.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            f"the model is of family {model_type!r}, which has no entry in secateur.model.families; "
            f"{suggestion(model_type, FAMILIES)}"
        )
    return FAMILIES[model_type]
