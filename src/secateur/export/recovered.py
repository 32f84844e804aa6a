"""Write a model that came from a folder back into one, with other weights and everything else as it was."""

import shutil
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.errors import ExportError
from secateur.export.verify import MAX_LOGIT_DIFFERENCE, load_in_fresh_process
from secateur.model.loading import DTYPES

WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".gguf")


@torch.no_grad()
def save_recovered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    dtype: str,
    folder: Path,
    card: str,
    probe: Int[Tensor, "windows length"],
) -> float:
    """Write a recovered model, and hold it to what was evaluated in a process that knows nothing of Secateur.

    Args:
        source: The folder (or hub id) that the pruned model was loaded from; what lies there beside the weights
            (tokenizer, modelling file) is taken over.
        dtype: To store in; weights are rounded to it already.
        card: For `README.md`.

    Returns:
        The largest difference of logits.

    Raises:
        ExportError: The folder does not load elsewhere, or gives other logits.
    """
    folder.mkdir(parents=True)
    logits = model.float()(input_ids=probe.to(model.device), use_cache=False).logits.float().cpu()
    model.to(DTYPES[dtype])  # type: ignore[arg-type]
    model.config.dtype = DTYPES[dtype]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in sorted(Path(source).glob("*")) if Path(source).is_dir() else ():
        beside = path.is_file() and not path.is_symlink() and not path.name.endswith(WEIGHTS)
        if beside and not (folder / path.name).exists():
            shutil.copy2(path, folder / path.name)
    (folder / "README.md").write_text(card)
    # The modelling file is the one that the pruned model came with.
    remote_code = bool(getattr(model.config, "auto_map", None))
    seen = load_in_fresh_process(folder, tokenizer, probe.cpu(), logits, remote_code=remote_code)
    if not seen.max_logit_difference <= MAX_LOGIT_DIFFERENCE:
        raise ExportError(
            f"{folder} gives logits that differ by {seen.max_logit_difference:.2e} from those that were evaluated, "
            f"at most {MAX_LOGIT_DIFFERENCE:.0e} is expected"
        )
    return seen.max_logit_difference
