"""Hold an exported GGUF file to what was measured, in a fresh process: by llama.cpp where it is installed."""

import json
import tempfile
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ExportError
from secateur.export.gguf_file import WrittenGguf
from secateur.export.verify import run_check
from secateur.schema import Record

CHECK = Path(__file__).with_name("fresh_gguf_check.py")
# llama.cpp rounds activations to the type of the weights, so logits of half precision differ by more than rounding.
MAX_KL = 1e-3


class GgufLoad(Record):
    """What a process that never imported Secateur saw in the file; `kl` and logits where llama.cpp ran it."""

    secateur_imported: bool
    architecture: str
    digests: dict[str, str]
    num_parameters: int
    bytes: int
    reader: str
    max_logit_difference: float | None = None
    kl: float | None = None


@torch.no_grad()
def verify_gguf(
    path: Path, written: WrittenGguf, pruned: PreTrainedModel, probe: Int[Tensor, "windows length"], num_parameters: int
) -> GgufLoad:
    """Read the file back; run it where llama-cpp-python is installed.

    Args:
        num_parameters: The count that the search was charged for.

    Raises:
        ExportError: A tensor, the count or the logits differ.
    """
    logits = pruned.float()(input_ids=probe.to(pruned.device), use_cache=False).logits.cpu()
    with tempfile.TemporaryDirectory() as scratch:
        probe_path = Path(scratch) / "probe.safetensors"
        save_file({"tokens": probe.contiguous().cpu(), "logits": logits.float().contiguous()}, probe_path)
        completed = run_check([str(path), str(probe_path)], scratch, CHECK)
    if completed.returncode != 0:
        last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
        raise ExportError(f"{path} cannot be read in a fresh process: {last}")
    seen = GgufLoad.model_validate(json.loads(completed.stdout.strip().splitlines()[-1]))
    differing = sorted(name for name, value in written.digests.items() if seen.digests.get(name) != value)
    if differing or len(seen.digests) != len(written.digests):
        raise ExportError(
            f"{path} holds other tensors than were written, {(differing or ['an unknown one'])[0]!r} first"
        )
    counted = seen.num_parameters - written.added_parameters
    if counted != num_parameters:
        raise ExportError(f"{path} has {counted} parameters when read, {num_parameters} were counted")
    if seen.kl is not None and not seen.kl <= MAX_KL:
        raise ExportError(
            f"{path} gives other tokens in llama.cpp: KL {seen.kl:.2e} to what was measured, at most {MAX_KL:.0e} is "
            "expected"
        )
    return seen
