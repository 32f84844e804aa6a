"""Recover the front: one set of adapters for all points of a finished run, trained by turns; exports then have it."""

from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel

from secateur.data import Role, assign_documents, assign_group_documents
from secateur.errors import RunFolderError
from secateur.given import NOTHING_GIVEN, Given
from secateur.pruning.bank import WeightBank
from secateur.recipe import Recipe
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.shared import SharedRecovery, recover_shared, refuse_unshared
from secateur.recovery.text import RecoverySet
from secateur.recovery_inputs import load_recovery_set
from secateur.report.front import Front, FrontPoint
from secateur.report.front_recovery import (
    FrontRecovery,
    FrontRequest,
    RecoveredPoint,
    adapters_file,
    read_front_recovery,
    record_file,
    request_file,
)
from secateur.runs.folder import RunFolder, remove, written_whole
from secateur.runs.progress import LOSS, Listener, silent, stage_clock
from secateur.runs.records import read_record, read_text
from secateur.schema import Record, derive_seed
from secateur.search.task import ranked
from secateur.space.candidate import Measurement
from secateur.space.cost import cost_of
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.front import cut_measured, cut_point, find_point, finished_run, read_front
from secateur.stages.prune import set_aside
from secateur.stages.run import Run


def recover_front(
    root: Path,
    recipe: Recipe,
    listener: Listener = silent,
    given: Given = NOTHING_GIVEN,
    points: tuple[int, ...] = (),
    between: int = 0,
) -> FrontRecovery:
    """Train one set of adapters for points of a finished run's front, or go on with that.

    Nothing is searched, and the run's own result stays as it is; `export_point` merges the adapters into the points
    that gained by them.

    Args:
        recipe: Its tokens are for all points together.
        given: Model and texts in memory that the run was begun with.
        points: By number; all if none is named.
        between: How many other architectures take turns too: those that the search measured between the points.

    Raises:
        ConfigError: The recipe is not one of LoRA.
        RunFolderError: The run is not finished, has no such point, or was recovered in another way.
        InputError: The model or the text is gone or has changed since.
    """
    refuse_unshared(recipe)
    folder, front = RunFolder(root), read_front(root)
    wanted = [find_point(front, number) for number in sorted(set(points))] or list(front.points)
    with finished_run(root, listener, given) as run:
        recovery_set = front_recovery_set(run, recipe, given)
        request = FrontRequest(
            recipe=recipe,
            points=tuple(point.number for point in wanted),
            between=between,
            recovery_set=recovery_set.fingerprint,
        )
        _begin(folder, request)
        known = read_front_recovery(folder)
        if known is not None:
            return known
        shared = _recovered(run, front, wanted, request, recovery_set)
        record = FrontRecovery(
            request=request,
            points=tuple(
                RecoveredPoint(
                    number=point.number,
                    architecture=point.architecture,
                    decoder_parameters=point.cost.decoder_parameters,
                    loss=loss,
                )
                for point, loss in zip(wanted, shared.record.losses, strict=True)
            ),
            shared=shared.record,
        )
        with written_whole(adapters_file(folder)) as path:
            save_file(shared.adapters.tensors, path)
        _write(record, record_file(folder))
        # Adapters and record are all that an export needs; what the dense model said is the largest of the rest.
        for name in ("training", "teacher"):
            remove(folder.front_recovery / name)
    return record


def front_recovery_set(run: Run, recipe: Recipe, given: Given = NOTHING_GIVEN) -> RecoverySet:
    """Give the text to train on, as a run that recovers has it; none of it is selected by or evaluated on.

    Raises:
        DataError: There is too little of it.
    """
    data, texts = run.config.data, given.texts
    named = {
        Role.CALIBRATION: list(data.calibration),
        Role.SELECTION: list(data.selection),
        Role.EVALUATION: list(data.evaluation),
    }
    documents = assign_documents(list(data.sources), named, data.text_field, texts)
    groups = assign_group_documents(data.groups, documents, data.text_field, texts)
    config = run.config.model_copy(update={"recovery": recipe})
    return load_recovery_set(config, documents, groups, run.inputs.dense.tokenizer, texts)


