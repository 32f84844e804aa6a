"""What llama.cpp is given: read back, read by transformers too, and run by llama.cpp where it is installed."""

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from secateur.data import Role
from secateur.errors import ExportError, ModelError
from secateur.export.gguf_file import check_gguf, write_gguf
from secateur.export.gguf_vocabulary import BYTE, CONTROL, UNKNOWN, read_vocabulary
from secateur.export.verify_gguf import verify_gguf
from secateur.model.families import FAMILIES
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.cost import cost_of
from tiny import sentencepiece_tokenizer

gguf = pytest.importorskip("gguf", reason="the gguf package is missing: pip install 'secateur[gguf]'")

PER_LAYER = {
    "narrow": (3, 32, 1, 48, 4, 16),
    "gone": (0, 40, 2, 16, 4, 0),
    "layer-gone": (2, 32, 0, 0, 4, 48),
    "no-attention": (0, 48, 0, 8, 0, 48),
}
LLAMA_FORM = [name for name, family in FAMILIES.items() if family.llama_form]


@dataclass(frozen=True)
class Written:
    path: Path
    dense: object
    pruned: PreTrainedModel
    architecture: Architecture
    written: object


@pytest.fixture
def write(make_dense, make_tokens, tmp_path):
    def run(family, widths, ratio=1, tied=False, dtype="float32", **overrides) -> Written:
        dense = make_dense(family, ratio, tied, vocab_size=300, **overrides)
        dense = replace(dense, tokenizer=sentencepiece_tokenizer())
        check_gguf(dense)
        statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
        bank = build_bank(dense, statistics, [{width} for width in widths])
        architecture = Architecture.from_widths(widths)
        pruned = prune(dense, bank, architecture)
        path = tmp_path / "model.gguf"
        return Written(path, dense, pruned, architecture, write_gguf(dense, pruned, architecture, dtype, path))

    return run


def fields(path) -> dict[str, object]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


class TestGguf:
    @pytest.mark.parametrize("widths", PER_LAYER.values(), ids=PER_LAYER)
    @pytest.mark.parametrize("family", LLAMA_FORM)
    def test_layers_that_differ_are_of_the_architecture_deci(self, write, make_tokens, family, widths):
        """Read back in a fresh process, and run there by llama.cpp where it is installed."""
        made = write(family, widths, ratio=4, tied=True)
        counted = cost_of(made.dense.shape, made.architecture).total_parameters
        seen = verify_gguf(made.path, made.written, made.pruned, make_tokens().tokens[:2], counted)
        assert seen.architecture == made.written.architecture == "deci"
        assert not seen.secateur_imported
        if importlib.util.find_spec("llama_cpp"):
            assert seen.reader == "llama.cpp"
            assert seen.max_logit_difference < 1e-3

    @pytest.mark.parametrize("family", ["llama", "phi3"])
    def test_layers_alike_are_of_the_architecture_llama_and_transformers_reads_them(self, write, make_tokens, family):
        made = write(family, (2, 40) * 3)
        assert made.written.architecture == "llama"
        assert made.written.added_parameters == 0
        loaded = AutoModelForCausalLM.from_pretrained(made.path.parent, gguf_file=made.path.name, dtype=torch.float32)
        tokens = make_tokens().tokens
        with torch.no_grad():
            found, expected = (model(tokens, use_cache=False).logits for model in (loaded.eval(), made.pruned))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_sizes_are_lists_where_layers_differ_and_no_layer_is_without_a_place_for_them(write):
    made = write("llama", PER_LAYER["gone"], ratio=2)
    seen = fields(made.path)
    assert seen["deci.block_count"] == 3
    assert seen["deci.attention.head_count"] == [2, 4, 8]
    assert seen["deci.attention.head_count_kv"] == [1, 2, 4]
    assert seen["deci.feed_forward_length"] == [40, 16, 32]
    assert seen["deci.attention.key_length"] == 8
    # A KV head of the first layer and an FFN of 32 of the last, their norms with them.
    assert made.written.added_parameters == (2 * 16 + 2 * 8) * 32 + 32 + 3 * 32 * 32 + 32


def test_scaled_rotary_embeddings_go_with_the_file(write, make_tokens):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    made = write("llama", PER_LAYER["narrow"], rope_parameters=rope)
    factors = next(each for each in gguf.GGUFReader(made.path).tensors if each.name == "rope_freqs.weight").data
    assert factors[0] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(8.0)
    assert fields(made.path)["deci.rope.freq_base"] == 500.0
    counted = cost_of(made.dense.shape, made.architecture).total_parameters
    verify_gguf(made.path, made.written, made.pruned, make_tokens().tokens[:2], counted)


@pytest.mark.parametrize(("dtype", "kind"), [("float16", "F16"), ("bfloat16", "BF16")])
def test_matrices_have_the_dtype_of_the_export_and_norms_are_float32(write, dtype, kind):
    made = write("llama", PER_LAYER["narrow"], dtype=dtype)
    for each in gguf.GGUFReader(made.path).tensors:
        assert each.tensor_type.name == ("F32" if each.name.endswith("norm.weight") else kind)


def test_a_file_that_was_changed_is_refused(write, make_tokens):
    made = write("llama", PER_LAYER["narrow"])
    counted = cost_of(made.dense.shape, made.architecture).total_parameters
    content = bytearray(made.path.read_bytes())
    content[-8] ^= 0xFF
    made.path.write_bytes(content)
    with pytest.raises(ExportError, match="other tensors than were written"):
        verify_gguf(made.path, made.written, made.pruned, make_tokens().tokens[:1], counted)


@pytest.mark.parametrize(
    ("family", "overrides", "message"),
    [
        ("gemma2", {}, "family 'gemma2' cannot be written as GGUF"),
        ("mistral", {"sliding_window": 8}, "sliding attention windows"),
        ("llama", {"hidden_act": "gelu"}, "activation 'silu', the model has 'gelu'"),
    ],
)
def test_what_the_graph_of_llama_does_not_compute_is_refused_before_a_run(make_dense, family, overrides, message):
    with pytest.raises(ModelError, match=message):
        check_gguf(make_dense(family, **overrides))


class TestVocabulary:
    def test_of_sentencepiece_ranks_merges_by_scores(self):
        vocabulary = read_vocabulary(sentencepiece_tokenizer(), 300)
        assert (vocabulary.model, vocabulary.merges) == ("llama", [])
        assert len(vocabulary.tokens) == len(vocabulary.types) == len(vocabulary.scores) == 300
        assert vocabulary.types[0] == UNKNOWN
        assert vocabulary.types[1:3] == [CONTROL, CONTROL]
        assert set(vocabulary.types[3:259]) == {BYTE}
        scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
        assert scores["he"] > scores["▁he"] > scores["lo"] > scores["▁helo"] > scores["h"]
        assert vocabulary.special == {"bos": 1, "eos": 2, "unk": 0}

    def test_words_without_merges_are_refused(self, tokenizer):
        with pytest.raises(ModelError, match="type 'WordLevel'"):
            read_vocabulary(tokenizer, 96)
