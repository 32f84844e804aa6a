"""Prune: cut the best measured architectures out, reconstruct each in sequence, keep the best and match its gains."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import PreTrainedModel

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import score_model
from secateur.export.checkpoint import round_weights
from secateur.model.mapped import MappedWeights
from secateur.model.shape import decoder_layers
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank
from secateur.pruning.gains import MOST_EVALUATIONS, match_gains, scaled_by
from secateur.pruning.sequence import DenseStreams, reconstruct_in_sequence
from secateur.pruning.surgery import prune
from secateur.report.record import Choice, MadePoint
from secateur.runs.progress import StageClock, stage_clock
from secateur.runs.records import read_text
from secateur.search.compromise import least_disparity_made
from secateur.search.objectives import DISPARITY, loss_target
from secateur.search.task import Found, ranked
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.stages.groups import group_losses, group_references
from secateur.stages.run import Run


@dataclass(frozen=True)
class Contender:
    """A pruned model and its KL on the selection set, `matched_kl` after its gains were matched."""

    measurement: Measurement
    model: PreTrainedModel
    kl: float
    sequential: bool
    matched_kl: float | None = None


def prune_stage(run: Run, bank: WeightBank, found: Found) -> tuple[PreTrainedModel, Choice]:
    """Make the pruned model that does best on the selection set.

    With sequential reconstruction the finalists of the search are all cut and reconstructed, since what it gains
    differs between architectures that measured alike. Where disparity is weighed against quality, what is compared is
    made whole, gains included.
    """
    if found.objectives.choose == "least_disparity" and _sequential(run) and found.finalists:
        return _compromise(run, bank, found)
    finalists = found.finalists[: run.config.search.finalists if _sequential(run) else 1] or [found.best]
    steps = run.inputs.dense.shape.num_modules * len(finalists) + MOST_EVALUATIONS if _sequential(run) else None
    with stage_clock("prune", run.listener, steps) as clock:
        pruned, choice = cut_best(run, bank, finalists, clock, reconstructed_before=found.reconstructed)
    run.store.end_stage("prune", clock.seconds, choice.model_dump(mode="json"))
    return pruned, choice


def _compromise(run: Run, bank: WeightBank, found: Found) -> tuple[PreTrainedModel, Choice]:
    """Make the best quality and what promises little disparity at the price; the rule is applied to what was made."""
    wanted, shape, measured = found.objectives, run.inputs.shape, ranked(found.measurements)
    groups = group_references(run, Role.SELECTION)
    most = max(run.config.search.finalists, 2)
    last: dict[int, tuple[PreTrainedModel, Choice]] = {}
    with stage_clock("prune", run.listener, (most + 1) * (shape.num_modules + MOST_EVALUATIONS)) as clock:

        def make(index: int) -> dict[str, float]:
            # One model at a time: the one that is chosen is made once more where it was not the last.
            last.clear()
            last[index] = cut_best(run, bank, [measured[index]], clock, reconstructed_before=found.reconstructed)
            model, _ = last[index]
            losses = {loss_target(name): loss for name, loss in group_losses(run, model, groups).items()}
            return wanted.measured(measured[index].model_copy(update={"targets": losses}), shape)

        points = [wanted.measured(measurement, shape) for measurement in measured]
        index, made = least_disparity_made(points, make, wanted.within, most)
        if index not in last:
            make(index)
        pruned, choice = last[index]
        architectures = [measured[each].architecture for each in made]
        points_made = [
            MadePoint(architecture=a, objectives=dict(o)) for a, o in zip(architectures, made.values(), strict=True)
        ]
        choice = choice.model_copy(update={"num_finalists": len(made), "made": tuple(points_made)})
        clock.note += f", disparity {made[index][DISPARITY]:.3f} of {len(made)} that were made"
    run.store.end_stage("prune", clock.seconds, choice.model_dump(mode="json"))
    return pruned, choice


def cut_best(
    run: Run, bank: WeightBank, finalists: list[Measurement], clock: StageClock, *, reconstructed_before: bool
) -> tuple[PreTrainedModel, Choice]:
    """Cut measured architectures, reconstruct them where the run does, and keep the one of the least KL.

    Args:
        finalists: Best first; may be a single one, which is then made as it would be if it were chosen.
        reconstructed_before: They were measured after sequential reconstruction.
    """
    origins = {c.architecture.key: c.origin for c in (read_text(each, Candidate) for each in run.store.candidates())}
    best = (
        _best_contender(run, bank, finalists, clock, reconstructed_before=reconstructed_before)
        if _sequential(run)
        else _as_measured(run, bank, finalists[0], None)
    )
    round_weights(best.model, run.export_dtype)
    measured = best.measurement.kl if best.sequential else best.kl
    assert measured is not None, "finalists did not fail"
    note = f", {best.kl:.4f} after sequential reconstruction" if best.sequential else ""
    note += f", {best.matched_kl:.4f} with gains" if best.matched_kl is not None else ""
    clock.note = f"selection KL {measured:.4f}{note}"
    choice = Choice(
        architecture=best.measurement.architecture,
        origin=origins[best.measurement.architecture.key],
        kl=measured,
        kl_after_sequential=best.kl if best.sequential else None,
        kl_after_gains=best.matched_kl,
        num_finalists=len(finalists),
    )
    return best.model, choice


def _sequential(run: Run) -> bool:
    return run.config.pruning.reconstruction == "sequential"


def _as_measured(run: Run, bank: WeightBank, measurement: Measurement, reference: DenseReference | None) -> Contender:
    """Cut without more reconstruction than the bank's; scored with a reference where it was measured after one."""
    model = prune(run.inputs.dense, bank, measurement.architecture)
    kl = measurement.kl
    if reference is not None:
        kl = float(score_model(model, run.inputs.dense.family, run.inputs.walk, reference).kl.mean())
    assert kl is not None, "finalists did not fail"
    return Contender(measurement, model, kl, False)