def _begin(folder: RunFolder, request: FrontRequest) -> None:
    """Write what is asked for, or refuse to go on with something else."""
    path = request_file(folder)
    if path.is_file():
        known = read_record(path, FrontRequest)
        differing = _differing(known, request)
        if differing:
            raise RunFolderError(
                f"{folder.front_recovery} was begun with other settings: {', '.join(differing)}; ask for the same, or "
                "remove that folder to recover the front anew"
            )
        return
    folder.front_recovery.mkdir(exist_ok=True)
    _write(request, path)


def _differing(known: FrontRequest, request: FrontRequest) -> list[str]:
    before, now = known.model_dump(mode="json"), request.model_dump(mode="json")
    before |= {f"recovery.{name}": value for name, value in before.pop("recipe").items()}
    now |= {f"recovery.{name}": value for name, value in now.pop("recipe").items()}
    return [f"{name} was {before[name]}, is {value}" for name, value in now.items() if before[name] != value]


def _write(record: Record, target: Path) -> None:
    with written_whole(target) as path:
        path.write_text(record.model_dump_json(indent=1) + "\n")


def _recovered(
    run: Run, front: Front, points: list[FrontPoint], request: FrontRequest, recovery_set: RecoverySet
) -> SharedRecovery:
    """Cut every point as the run makes them, and train."""
    config, inputs, recipe = run.config, run.inputs, request.recipe
    bank = calibrate_stage(run).bank
    models = list(_cut(run, bank, front, points))
    others = list(_cut_between(run, bank, front, points, request.between))
    recovery = Recovery(
        recipe,
        Texts(recovery_set, inputs.sets[Role.SELECTION].expect(Role.SELECTION).tokens),
        derive_seed(config.seed, "recover front"),
        config.evaluation.batch_tokens,
        DenseTeacher(inputs.original.model, inputs.fingerprints["model"]),
        run.folder.front_recovery,
    )
    with stage_clock("recover", run.listener, recovery.plan(models[0]).steps, LOSS) as clock:
        shared = recover_shared(models, recovery, others, clock.advance)
        losses = shared.record.losses
        before, after = (sum(each) / len(losses) for each in zip(*((a.before, a.after) for a in losses), strict=True))
        gained = sum(each.recovered for each in losses)
        clock.note = f"selection loss {before:.4f} -> {after:.4f} on average; {gained} of {len(losses)} points gained"
    return shared


def _cut(run: Run, bank: WeightBank, front: Front, points: list[FrontPoint]) -> Iterator[PreTrainedModel]:
    for point in points:
        model, _ = cut_point(run, bank, front, point)
        # Where the dense model's weights are mapped from files, those of every point are too: only one takes a step.
        set_aside(run, model)
        yield model


def _cut_between(
    run: Run, bank: WeightBank, front: Front, points: list[FrontPoint], count: int
) -> Iterator[PreTrainedModel]:
    """Cut what was measured between the points: as many, evenly over their sizes, the best of each."""
    for measurement in measured_between(run, points, count):
        assert measurement.kl is not None, "ranked measurements have a KL"
        model, _ = cut_measured(run, bank, front, measurement.architecture, measurement.kl)
        set_aside(run, model)
        yield model


def measured_between(run: Run, points: list[FrontPoint], count: int) -> list[Measurement]:
    """Give the best that was measured in each of `count` equal ranges of size, from the smallest point to the largest.

    Points themselves are left out; of a range in which nothing was measured there is none.
    """
    shape, listed = run.inputs.shape, {point.architecture for point in points}
    measured = ranked([read_text(record, Measurement) for record in run.store.all_measurements()])
    sizes = [point.cost.decoder_parameters for point in points]
    smallest, span = min(sizes), max(sizes) - min(sizes)
    found: dict[int, Measurement] = {}
    for measurement in measured:
        size = cost_of(shape, measurement.architecture).decoder_parameters
        place = int((size - smallest) / max(1, span) * count)
        if measurement.architecture not in listed and 0 <= place < count and size >= smallest:
            found.setdefault(place, measurement)
    return [found[place] for place in sorted(found)]
