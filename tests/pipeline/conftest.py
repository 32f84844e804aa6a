"""A decoder folder and a text file, both small and real, for runs of the whole flow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fresh_server import FreshServer
from small_runs import Finished, Invoke, finish
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from secateur.cli import app
from secateur.config import RunConfig, build_config, resolve
from secateur.demo import decoder_path, generate_documents
from secateur.export import verify


@pytest.fixture(scope="session")
def fresh_server() -> Iterator[FreshServer]:
    server = FreshServer(verify.CHECK)
    yield server
    server.close()


@pytest.fixture(scope="module", autouse=True)
def checked_in_forks(fresh_server: FreshServer) -> Iterator[None]:
    """Check exports in forks of one process that never imported Secateur; `finished`, made before, has its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(verify, "run_check", fresh_server.run_check)
        yield


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-layer Llama with two query heads per KV head and the demo's tokenizer, saved as users save theirs."""
    folder = tmp_path_factory.mktemp("decoder")
    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        # Random weights of the usual size predict nearly the same for every token; larger ones give a model whose
        # layers all matter.
        initializer_range=0.25,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "documents.txt"
    path.write_text("\n<|endoftext|>\n".join(document.text for document in generate_documents(300, seed=3)))
    return path


SMALL = {
    "data": {
        "sequence_length": 32,
        "calibration_tokens": 2048,
        "selection_tokens": 1024,
        "evaluation_tokens": 1024,
    },
    # Two models are loaded and timed by one run of tests/pipeline/test_command_line.py alone.
    "evaluation": {"batch_tokens": 512, "speed": False},
    "space": {"ffn_levels": 5},
    "budget": {"keep": 0.7, "band": 0.03},
    # Everything that is measured of a random tiny model is nearly alike: a search would end early.
    "search": {
        "measurements": 34,
        "rounds": 2,
        "reconstructed_share": 0,
        "finalists": 3,
        "least_improvement": 0.0,
        "alternative_measurements": 0,
    },
}


@pytest.fixture(scope="session")
def small_settings() -> dict[str, dict[str, Any]]:
    """What makes a whole run short, as a user would write it."""
    return SMALL


@pytest.fixture(scope="session")
def small_config(decoder_folder: Path, text_file: Path) -> RunConfig:
    """A whole run of a few seconds."""
    inputs = {"model": {"name": str(decoder_folder)}, "data": {"sources": [str(text_file)]}}
    return resolve(build_config([SMALL, inputs]))


@pytest.fixture(scope="session")
def finished(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run with `small_config` that nothing disturbed. Shared between tests, so none may change it."""
    return finish(small_config, tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])