def _best_contender(
    run: Run, bank: WeightBank, finalists: list[Measurement], clock: StageClock, *, reconstructed_before: bool
) -> Contender:
    """Reconstruct every finalist; the best measured one without it stands too, should it not help."""
    inputs, streams, reference = run.inputs, run.calibration_streams, run.selection_reference
    best = _as_measured(run, bank, finalists[0], reference if reconstructed_before else None)
    # Neighbours in this order begin alike, and what is alike is solved once.
    for measurement in sorted(finalists, key=lambda each: each.architecture.widths):
        set_aside(run, best.model)
        model = reconstructed(run, bank, measurement.architecture, streams, clock.advance)
        kl = float(score_model(model, inputs.dense.family, inputs.walk, reference).kl.mean())
        if kl < best.kl:
            best = Contender(measurement, model, kl, True)
        del model  # before the next is made
    if best.sequential:
        best = _with_gains(run, best, streams, reference, clock)
    return best


def set_aside(run: Run, model: PreTrainedModel) -> None:
    """Lay a model's weights down in files until they are needed, where the run does so with the dense model's."""
    dense = run.inputs.dense
    for layer in decoder_layers(model, dense.family) if dense.mapped_layers else ():
        MappedWeights(layer.parameters(), run.folder.scratch)


def _with_gains(
    run: Run, contender: Contender, streams: DenseStreams, reference: DenseReference, clock: StageClock
) -> Contender:
    """Scale the outputs of the contender's modules to match the dense model, unless the selection set says no."""
    inputs, model = run.inputs, contender.model
    walk = DecoderWalk(model, inputs.dense.family, source=inputs.walk)
    gains = match_gains(inputs.original_walk, walk, contender.measurement.architecture, streams.batches, clock.advance)
    take_back = scaled_by(gains, run.inputs.dense.family)
    kl = float(score_model(model, inputs.dense.family, inputs.walk, reference).kl.mean())
    if kl < contender.kl:
        return replace(contender, matched_kl=kl)
    take_back()
    return contender


def reconstructed(
    run: Run,
    bank: WeightBank,
    architecture: Architecture,
    streams: DenseStreams,
    advance: Callable[[], None] = lambda: None,
) -> PreTrainedModel:
    """Cut an architecture out of the model and reconstruct it in sequence."""
    model = prune(run.inputs.dense, bank, architecture)
    ridge = run.config.pruning.sequential_ridge
    reconstruct_in_sequence(run.inputs.dense, run.inputs.walk, model, architecture, streams, ridge, advance)
    return model
