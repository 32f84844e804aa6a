"""What every family holds: sliced = pruned = exported, counted = built, with every head ratio, tied and untied."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.export.checkpoint import express, save_checkpoint
from secateur.export.padding import pad, padded_architecture
from secateur.model.families import FAMILIES
from secateur.model.mixture import Mixture
from secateur.model.separate import separate
from secateur.model.shape import block_names, cut_norms, decoder_layers, group_tensors, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.gains import match_gains, scaled_by
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import cost_of

pytestmark = pytest.mark.usefixtures("stranger")

NARROW = Architecture.from_widths((3, 32, 1, 48, 4, 16))
GONE = Architecture.from_widths((0, 40, 2, 16, 4, 0))
LAYER_GONE = Architecture.from_widths((2, 32, 0, 0, 4, 48))
NO_ATTENTION = Architecture.from_widths((0, 48, 0, 8, 0, 48))
PER_LAYER = {"narrow": NARROW, "gone": GONE, "layer-gone": LAYER_GONE, "no-attention": NO_ATTENTION}
# Two KV heads of four divide the hidden size with every ratio; three do with none.
UNIFORM = {"divides": (2, 40), "does-not": (3, 40), "all-heads": (4, 24)}

# Shorter than the text, in the layers that slide.
WINDOWS = {"mistral": 5, "gemma2": 5, "gemma3_text": 5}
# Query heads per KV head, and whether the embeddings are tied.
VARIANTS = ((1, False), (2, True), (4, False), (8, True))
MULTI_HEAD_VARIANTS = ((1, False), (1, True))
MIXTURES = [name for name, family in FAMILIES.items() if family.mlp.experts is not None]
# A family, and what is cut of its experts where it has some.
BY_WIDTH = [(name, "widths") for name in FAMILIES]
WHOLE = [(name, "whole") for name in MIXTURES]


def variants(families: list[tuple[str, str]]) -> Iterator[tuple[str, str, int, bool]]:
    for name, experts in families:
        for ratio, tied in MULTI_HEAD_VARIANTS if FAMILIES[name].stock_heads == "dense" else VARIANTS:
            yield name, experts, ratio, tied


def name_of(variant: tuple) -> str:
    family, experts, *heads = variant
    name = f"{family}-whole-experts" if experts == "whole" else family
    return f"{name}-gqa{heads[0]}-{'tied' if heads[1] else 'untied'}" if heads else name


@pytest.fixture(scope="module", params=list(variants([*BY_WIDTH, *WHOLE])), ids=name_of)
def prepared(request, prepare):
    family, experts, ratio, tied = request.param
    return prepare(family, ratio, tied, window=WINDOWS.get(family), experts=experts)


@pytest.fixture(scope="module", params=[*BY_WIDTH, *WHOLE], ids=name_of)
def family(request, prepare):
    """One variant of every family, for what depends on neither ratio nor tie."""
    family, experts = request.param
    return prepare(family, *VARIANTS[0], window=WINDOWS.get(family), experts=experts)


def sized(architecture: Architecture, prepared) -> Architecture:
    """Keep as much of an MLP whose groups are fewer: one expert of six for eight channels of 48."""
    groups = prepared.dense.shape.ffn_width
    widths = ((heads, width * groups // 48) for heads, width in zip(*[iter(architecture.widths)] * 2, strict=True))
    return Architecture.from_widths(tuple(width for pair in widths for width in pair))


@pytest.fixture
def architecture(request, prepared) -> Architecture:
    return sized(request.param, prepared)


@torch.no_grad()
def logits_of(model, tokens) -> Tensor:
    return model(input_ids=tokens, use_cache=False).logits


def flops_of(layers: nn.ModuleList) -> int:
    """Count two per entry of a matrix; of a mixture what transformers' own module does for one token."""
    mixtures = [module for module in layers.modules() if isinstance(module, Mixture)]
    inside = {part for mixture in mixtures for part in mixture.modules()}
    linear = [module for module in layers.modules() if isinstance(module, nn.Linear) and module not in inside]
    flops = 2 * sum(module.weight.numel() for module in linear)
    for mixture in mixtures:
        stock = mixture.stock()
        stock.experts.config._experts_implementation = "eager"
        with FlopCounterMode(display=False) as counter:
            stock(torch.randn(1, 1, 32))
        flops += counter.get_total_flops()
    return flops


