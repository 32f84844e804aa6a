"""Export: write the folder, then hold it to what was measured in a process that knows nothing of Secateur."""

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
    dense, dtype = run.inputs.dense, run.export_dtype
    form = express(dense, choice.architecture, dtype, output_bias=run.config.pruning.reconstruction == "bias")
    probe = run.inputs.sets[Role.SELECTION].tokens[:2]
    with stage_clock("export", run.listener) as clock:
        with written_whole(run.folder.exported) as folder:
            save_checkpoint(dense, pruned, form, dtype, folder)
            public = without_folders(run.config)
            uses = budget_uses(run.inputs.budget, run.inputs.shape, choice.architecture)
            card = model_card(public.model.name, form, rows, choice, dtype, to_yaml(public), uses)
            (folder / "README.md").write_text(card)
            seen = verify_export(folder, form, dense, pruned, probe, rows[-1].cost.total_parameters)
        clock.note = f"{seen.class_name}, loads in a fresh process, logits within {seen.max_logit_difference:.0e}"
    record = ExportRecord(
        folder=run.folder.exported.name,
        dtype=dtype,
        class_name=seen.class_name,
        remote_code=form.remote_code,
        loading_line=form.loading_lines(run.folder.exported.name)[0],
        num_parameters=seen.num_parameters,
        bytes=seen.bytes,
        max_logit_difference=seen.max_logit_difference,
    )
    run.store.end_stage("export", clock.seconds, record.model_dump(mode="json"))
    return record
