"""Recover: train the pruned model for a short while, with the dense model as teacher where the recipe asks for it."""

from transformers import PreTrainedModel

from secateur.data import Role
from secateur.export.checkpoint import round_weights
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.recover import RecoveryRecord, recover
from secateur.recovery_inputs import selection_by_domain
from secateur.runs.progress import LOSS, stage_clock
from secateur.schema import derive_seed
from secateur.stages.run import Run


def recover_stage(run: Run, pruned: PreTrainedModel) -> tuple[PreTrainedModel, RecoveryRecord | None]:
    """Give the recovered model, made of the pruned one in place, or that as it is where no recovery is asked for.

    A recovery that was interrupted goes on, one that was finished is merged again from what the folder holds.

    Raises:
        ConfigError: The recipe needs an extra that is not installed.
    """
    if run.config.recovery.method == "none":
        return pruned, None
    recovery = recovery_of(run)
    steps = recovery.recipe.all_steps(len(recovery.texts.recovery))
    with stage_clock("recover", run.listener, steps, LOSS) as clock:
        recovered, record = recover(pruned, recovery, clock.advance)
        round_weights(recovered, run.export_dtype)
        clock.note = recovered_note(record)
    run.store.end_stage("recover", record.training.seconds, record.model_dump(mode="json"))
    return recovered, record


def recovery_of(run: Run) -> Recovery:
    """Put a run's recovery together."""
    inputs, config = run.inputs, run.config
    assert inputs.recovery is not None, "loaded where a recovery is asked for"
    selection = inputs.sets[Role.SELECTION].expect(Role.SELECTION)
    by_domain = selection_by_domain(inputs.recovery, selection, inputs.groups)
    return Recovery(
        recipe=config.recovery,
        texts=Texts(inputs.recovery, selection.tokens, by_domain),
        seed=derive_seed(config.seed, "recovery"),
        batch_tokens=config.evaluation.batch_tokens,
        teacher=DenseTeacher(inputs.original.model, inputs.fingerprints["model"]),
        folder=run.folder.recovery,
    )


def recovered_note(record: RecoveryRecord) -> str:
    """Say what a recovery came to on the selection set."""
    training = record.training
    before, best = training.judgements[0].loss, training.best.loss
    stopped = (
        f", stopped after {training.steps} of {training.planned} steps" if training.steps < training.planned else ""
    )
    stopped += f", begun again {len(training.restarts)} times, slower" if training.restarts else ""
    soup = record.soup
    averaged = f", {soup.loss:.4f} as a soup of {len(soup.members)} of {len(soup.losses)}" if soup else ""
    return f"selection loss {before:.4f} -> {best:.4f} nats{stopped}{averaged}"
