"""One recovery by two processes of torchrun: what it comes to is what one process comes to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from secateur.recovering import recover_folder
from secateur.recovery_folder import RecoveryOutcome, recovery_request

RECIPE = {
    "tokens": 4096,
    "epochs": 1,
    # An odd number of windows: the last part of a step is smaller than the others.
    "batch_windows": 5,
    "judgements": 3,
}


def torchrun(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Start two processes that each do `secateur recover`."""
    settings = [f"--set=recovery.{name}={value}" for name, value in RECIPE.items()]
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*started, "-m", "secateur", "recover", *arguments, *settings, "--out", str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_recover_what_one_does(
    decoder_folder: Path, text_file: Path, tmp_path: Path, method: str
) -> None:
    """The dense model teaches, so that helpers need it too."""
    given = (str(decoder_folder), "--data", str(text_file), "--dense", str(decoder_folder), "--method", method)
    done = torchrun(tmp_path / "two", *given, "--set=data.sequence_length=64", "--quiet")
    assert done.returncode == 0, done.stderr
    two = RecoveryOutcome.model_validate_json((tmp_path / "two" / "recovery.json").read_text())
    layers = [{"recovery": RECIPE | {"method": method}, "data": {"sequence_length": 64}}]
    request = recovery_request(str(decoder_folder), (str(text_file),), str(decoder_folder), layers)
    one = recover_folder(request, tmp_path / "one")
    assert two.recovery.training.steps == one.recovery.training.steps > 5
    assert two.recovery.training.losses == pytest.approx(one.recovery.training.losses, abs=1e-4)
    assert two.rows[-1].perplexity.value == pytest.approx(one.rows[-1].perplexity.value, rel=1e-4)


@pytest.mark.slow
def test_what_one_process_only_can_do_is_refused_by_two(decoder_folder: Path, text_file: Path, tmp_path: Path) -> None:
    done = torchrun(tmp_path / "two", str(decoder_folder), "--data", str(text_file), "--set=recovery.trials=9")
    assert done.returncode != 0
    assert "recovery.trials=9 trains in one process, and torchrun started several" in done.stderr + done.stdout
    assert not (tmp_path / "two").exists()
