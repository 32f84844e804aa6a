"""Export: write the folder, then hold it to what was measured in a process that knows nothing of Secateur."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from secateur.config import to_yaml, without_folders
from secateur.data import Role
from secateur.export.checkpoint import express, save_checkpoint
from secateur.export.form import GgufForm, LoadableForm
from secateur.export.gguf_file import FILE_NAME, write_gguf
from secateur.export.padding import pad, padded_architecture
from secateur.export.verify import verify_export
from secateur.export.verify_gguf import verify_gguf
from secateur.report.card import model_card
from secateur.report.record import Choice, ExportRecord, ModelRow
from secateur.report.rows import budget_uses
from secateur.runs.folder import written_whole
from secateur.runs.progress import stage_clock
from secateur.space.cost import cost_of
from secateur.stages.run import Run


def export_stage(run: Run, pruned: PreTrainedModel, choice: Choice, rows: tuple[ModelRow, ...]) -> ExportRecord:
    """Write and verify `exported/`.

    Raises:
        ExportError: The folder does not load elsewhere, or does not behave like the model that was evaluated.
    """
    with stage_clock("export", run.listener) as clock:
        record = write_export(run, run.folder.exported, pruned, choice, rows)
        clock.note = exported_note(record)
    run.store.end_stage("export", clock.seconds, record.model_dump(mode="json"))
    return record


def write_export(
    run: Run, target: Path, pruned: PreTrainedModel, choice: Choice, rows: tuple[ModelRow, ...]
) -> ExportRecord:
    """Write a model into a folder with its card, and hold it to what was measured.

    Args:
        rows: For the card; the last is the model's own.

    Raises:
        ExportError: As `export_stage`.
    """
    with written_whole(target) as folder:
        write = write_llama_cpp if run.config.export.target == "gguf" else write_transformers
        return write(run, folder, target.name, pruned, choice, rows)


def write_transformers(
    run: Run, folder: Path, name: str, pruned: PreTrainedModel, choice: Choice, rows: tuple[ModelRow, ...]
) -> ExportRecord:
    """Write a Hugging Face folder; layers that differ are filled up with zeros where the target is `padded`."""
    dense, dtype, architecture = run.inputs.dense, run.export_dtype, choice.architecture
    counted = rows[-1].cost.total_parameters
    wider = padded_architecture(dense, architecture) if run.config.export.target == "padded" else architecture
    added = cost_of(run.inputs.shape, wider).total_parameters - cost_of(run.inputs.shape, architecture).total_parameters
    if added:
        narrow, pruned = pruned, pad(dense, pruned, architecture, wider)
        narrow.to("meta")  # type: ignore[arg-type]
    form = express(dense, wider, dtype, output_bias=run.config.pruning.reconstruction == "bias")
    form = replace(form, padded_parameters=added)
    save_checkpoint(dense, pruned, form, dtype, folder, run.config.export.shard_size)
    _write_card(run, folder, form, choice, rows)
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    seen = verify_export(folder, form, dense, pruned, probe, counted + added)
    return ExportRecord(
        folder=name,
        dtype=dtype,
        class_name=seen.class_name,
        remote_code=form.remote_code,
        loading_line=form.loading_lines(name)[0],
        num_parameters=seen.num_parameters,
        added_parameters=added,
        bytes=seen.bytes,
        max_logit_difference=seen.max_logit_difference,
    )


def write_llama_cpp(
    run: Run, folder: Path, name: str, pruned: PreTrainedModel, choice: Choice, rows: tuple[ModelRow, ...]
) -> ExportRecord:
    """Write a folder with one GGUF file."""
    dense, dtype = run.inputs.dense, run.export_dtype
    folder.mkdir(parents=True)
    written = write_gguf(dense, pruned, choice.architecture, dtype, folder / FILE_NAME)
    form = GgufForm(written.architecture, FILE_NAME)
    _write_card(run, folder, form, choice, rows)
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    seen = verify_gguf(folder / FILE_NAME, written, pruned, probe, rows[-1].cost.total_parameters)
    return ExportRecord(
        folder=name,
        dtype=dtype,
        class_name=f"GGUF {seen.architecture}",
        remote_code=False,
        loading_line=form.loading_lines(name)[0],
        num_parameters=seen.num_parameters,
        added_parameters=written.added_parameters,
        bytes=seen.bytes,
        max_logit_difference=seen.max_logit_difference,
        reader=seen.reader,
    )


def _write_card(run: Run, folder: Path, form: LoadableForm, choice: Choice, rows: tuple[ModelRow, ...]) -> None:
    public = without_folders(run.config)
    uses = budget_uses(run.inputs.budget, run.inputs.shape, choice.architecture, run.inputs.original.shape)
    whole = run.inputs.dense.shape.whole_experts
    card = model_card(
        public.model.name, form, rows, choice, run.export_dtype, to_yaml(public), uses, whole_experts=whole
    )
    (folder / "README.md").write_text(card)


def exported_note(record: ExportRecord) -> str:
    return f"{record.class_name}, loads in a fresh process, {record.logits}"
