"""One recovery: trained once, after recipes were tried, or several times for a soup."""

from dataclasses import replace

from pydantic import Field
from transformers import PreTrainedModel

from secateur.recipe import Recipe
from secateur.recovery.assembly import Recovery
from secateur.recovery.objective import Objective
from secateur.recovery.quantized_lora import MergedInto, QuantizedLowRank
from secateur.recovery.several import Recovered, SoupRecord, greedy_soup
from secateur.recovery.trainee import Finished, compute_layers_once, parts_of
from secateur.recovery.training import Advance, TrainingRecord, unheard
from secateur.recovery.tuning import Tuning, TuningRecord, choices_around
from secateur.runs.folder import remove
from secateur.runs.shelf import Shelf
from secateur.schema import Record, derive_seed


class RecoveryRecord(Record):
    """What a recovery has done."""

    recipe: Recipe
    learning_rate: float = Field(description="at its peak")
    trained_parameters: int
    windows: int = Field(description="of the recovery set")
    domains: tuple[str, ...] = Field(description="of the recovery set")
    dense_loss: float | None = Field(description="of the dense model on the selection set; null where it is unknown")
    merged_into: MergedInto = Field(
        "original", description="qlora: weights that the changes were added to; nothing: the pruned model was better"
    )
    training: TrainingRecord = Field(description="of the best, where there were several for a soup")
    tuning: TuningRecord | None = Field(None, description="where recipes were tried; `recipe` is the chosen one")
    soup: SoupRecord | None = Field(None, description="of several recoveries; null where there was one")


def recover(
    model: PreTrainedModel, recovery: Recovery, advance: Advance = unheard
) -> tuple[PreTrainedModel, RecoveryRecord]:
    """Train a pruned model in place, and give it with what was trained merged into its weights.

    It is left at the weights that did best on the selection set: as it was, where no step made it better there. Where
    the recipe has `trials`, recipes around it are tried first and the best of them is followed; of several recoveries
    (`soup`) the model is left at their greedy soup.

    Args:
        advance: Told the loss of each step, of every recovery of several.

    Raises:
        ConfigError, ModelError: The recipe does not fit the model, or needs an extra that is not installed.
    """
    objective, tuning, tuned = recovery.objective(), None, None
    if recovery.recipe.trials:
        chosen, tuned, tuning = tuning_of(model, recovery, objective).run(advance)
        recovery = replace(recovery, recipe=chosen.recipe)
    if recovery.recipe.recoveries > 1:
        model, record = recover_as_soup(model, recovery, objective, tuned, advance)
    else:
        # A training that is over is taken up to be merged, and was heard of before.
        shelf, heard = (recovery.shelf("training"), advance) if tuned is None else (tuned, unheard)
        model, record = recover_once(model, recovery, objective, shelf, heard)
    return model, record.model_copy(update={"tuning": tuning})


def recover_as_soup(
    model: PreTrainedModel, recovery: Recovery, objective: Objective, tuned: Shelf | None, advance: Advance
) -> tuple[PreTrainedModel, RecoveryRecord]:
    """Recover a pruned model with several seeds, one after the other, and give their greedy soup.

    The first is the recovery that there would be without a soup.

    Args:
        tuned: Holds the first one's training, where recipes were tried.
    """
    seeds = [recovery.seed, *(derive_seed(recovery.seed, "soup", n) for n in range(1, recovery.recipe.soup))]
    recovered = Recovered(model, recovery.shelf("soup"))
    records = []
    for place, seed in enumerate(seeds):
        if place in recovered:
            records.append(RecoveryRecord.model_validate_json(recovered.record(place)))
            for loss in records[-1].training.losses:
                advance(loss)
        else:
            shelf, heard = recovery.shelf(f"training-{place}"), advance
            if not place and tuned is not None:
                shelf, heard = tuned, unheard
            model, record = recover_once(model, replace(recovery, seed=seed), objective, shelf, heard)
            records.append(record)
            recovered.keep(place, model, record)
            recovered.set(model, ())
        if recovery.folder is not None:
            remove(recovery.folder / f"training-{place}")
    # What is worst among domains can be asked of any model; adversaries are those of one training.
    weighting = recovery.weighting() if recovery.recipe.robust == "groups" else None
    soup = greedy_soup(model, recovered, len(seeds), recovery.judge(Finished(model), weighting))
    return model, records[soup.best].model_copy(update={"soup": soup})


def recover_once(
    model: PreTrainedModel, recovery: Recovery, objective: Objective, shelf: Shelf, advance: Advance
) -> tuple[PreTrainedModel, RecoveryRecord]:
    """Train with one recipe and one seed.

    Args:
        shelf: For the state of the training, or with that of one to go on with.
    """
    trainee = recovery.trainee(model)
    plan = recovery.plan(model)
    trained_parameters = sum(each.numel() for each in trainee.parameters.values())
    training = recovery.training(trainee, objective, plan, shelf).run(advance)
    model = trainee.finish()
    if recovery.recipe.checkpointing:
        compute_layers_once(model)
    record = RecoveryRecord(
        recipe=recovery.recipe,
        learning_rate=plan.learning_rate,
        trained_parameters=trained_parameters,
        windows=len(recovery.texts.recovery),
        domains=recovery.texts.recovery.domain_names,
        dense_loss=recovery.dense_loss,
        merged_into=trainee.merged_into if isinstance(trainee, QuantizedLowRank) else "original",
        training=training,
    )
    return model, record


def tuning_of(model: PreTrainedModel, recovery: Recovery, objective: Objective) -> Tuning:
    """Put together the attempts around a recovery's recipe; the model is as it was after each."""

    def train(recipe: Recipe, shelf: Shelf, advance: Advance, rung: tuple[int, int] | None) -> TrainingRecord:
        own = replace(recovery, recipe=recipe)
        # What is tried is this rate and no other.
        plan, trainee = replace(own.plan(model), restarts=0), own.trainee(model)
        if rung is not None:
            plan = replace(plan, steps=rung[0], judgements=rung[1])
        try:
            return own.training(trainee, objective, plan, shelf).run(advance)
        finally:
            trainee.discard()
            if recipe.checkpointing:
                compute_layers_once(model)

    recipe, recovery_set = recovery.recipe, recovery.texts.recovery
    parts = parts_of(model) if recipe.method != "full" else ()
    return Tuning(
        choices_around(recipe, recovery.plan(model).learning_rate, parts, len(recovery_set)),
        windows=len(recovery_set),
        window_tokens=recovery_set.tokens.shape[1],
        train=train,
        seed=recovery.seed,
        folder=recovery.folder / "attempts" if recovery.folder else None,
    )
