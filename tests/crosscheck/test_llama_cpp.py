"""llama.cpp (MIT), built from the source of llama-cpp-python, runs the file that we write: the same greedy tokens.

The build takes minutes to half an hour and is done once, in an environment of its own: in the folder that
`LLAMA_CPP_VENV` names (`make test-llama-cpp`), else in pytest's cache.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from secateur.data import Role
from secateur.export.gguf_file import write_gguf
from secateur.export.verify_gguf import CHECK, MAX_KL, GgufLoad
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import sentencepiece_tokenizer

gguf = pytest.importorskip("gguf", reason="the gguf package is missing: pip install 'secateur[gguf]'")
pytestmark = pytest.mark.slow

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
GREEDY = Path(__file__).with_name("llama_cpp_greedy.py")
NUM_TOKENS = 16
ALIKE = (2, 40) * 3
NARROW = (3, 32, 1, 48, 4, 16)
GONE = (0, 40, 2, 16, 4, 0)


@pytest.fixture(scope="session")
def llama_python(request, tmp_path_factory) -> Path:
    """The Python of an environment with llama-cpp-python, whose llama.cpp was compiled here."""
    cache = getattr(request.config, "cache", None)
    given = os.environ.get("LLAMA_CPP_VENV")
    kept = cache.mkdir("llama-cpp") if cache else tmp_path_factory.mktemp("llama-cpp")
    folder = Path(given).resolve() if given else kept / "venv"
    python = folder / "bin/python"
    ready = (
        f"import importlib.metadata as m, llama_cpp, gguf, safetensors; assert m.version({PACKAGE!r}) == {VERSION!r}"
    )
    if python.exists() and subprocess.run([python, "-c", ready], capture_output=True, check=False).returncode == 0:
        return python
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("llama.cpp cannot be built: no C++ compiler (c++, g++, clang++)")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-binary", PACKAGE]
    packages = [f"{PACKAGE}=={VERSION}", *(f"{name}=={version(name)}" for name in ("gguf", "safetensors"))]
    built = subprocess.run([*install, *packages], capture_output=True, text=True, check=False)
    if built.returncode != 0:
        last = (built.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"pip could not build {PACKAGE} {VERSION}: {last}")
    return python


@pytest.fixture(
    params=[("llama", ALIKE), ("deci", NARROW), ("deci", GONE)], ids=["llama", "deci", "deci-without-blocks"]
)
def made(request, make_dense, make_tokens, tmp_path):
    """A pruned model and the file of it, of the architecture that its layers ask for."""
    architecture, widths = request.param
    dense = replace(make_dense("llama", 4, vocab_size=300), tokenizer=sentencepiece_tokenizer())
    statistics = calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=48, seed=0)
    pruned = prune(
        dense, build_bank(dense, statistics, [{width} for width in widths]), Architecture.from_widths(widths)
    )
    path = tmp_path / "model.gguf"
    written = write_gguf(dense, pruned, Architecture.from_widths(widths), "float32", path)
    assert written.architecture == architecture
    return pruned, path


def run(command) -> object:
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return json.loads(completed.stdout.strip().splitlines()[-1])


def test_continues_with_the_greedy_tokens_of_the_pruned_model(llama_python, made, make_tokens):
    pruned, path = made
    prompts = make_tokens().tokens
    settings = {"max_new_tokens": NUM_TOKENS, "min_new_tokens": NUM_TOKENS, "do_sample": False, "pad_token_id": 0}
    pruned.generation_config.eos_token_id = None
    expected = pruned.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)[:, prompts.shape[1] :]
    assert len(expected.unique()) > NUM_TOKENS, "a model that repeats itself shows little"
    found = [run([llama_python, GREEDY, path, json.dumps(prompt), str(NUM_TOKENS)]) for prompt in prompts.tolist()]
    assert found == expected.tolist()


def test_passes_the_check_that_follows_an_export(llama_python, made, make_tokens, tmp_path):
    """The check runs the file wherever llama-cpp-python is installed; here it is for certain."""
    pruned, path = made
    tokens = make_tokens().tokens
    with torch.no_grad():
        logits = pruned(tokens, use_cache=False).logits
    save_file({"tokens": tokens, "logits": logits.contiguous()}, tmp_path / "probe.safetensors")
    seen = GgufLoad.model_validate(run([llama_python, "-I", CHECK, path, tmp_path / "probe.safetensors"]))
    assert seen.reader == "llama.cpp"
    assert seen.max_logit_difference < 1e-3
    assert seen.kl < MAX_KL