def assert_alike(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.3, "logits near a constant would agree whatever is done"
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


@dataclass(frozen=True)
class Exported:
    pruned: PreTrainedModel
    loaded: PreTrainedModel
    folder: Path
    remote_code: bool


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., Exported]:
    """Prune, write, and load as a stranger does: nothing may be missing, and trust is given only where it is asked."""

    def make(prepared, architecture) -> Exported:
        pruned = prune(prepared.dense, prepared.bank, architecture)
        form = express(prepared.dense, architecture, "float32")
        save_checkpoint(prepared.dense, pruned, form, "float32", tmp_path / "exported")
        loaded, info = AutoModelForCausalLM.from_pretrained(
            tmp_path / "exported",
            dtype=torch.float32,
            trust_remote_code=form.remote_code,  # the file that has just been written
            output_loading_info=True,
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        return Exported(pruned, loaded.eval(), tmp_path / "exported", form.remote_code)

    return make


class TestPrunes:
    def test_names_are_those_of_transformers(self, family):
        entry, model = family.dense.family, family.dense.model
        assert type(model) is getattr(transformers, entry.class_name)
        assert type(model.config) is CONFIG_MAPPING[entry.model_type]
        assert isinstance(model.get_submodule(entry.embedding), nn.Embedding)
        assert model.get_submodule(entry.head) is model.get_output_embeddings()
        for layer in decoder_layers(model, entry):
            for index in (0, 1):
                names = block_names(entry, module_of(index)[1])
                module = layer.get_submodule(names.module)
                for norm in (names.norm, names.post_norm):
                    assert not norm or layer.get_submodule(norm).weight.shape == (32,)
                for name in getattr(names, "head_norms", ()):
                    assert module.get_submodule(name).weight.shape == (8,)

    def test_every_norm_inside_a_block_has_its_place_in_the_table(self, family):
        """One that is named nowhere would keep its size when heads go. Of a mixture, router and shared expert do."""
        entry = family.dense.family
        for index in (0, 1):
            layer, kind = decoder_layers(family.dense.model, entry)[0], module_of(index)[1]
            names = block_names(entry, kind)
            named = {*group_tensors(layer, entry, kind), *cut_norms(layer, entry, kind)}
            named |= set(getattr(names, "head_norms", ()))
            experts = getattr(names, "experts", None)
            stays = ("router", experts.shared, experts.shared_gate) if experts else ()
            module = layer.get_submodule(names.module)
            found = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
            assert {name for name in found if name.split(".")[0] not in stays} == named - {*stays}

    def test_separating_projections_changes_nothing_that_is_computed(self, family, make_model):
        entry = family.dense.family
        model = make_model(entry.model_type, *VARIANTS[0])
        separated = copy.deepcopy(model)
        separate(separated, entry)
        tokens = family.selection.tokens
        assert_alike(logits_of(separated, tokens), logits_of(model, tokens))
        assert sum(p.numel() for p in separated.parameters()) == sum(p.numel() for p in model.parameters())

    @pytest.mark.parametrize("architecture", PER_LAYER.values(), ids=PER_LAYER, indirect=True)
    def test_slices_give_the_logits_of_the_pruned_model(self, prepared, architecture):
        pruned = prune(prepared.dense, prepared.bank, architecture)
        tokens, walk, widths = prepared.selection.tokens, prepared.walk, architecture.widths
        state = walk.embed(tokens)
        for index, width in enumerate(widths):
            weights = prepared.bank.slices(index, width) if width else None
            kind = module_of(index)[1]
            state = walk.block(*module_of(index), state, weights) if width else walk.add(kind, state, None)
        assert_alike(walk.logits(walk.final_norm(state)), logits_of(pruned, tokens))
        reference = DenseReference(walk, prepared.selection, batch_windows=3)
        stitched = StitchedModel(walk, prepared.bank, reference).score(architecture)
        scored = score_model(pruned, prepared.dense.family, walk, reference)
        torch.testing.assert_close(stitched.kl, scored.kl, atol=1e-5, rtol=0)

    def test_the_head_has_no_bias_that_a_gain_of_the_final_norm_would_leave_out(self, prepared):
        assert getattr(prepared.dense.model.get_output_embeddings(), "bias", None) is None

    def test_the_dense_architecture_is_the_dense_model(self, prepared):
        whole = prune(prepared.dense, prepared.bank, Architecture.dense(prepared.dense.shape))
        tokens = prepared.selection.tokens
        assert_alike(logits_of(whole, tokens), logits_of(prepared.dense.model, tokens))

    @pytest.mark.parametrize("architecture", PER_LAYER.values(), ids=PER_LAYER, indirect=True)
    def test_cost_is_what_the_pruned_model_has(self, prepared, architecture):
        entry = prepared.dense.family
        pruned = prune(prepared.dense, prepared.bank, architecture)
        layers = decoder_layers(pruned, entry)
        cost = cost_of(prepared.dense.shape, architecture)
        assert cost.decoder_parameters == sum(p.numel() for p in layers.parameters())
        assert cost.total_parameters == sum(p.numel() for p in pruned.parameters())
        linear = [module for module in layers.modules() if isinstance(module, nn.Linear)]
        assert cost.flops_per_token == flops_of(layers)
        assert all(module.weight.shape == (module.out_features, module.in_features) for module in linear)

    def test_a_cache_holds_the_bytes_that_are_counted(self, prepared):
        narrow = sized(NARROW, prepared)
        pruned = prune(prepared.dense, prepared.bank, narrow)
        tokens = prepared.selection.tokens
        cache = pruned(input_ids=tokens, use_cache=True).past_key_values
        held = sum(layer.keys.shape[1] * layer.keys.shape[3] * 2 for layer in cache.layers)
        # Counted in float16.
        assert cost_of(prepared.dense.shape, narrow).kv_cache_bytes_per_token == 2 * held

    def test_reconstruction_and_gains_bring_it_closer(self, family):
        """Both go through the same walk; of random weights little can be brought back, but some."""
        entry, architecture = family.dense.family, sized(NARROW, family)
        tokens = family.calibration
        reference = DenseReference(family.walk, tokens, batch_windows=4)
        streams = DenseStreams(family.walk, tokens, 96, tokens.num_tokens, 1 << 24)
        pruned = prune(family.dense, family.bank, architecture)
        before = score_model(pruned, entry, family.walk, reference).kl.mean()
        reconstruct_in_sequence(family.dense, family.walk, pruned, architecture, streams, 0.01)
        after = score_model(pruned, entry, family.walk, reference).kl.mean()
        assert after < before
        walk = DecoderWalk(pruned, entry, source=family.walk)
        scaled_by(match_gains(family.walk, walk, architecture, streams.batches), entry)
        assert score_model(pruned, entry, family.walk, reference).kl.mean() < after


class TestPerLayerExport:
    @pytest.mark.parametrize("architecture", PER_LAYER.values(), ids=PER_LAYER, indirect=True)
    def test_a_stranger_loads_the_pruned_model(self, prepared, architecture, export):
        exported = export(prepared, architecture)
        assert exported.remote_code
        tokens = prepared.selection.tokens
        assert_alike(logits_of(exported.loaded, tokens), logits_of(exported.pruned, tokens))
        assert sum(p.numel() for p in exported.loaded.parameters()) == sum(
            p.numel() for p in exported.pruned.parameters()
        )
        settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(tokens)
        cached, uncached = (
            exported.loaded.generate(tokens, attention_mask=mask, use_cache=use, **settings) for use in (True, False)
        )
        assert torch.equal(cached, uncached)

    def test_what_is_saved_again_is_the_same_model(self, family, export, tmp_path):
        exported = export(family, sized(GONE, family))
        exported.loaded.save_pretrained(tmp_path / "again")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32, trust_remote_code=True)
        tokens = family.selection.tokens
        assert_alike(logits_of(again.eval(), tokens), logits_of(exported.pruned, tokens))

    def test_lora_trains_and_merges(self, family, export):
        exported = export(family, sized(GONE, family))
        entry, tokens = family.dense.family, family.selection.tokens
        blocks = (entry.attention, entry.mlp)
        leaves = {name.split(".")[0] for names in blocks for name in (*names.inputs, names.output)}
        # By full names: what stands where an MLP without a module of its own was has the name of its projection.
        targets = [
            name
            for name, module in exported.loaded.named_modules()
            if name.rpartition(".")[2] in leaves and isinstance(module, nn.Linear | Conv1D)
        ]
        lora = LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM", fan_in_fan_out=entry.conv1d)
        wrapped = get_peft_model(exported.loaded, lora)
        trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        losses = []
        for _ in range(8):
            loss = wrapped(input_ids=tokens, labels=tokens).loss
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert losses[-1] < losses[0]
        expected = logits_of(wrapped.eval(), tokens)
        assert_alike(logits_of(wrapped.merge_and_unload(), tokens), expected)


