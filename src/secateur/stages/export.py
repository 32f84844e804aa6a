"""Export: write the folder, then hold it to what was measured in a process that knows nothing of Secateur."""

from pathlib import Path

from transformers import PreTrainedModel

from secateur.config import to_yaml, without_folders
from secateur.data import Role
from secateur.export.checkpoint import express, save_checkpoint
from secateur.export.verify import verify_export
from secateur.report.card import model_card
from secateur.report.record import Choice, ExportRecord, ModelRow
from secateur.report.rows import budget_uses
from secateur.runs.folder import written_whole
from secateur.runs.progress import stage_clock
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
    dense, dtype = run.inputs.dense, run.export_dtype
    form = express(dense, choice.architecture, dtype, output_bias=run.config.pruning.reconstruction == "bias")
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    with written_whole(target) as folder:
        save_checkpoint(dense, pruned, form, dtype, folder)
        public = without_folders(run.config)
        uses = budget_uses(run.inputs.budget, run.inputs.shape, choice.architecture)
        card = model_card(public.model.name, form, rows, choice, dtype, to_yaml(public), uses)
        (folder / "README.md").write_text(card)
        seen = verify_export(folder, form, dense, pruned, probe, rows[-1].cost.total_parameters)
    return ExportRecord(
        folder=target.name,
        dtype=dtype,
        class_name=seen.class_name,
        remote_code=form.remote_code,
        loading_line=form.loading_lines(target.name)[0],
        num_parameters=seen.num_parameters,
        bytes=seen.bytes,
        max_logit_difference=seen.max_logit_difference,
    )


def exported_note(record: ExportRecord) -> str:
    return f"{record.class_name}, loads in a fresh process, logits within {record.max_logit_difference:.0e}"
