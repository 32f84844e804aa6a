"""Hold an exported folder to what was measured, in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import ExportError
from secateur.export.form import ExportedForm
from secateur.export.fresh_check import SENTENCE
from secateur.model.loading import DenseModel
from secateur.schema import Record

CHECK = Path(__file__).with_name("fresh_check.py")
# float32 against float32 with the same rounded weights; kernels may differ in the order of sums.
MAX_LOGIT_DIFFERENCE = 1e-3


class FreshLoad(Record):
    """What a process that never imported Secateur saw when it loaded the export."""

    secateur_imported: bool
    tokenizes_alike: bool
    class_name: str
    num_parameters: int
    max_logit_difference: float
    generates_alike_with_and_without_cache: bool
    bytes: int


@torch.no_grad()
def verify_export(
    folder: Path,
    form: ExportedForm,
    dense: DenseModel,
    pruned: PreTrainedModel,
    probe: Int[Tensor, "windows length"],
    num_parameters: int,
) -> FreshLoad:
    """Load `folder` in a fresh process; compare logits, parameters, tokens, and generation with and without cache.

    Args:
        pruned: The model in memory whose logits the folder must give. Its weights are gone afterwards, so that they are
            not in memory twice.
        num_parameters: The count that the search was charged for.

    Raises:
        ExportError: Anything differs, or the folder does not load.
    """
    reference = pruned.float()
    logits = reference(input_ids=probe.to(reference.device), use_cache=False).logits.cpu()
    pruned.to("meta")  # type: ignore[arg-type]
    dense.release()
    seen = load_in_fresh_process(folder, dense.tokenizer, probe.cpu(), logits, remote_code=form.remote_code)
    if seen.num_parameters != num_parameters:
        raise ExportError(f"{folder} has {seen.num_parameters} parameters when loaded, {num_parameters} were counted")
    if not seen.max_logit_difference <= MAX_LOGIT_DIFFERENCE:
        raise ExportError(
            f"{folder} gives logits that differ by {seen.max_logit_difference:.2e} from those that were measured, "
            f"at most {MAX_LOGIT_DIFFERENCE:.0e} is expected"
        )
    return seen


def load_in_fresh_process(
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    probe: Int[Tensor, "windows length"],
    logits: Float[Tensor, "windows length vocabulary"],
    *,
    remote_code: bool,
    dtype: str = "float32",
) -> FreshLoad:
    """Load a folder where Secateur was never imported, and say how near it comes to logits that were measured.

    Args:
        tokenizer: Which the folder's must equal.
        remote_code: Loading runs the modelling file in the folder.
        dtype: In which it computes; `auto` as it is stored.

    Raises:
        ExportError: It does not load, cuts text otherwise, or generates otherwise with its cache than without.
    """
    with tempfile.TemporaryDirectory() as scratch:
        probe_path = Path(scratch) / "probe.safetensors"
        sentence = torch.tensor(tokenizer(SENTENCE)["input_ids"], dtype=torch.int64)
        save_file({"tokens": probe.contiguous(), "logits": logits.contiguous(), "sentence": sentence}, probe_path)
        code = "remote-code" if remote_code else "plain"
        completed = run_check([str(folder), str(probe_path), code, dtype], scratch)
    if completed.returncode != 0:
        last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"{folder} does not load in a fresh process: {last}")
    seen = FreshLoad.model_validate(json.loads(completed.stdout.strip().splitlines()[-1]))
    if not seen.tokenizes_alike:
        raise ExportError(f"{folder} has a tokenizer that cuts text otherwise than the model's own")
    if not seen.generates_alike_with_and_without_cache:
        raise ExportError(f"{folder} generates other tokens with its KV cache than without")
    return seen


def run_check(arguments: list[str], scratch: str, script: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a check in a new process, where nothing of Secateur can be imported by accident.

    Args:
        scratch: Folder for what transformers keeps of modelling files, instead of the user's own.
        script: `fresh_check.py` if not given.
    """
    return subprocess.run(
        [sys.executable, "-I", str(script or CHECK), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "TOKENIZERS_PARALLELISM": "false"},
    )
