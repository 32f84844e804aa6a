"""A user's terminal shows nothing of what the libraries of recovery remark."""

import os
import subprocess
import sys

import pytest

CODE = """
from secateur.cli.terminal import quiet_libraries, user_errors
from secateur.machine import settle_process

settle_process()
with user_errors():
    quiet_libraries()
    from transformers import LlamaConfig, LlamaForCausalLM
    from secateur.recovery.lora import LowRank

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=16, **sizes)
    LowRank(LlamaForCausalLM(config), 2, 4).finish()
"""


@pytest.mark.slow
def test_adapters_are_made_and_merged_in_silence() -> None:
    # Without what tests/conftest.py sets for the same purpose.
    keep = {"PATH", "HOME", "PYTHONPATH", "OMP_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name in keep}
    completed = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env=environment
    )
    assert completed.stdout + completed.stderr == ""
