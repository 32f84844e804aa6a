"""Quantise what a run has exported, and measure what that costs on the run's own evaluation windows."""

import math
from pathlib import Path

import torch

from secateur.data import Role
from secateur.errors import ExportError, RunFolderError
from secateur.evaluation.perplexity import window_losses
from secateur.export.quantized import check_quantize, has_own_code, load_plain, load_quantized, quantized_card
from secateur.export.verify import load_in_fresh_process
from secateur.runs.folder import written_whole
from secateur.runs.progress import Listener, silent, stage_clock
from secateur.schema import Record
from secateur.stages.front import finished_run
from secateur.stages.run import Run

BFLOAT16_BYTES = 2


class QuantizedRecord(Record):
    """What quantising an export has cost and saved, beside the same export in bfloat16."""

    folder: str
    scheme: str
    perplexity: float
    perplexity_bfloat16: float
    bytes: int
    bytes_bfloat16: int

    @property
    def note(self) -> str:
        worse = self.perplexity / self.perplexity_bfloat16 - 1
        share = self.bytes / self.bytes_bfloat16
        return f"perplexity {self.perplexity:.4f} ({worse:+.2%} on bfloat16), {share:.2f} of its bytes"


def quantize_export(
    root: Path, source: Path, scheme: str, out: Path | None = None, listener: Listener = silent
) -> QuantizedRecord:
    """Write an export with quantised weights, load it in a fresh process, and hold it to what was measured.

    Args:
        root: Folder of a finished run, whose evaluation windows are used.
        source: The export.
        out: Folder to write; the source's with the scheme behind its name if not given.

    Raises:
        ConfigError: The scheme is unknown, torchao is missing, or the export is none of transformers.
        RunFolderError: The run is not finished, or `out` is in use.
        ExportError: The folder does not load, or does not behave like the model that was measured.
    """
    check_quantize(source, scheme)
    target = out or source.with_name(f"{source.name}-{scheme}")
    if target.exists() and any(target.iterdir()):
        raise RunFolderError(f"{target} is there already and is not empty; choose another --out folder")
    with finished_run(root, listener) as run, stage_clock("quantize", listener) as clock:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as folder:
            record = _write(run, source, scheme, folder, target.name)
        clock.note = record.note
    return record


def _write(run: Run, source: Path, scheme: str, folder: Path, name: str) -> QuantizedRecord:
    evaluation = run.inputs.sets[Role.EVALUATION]
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    plain = load_plain(source)
    plain_bytes = BFLOAT16_BYTES * sum(parameter.numel() for parameter in plain.parameters())
    plain_loss = float(window_losses(plain, evaluation, run.config.evaluation.batch_tokens).double().mean())
    del plain
    model = load_quantized(source)
    loss = float(window_losses(model, evaluation, run.config.evaluation.batch_tokens).double().mean())
    with torch.no_grad():
        logits = model(input_ids=probe, use_cache=False).logits.float()
    folder.mkdir()
    model.save_pretrained(folder)
    run.inputs.dense.tokenizer.save_pretrained(folder)
    code = has_own_code(folder)
    seen = load_in_fresh_process(folder, run.inputs.dense.tokenizer, probe, logits, remote_code=code, dtype="auto")
    # The same kernels on the same weights.
    if not seen.max_logit_difference <= 1e-2 * float(logits.std()):
        raise ExportError(f"{folder} gives logits that differ by {seen.max_logit_difference:.2e} once it is loaded")
    record = QuantizedRecord(
        folder=name,
        scheme=scheme,
        perplexity=math.exp(loss),
        perplexity_bfloat16=math.exp(plain_loss),
        bytes=seen.bytes,
        bytes_bfloat16=plain_bytes,
    )
    (folder / "README.md").write_text(quantized_card((source / "README.md").read_text(), scheme, record.note))
    return record
