"""Decoder families as data: the names under which each keeps its projections, and what sets it apart.

A family is one entry of `FAMILIES`; docs/families.md says how to add one. All share one residual form, with x the input
of a layer:

    h = x + scale * post_norm(attention(norm(x)))
    h + scale * post_norm(mlp(norm(h)))      or, where the residual is parallel, norm(x) in the MLP

in which norms may be absent and the scale is one for most. Fused projections are separated when a model is loaded
(`model.separate`), so that names with a dot, as `qkv_proj.key`, are parts of one that the checkpoint stores whole.
"""

from dataclasses import dataclass, replace
from typing import Literal

from secateur.errors import ModelError, suggestion


@dataclass(frozen=True)
class Stacked:
    """A projection that is stored as several, one behind the other along its outputs.

    `parts` name them; a part has `query`, `key` or `value` rows in attention, and the FFN's width in an MLP.
    """

    name: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class AttentionNames:
    """Names inside one decoder layer.

    Attributes:
        norm: Of the block's input; empty where there is none.
        post_norm: Of the block's output, before it is added; empty where there is none.
        inputs: Projections whose outputs are cut with the heads, each in equal parts per KV-head group.
        head_norms: Act on each head and are shared by all heads (q/k norms); nothing of them is cut.
        cut_norms: Norms over all heads together, cut with them, each with the projection that it norms.
        stacked: A fused projection into the heads.
        head_counts, kv_head_counts, query_widths: Attributes of the module, or of its config where they begin with
            `config.`, that hold a number of query heads, of KV heads, or of query columns; narrower modules need
            others.
    """

    norm: str = "input_layernorm"
    post_norm: str = ""
    module: str = "self_attn"
    inputs: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    output: str = "o_proj"
    head_norms: tuple[str, ...] = ()
    cut_norms: tuple[tuple[str, str], ...] = ()
    stacked: Stacked | None = None
    head_counts: tuple[str, ...] = ()
    kv_head_counts: tuple[str, ...] = ()
    query_widths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in the place of an MLP; it is rewritten as one when a model is loaded (`model.mixture`).

    Attributes:
        module: Holds `gate_up_proj` [experts, 2 x width, hidden] and `down_proj` [experts, hidden, width].
        router: Holds `weight` [experts, hidden].
        count, width, per_token: Entries of the config that hold the number of experts, the channels of each, and the
            experts that a token goes to.
        normalized: Entry of the config that says whether the router's weights of a token are made to add up to one;
            empty where they always are.
        shared, shared_gate: An MLP that every token goes to beside the experts, and the gate of it; empty where there
            is none. Nothing of them is cut.
        whole: A group is an expert, not a channel of every expert.
    """

    module: str = "experts"
    router: str = "gate"
    count: str = "num_experts"
    width: str = "moe_intermediate_size"
    per_token: str = "num_experts_per_tok"
    normalized: str = ""
    shared: str = ""
    shared_gate: str = ""
    whole: bool = False


@dataclass(frozen=True)
class MlpNames:
    """Names inside one decoder layer.

    Attributes:
        inputs: Projections whose output channels are the FFN channels.
        width: Entry of the config that holds the number of FFN channels.
        stacked: A fused projection into the channels.
        gathered: Projection in, activation and projection out, where the layer holds them without a module of their
            own; they are gathered into one under the first name when a model is loaded.
        experts: It is a mixture of experts.
    """

    norm: str = "post_attention_layernorm"
    post_norm: str = ""
    module: str = "mlp"
    inputs: tuple[str, ...] = ("gate_proj", "up_proj")
    output: str = "down_proj"
    width: str = "intermediate_size"
    stacked: Stacked | None = None
    gathered: tuple[str, str, str] | None = None
    cut_norms: tuple[tuple[str, str], ...] = ()
    experts: Experts | None = None


@dataclass(frozen=True)
class Family:
    """One decoder family.

    Attributes:
        class_prefix: What transformers puts before `model_class`.
        uniform_as: The family whose stock classes express a uniformly pruned model of this one with the same
            mathematics and tensor names; another than itself where its config refuses a head count that does not divide
            the hidden size.
        layers, embedding, final_norm, head: Paths from the model.
        per_layer_lists: Entries of the config that hold a value per layer.
        stock_heads: How many heads a model of the stock classes may have: any number, one that divides the hidden size,
            or only the dense one's, since the head size is computed from it.
        parallel_residual: Attribute of a layer that says whether its residual is parallel; empty where it never is.
        residual_scale: Attribute of a layer that holds the factor of what is added; empty where there is none.
        logits_divisor, logits_cap: Entries of the config by which logits are divided, or are softly capped at.
        norms_add_one: Norms multiply by one plus their weight.
        llama_form: It computes what Llama does, given its own names; biases may be more.
        conv1d: Projections are transformers' Conv1D, which keep their weight transposed.
        wanted: Entries of the config, with the value by which the family has the form above.
    """

    model_type: str
    class_prefix: str
    uniform_as: str
    model_class: str = "ForCausalLM"
    layers: str = "model.layers"
    embedding: str = "model.embed_tokens"
    final_norm: str = "model.norm"
    head: str = "lm_head"
    per_layer_lists: tuple[str, ...] = ("layer_types",)
    attention: AttentionNames = AttentionNames()
    mlp: MlpNames = MlpNames()
    stock_heads: Literal["any", "dividing", "dense"] = "any"
    parallel_residual: str = ""
    residual_scale: str = ""
    logits_divisor: str = ""
    logits_cap: str = ""
    norms_add_one: bool = False
    llama_form: bool = False
    conv1d: bool = False
    wanted: tuple[tuple[str, object], ...] = ()

    @property
    def class_name(self) -> str:
        return f"{self.class_prefix}{self.model_class}"

    @property
    def is_rewritten(self) -> bool:
        """Whether a model has other modules once it is loaded to be cut than transformers gives it (`separate`)."""
        mlp = self.mlp
        return bool(self.conv1d or self.attention.stacked or mlp.stacked or mlp.gathered or mlp.experts)


def mixture(experts: Experts) -> MlpNames:
    """Name the one wide MLP that a mixture of experts is rewritten as."""
    if experts.whole:
        return MlpNames(experts=experts, inputs=("gate_proj", "up_proj", "router"), width=experts.count)
    return MlpNames(experts=experts, width=experts.width)


QK_NORMS = (("q_norm", "q_proj"), ("k_norm", "k_proj"))
QKV = ("query", "key", "value")
# Every layer has experts.
ALL_SPARSE = (("mlp_only_layers", ()), ("decoder_sparse_step", 1))
SANDWICHED_MLP = MlpNames(norm="pre_feedforward_layernorm", post_norm="post_feedforward_layernorm")

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        # LlamaConfig refuses hidden_size % num_attention_heads != 0 even with head_dim given; Mistral without a sliding
        # window is the same computation and does not.
        Family(model_type="llama", class_prefix="Llama", uniform_as="mistral", stock_heads="dividing", llama_form=True),
        Family(model_type="mistral", class_prefix="Mistral", uniform_as="mistral", llama_form=True),
        Family(model_type="qwen2", class_prefix="Qwen2", uniform_as="qwen2", llama_form=True),
        Family(
            model_type="qwen3",
            class_prefix="Qwen3",
            uniform_as="qwen3",
            attention=AttentionNames(head_norms=("q_norm", "k_norm")),
        ),
        Family(
            model_type="smollm3",
            class_prefix="SmolLM3",
            uniform_as="smollm3",
            per_layer_lists=("layer_types", "no_rope_layers"),
        ),
        Family(
            model_type="granite",
            class_prefix="Granite",
            uniform_as="granite",
            residual_scale="residual_multiplier",
            logits_divisor="logits_scaling",
        ),
        Family(
            model_type="starcoder2",
            class_prefix="Starcoder2",
            uniform_as="starcoder2",
            mlp=MlpNames(inputs=("c_fc",), output="c_proj"),
        ),
        Family(
            model_type="olmo2",
            class_prefix="Olmo2",
            uniform_as="olmo2",
            attention=AttentionNames(norm="", post_norm="post_attention_layernorm", cut_norms=QK_NORMS),
            mlp=MlpNames(norm="", post_norm="post_feedforward_layernorm"),
        ),
        Family(
            model_type="gemma2",
            class_prefix="Gemma2",
            uniform_as="gemma2",
            stock_heads="dividing",
            attention=AttentionNames(post_norm="post_attention_layernorm"),
            mlp=SANDWICHED_MLP,
            norms_add_one=True,
            logits_cap="final_logit_softcapping",
        ),
        Family(
            model_type="gemma3_text",
            class_prefix="Gemma3",
            uniform_as="gemma3_text",
            stock_heads="dividing",
            attention=AttentionNames(post_norm="post_attention_layernorm", head_norms=("q_norm", "k_norm")),
            mlp=SANDWICHED_MLP,
            norms_add_one=True,
            logits_cap="final_logit_softcapping",
        ),
        Family(
            model_type="phi3",
            class_prefix="Phi3",
            uniform_as="phi3",
            llama_form=True,
            attention=AttentionNames(
                inputs=tuple(f"qkv_proj.{part}" for part in QKV),
                stacked=Stacked("qkv_proj", QKV),
                head_counts=("config.num_attention_heads",),
                kv_head_counts=("num_key_value_heads", "config.num_key_value_heads"),
            ),
            mlp=MlpNames(
                inputs=("gate_up_proj.gate", "gate_up_proj.up"), stacked=Stacked("gate_up_proj", ("gate", "up"))
            ),
        ),
        Family(
            model_type="gpt_neox",
            class_prefix="GPTNeoX",
            uniform_as="gpt_neox",
            layers="gpt_neox.layers",
            embedding="gpt_neox.embed_in",
            final_norm="gpt_neox.final_layer_norm",
            # The fused projection holds query, key and value of one head after another: it is cut as it is.
            attention=AttentionNames(module="attention", inputs=("query_key_value",), output="dense"),
            mlp=MlpNames(inputs=("dense_h_to_4h",), output="dense_4h_to_h"),
            stock_heads="dense",
            parallel_residual="use_parallel_residual",
        ),
        Family(
            model_type="gpt2",
            class_prefix="GPT2",
            uniform_as="gpt2",
            model_class="LMHeadModel",
            layers="transformer.h",
            embedding="transformer.wte",
            final_norm="transformer.ln_f",
            attention=AttentionNames(
                norm="ln_1",
                module="attn",
                inputs=tuple(f"c_attn.{part}" for part in QKV),
                output="c_proj",
                stacked=Stacked("c_attn", QKV),
                head_counts=("num_heads",),
                query_widths=("split_size",),
            ),
            mlp=MlpNames(norm="ln_2", inputs=("c_fc",), output="c_proj", width="n_inner"),
            stock_heads="dense",
            conv1d=True,
            wanted=(("add_cross_attention", False), ("scale_attn_by_inverse_layer_idx", False)),
        ),
        Family(
            model_type="opt",
            class_prefix="OPT",
            uniform_as="opt",
            layers="model.decoder.layers",
            embedding="model.decoder.embed_tokens",
            final_norm="model.decoder.final_layer_norm",
            attention=AttentionNames(norm="self_attn_layer_norm", output="out_proj", head_counts=("num_heads",)),
            mlp=MlpNames(
                norm="final_layer_norm",
                module="fc1",
                inputs=("fc1",),
                output="fc2",
                width="ffn_dim",
                gathered=("fc1", "activation_fn", "fc2"),
            ),
            stock_heads="dense",
            wanted=(("do_layer_norm_before", True),),
        ),
        Family(
            model_type="mixtral",
            class_prefix="Mixtral",
            uniform_as="mixtral",
            mlp=mixture(Experts(count="num_local_experts", width="intermediate_size")),
        ),
        Family(
            model_type="qwen2_moe",
            class_prefix="Qwen2Moe",
            uniform_as="qwen2_moe",
            mlp=mixture(Experts(normalized="norm_topk_prob", shared="shared_expert", shared_gate="shared_expert_gate")),
            wanted=ALL_SPARSE,
        ),
        Family(
            model_type="qwen3_moe",
            class_prefix="Qwen3Moe",
            uniform_as="qwen3_moe",
            attention=AttentionNames(head_norms=("q_norm", "k_norm")),
            mlp=mixture(Experts(normalized="norm_topk_prob")),
            wanted=ALL_SPARSE,
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
            f"{suggestion(model_type, FAMILIES)}; docs/families.md says how to add one"
        )
    return FAMILIES[model_type]


def with_experts(family: Family, groups: Literal["widths", "whole"]) -> Family:
    """Give the family whose groups are channels of all experts, or whole experts.

    Raises:
        ModelError: Whole experts are asked of a family without experts.
    """
    if groups == "widths":
        return family
    if family.mlp.experts is None:
        mixtures = ", ".join(sorted(name for name, each in FAMILIES.items() if each.mlp.experts is not None))
        raise ModelError(
            f"space.experts=whole cuts whole experts, and a model of family {family.model_type!r} has none; families "
            f"that have: {mixtures}; leave space.experts out"
        )
    return replace(family, mlp=mixture(replace(family.mlp.experts, whole=True)))
