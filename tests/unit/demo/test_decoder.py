import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from secateur.demo import decoder_path, generate_documents
from secateur.demo.heldout import heldout_loss
from secateur.demo.train import LOG_NAME

# Stated in docs/demo-model.md; the shipped decoder is measured there on more documents.
LARGEST_DIFFERENCE_NATS = 0.10


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(decoder_path(), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(decoder_path())


def test_weights_are_small_and_float16() -> None:
    file = decoder_path() / "model.safetensors"
    assert file.stat().st_size < 4_000_000
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_shape(model: LlamaForCausalLM) -> None:
    config = model.config
    assert config.num_hidden_layers == 12
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (8, 4, 16)
    assert config.tie_word_embeddings
    assert model.num_parameters() == 1_427_808
    stored = json.loads((decoder_path() / "config.json").read_text())
    assert (stored["model_type"], stored["dtype"]) == ("llama", "float16")


def test_the_folder_loads_as_float16_by_default() -> None:
    loaded = AutoModelForCausalLM.from_pretrained(decoder_path())
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float16}


def test_loss_on_unseen_documents_is_close_to_their_entropy(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> None:
    whole = heldout_loss(model, tokenizer, generate_documents(150, seed=2_000_000))["all"]
    assert -0.02 < whole.loss - whole.entropy_bound < LARGEST_DIFFERENCE_NATS


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Once more: lamp, horse, fig, blue becomes", " lamp, horse, fig, blue."),
        ("Clara is a sailor. She likes grapes. She has a mouse. Sam has a goat.", " He"),
        ("7 * 8 =", " 56"),
        ("Mr Lamb lives in", " Pelagon"),
    ],
)
def test_greedy_continuation(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str
) -> None:
    inputs = tokenizer(prompt, return_tensors="pt")
    num_answer_tokens = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
    generated = model.generate(**inputs, max_new_tokens=num_answer_tokens, do_sample=False)
    assert tokenizer.decode(generated[0, inputs["input_ids"].shape[1] :]) == answer


def test_training_log_ends_with_the_loss_of_a_finished_run() -> None:
    entries = [json.loads(line) for line in (decoder_path() / LOG_NAME).read_text().splitlines()]
    assert [entry["tokens"] for entry in entries] == sorted(entry["tokens"] for entry in entries)
    last = entries[-1]
    assert last["learning_rate"] < 1e-4
    assert last["heldout_loss"] - last["heldout_entropy_bound"] < LARGEST_DIFFERENCE_NATS