class TestPaddedExport:
    # Whole experts are refused: tests/unit/export/test_experts.py.
    @pytest.mark.parametrize("prepared", list(variants(BY_WIDTH)), ids=name_of, indirect=True)
    @pytest.mark.parametrize("architecture", PER_LAYER.values(), ids=PER_LAYER, indirect=True)
    def test_zeros_up_to_layers_alike_are_the_same_function_in_a_stock_model(self, prepared, architecture, tmp_path):
        pruned = prune(prepared.dense, prepared.bank, architecture)
        wider = padded_architecture(prepared.dense, architecture)
        padded = pad(prepared.dense, pruned, architecture, wider)
        form = express(prepared.dense, wider, "float32")
        assert not form.remote_code
        save_checkpoint(prepared.dense, padded, form, "float32", tmp_path / "padded")
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "padded", dtype=torch.float32).eval()
        assert type(loaded).__module__.startswith("transformers.")
        tokens = prepared.selection.tokens
        assert_alike(logits_of(loaded, tokens), logits_of(pruned, tokens))
        cost = cost_of(prepared.dense.shape, wider)
        assert sum(p.numel() for p in loaded.parameters()) == cost.total_parameters
        layers = [layer for layer in wider.layers if layer.kv_heads or layer.ffn_width]
        assert len(set(layers)) == 1


class TestUniformExport:
    @pytest.mark.parametrize("widths", UNIFORM.values(), ids=UNIFORM)
    def test_layers_alike_make_a_stock_model_where_the_family_can_hold_them(self, prepared, widths, export):
        """With a layer gone whole, as deep pruning leaves it."""
        entry = prepared.dense.family
        exported = export(prepared, sized(Architecture.from_widths((*widths, 0, 0, *widths)), prepared))
        tokens = prepared.selection.tokens
        assert_alike(logits_of(exported.loaded, tokens), logits_of(exported.pruned, tokens))
        fits = {
            "any": True,
            "dividing": widths[0] != 3 or entry.uniform_as != entry.model_type,
            "dense": widths[0] == 4,
        }[entry.stock_heads]
        assert exported.remote_code is not fits
        if fits:
            assert type(exported.loaded).__module__.startswith("transformers.")
            assert not list(exported.folder.glob("*.py"))
