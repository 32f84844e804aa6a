"""The front: written for every run, and any point of it exported later without another search."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from secateur.begun import check_unchanged
from secateur.config import build_config, read_yaml
from secateur.errors import RunFolderError
from secateur.export.checkpoint import round_weights
from secateur.given import NOTHING_GIVEN, Given
from secateur.inputs import load_inputs
from secateur.pruning.bank import WeightBank
from secateur.report.front import Front, FrontPoint, front_of
from secateur.report.front_recovery import read_front_adapters, read_front_recovery
from secateur.report.record import Choice, ExportRecord, ModelRow, Report
from secateur.runs.folder import RunFolder, written_whole
from secateur.runs.progress import Listener, silent, stage_clock
from secateur.runs.records import read_record
from secateur.runs.store import RunStore
from secateur.search.task import Found
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.evaluate import evaluated, evaluation_sets
from secateur.stages.export import exported_note, write_export
from secateur.stages.hidden import hidden_stage
from secateur.stages.prune import cut_best
from secateur.stages.run import Run

# Rows of the final table that are not of other models.
RESULTS = ("secateur", "recovered")


def front_stage(run: Run, found: Found, choice: Choice) -> Front:
    """Write `front.json`."""
    front = front_of(found, run.inputs.shape, choice.architecture, choice.made)
    with written_whole(run.folder.front) as path:
        path.write_text(front.model_dump_json(indent=1) + "\n")
    return front


def read_front(root: Path) -> Front:
    """Read the front of a finished run.

    Raises:
        RunFolderError: There is no run, or it is not finished.
    """
    folder = RunFolder(root)
    if not folder.holds_a_run:
        raise RunFolderError(f"{root} holds no run (no config.yaml); give a folder that `secateur prune` made")
    if not folder.report.is_file() or not folder.front.is_file():
        raise RunFolderError(f"{root} holds a run that is not finished; go on with: secateur resume {root}")
    return read_record(folder.front, Front)


def find_point(front: Front, number: int) -> FrontPoint:
    """Give a point by its number.

    Raises:
        RunFolderError: There is none; names those that there are.
    """
    if not 1 <= number <= len(front.points):
        raise RunFolderError(
            f"--point {number} is not on the front, which has the points 1 to {len(front.points)}; `secateur show` "
            "lists them"
        )
    return front.points[number - 1]


@contextmanager
def finished_run(root: Path, listener: Listener = silent, given: Given = NOTHING_GIVEN) -> Iterator[Run]:
    """Load what a finished run began with, and hold its folder.

    Raises:
        InputError: The model or the text is gone or has changed since.
    """
    folder = RunFolder(root)
    config = build_config([read_yaml(folder.config)])
    with stage_clock("load", listener) as clock:
        inputs = load_inputs(config, scratch=folder.scratch, given=given)
        clock.note = inputs.summary
    with folder.held(), RunStore(folder.database) as store:
        known = store.stage("load")
        assert known is not None, "a finished run has been loaded"
        check_unchanged(root, known.named(), inputs.fingerprints)
        yield hidden_stage(Run(config, inputs, folder, store, listener))


def cut_point(run: Run, bank: WeightBank, front: Front, point: FrontPoint) -> tuple[PreTrainedModel, Choice]:
    """Prune, reconstruct and match gains as the run did, for one point of its front."""
    return cut_measured(run, bank, front, point.architecture, point.kl)


def cut_measured(
    run: Run, bank: WeightBank, front: Front, architecture: Architecture, kl: float
) -> tuple[PreTrainedModel, Choice]:
    """Do that for any architecture that the run has measured.

    Args:
        kl: As it was measured.
    """
    measurement = Measurement(architecture=architecture, protocol="front", status="measured", kl=kl, seconds=0.0)
    with stage_clock("prune", run.listener) as clock:
        return cut_best(run, bank, [measurement], clock, reconstructed_before=front.reconstructed)


def export_point(
    root: Path, number: int, out: Path | None = None, listener: Listener = silent, given: Given = NOTHING_GIVEN
) -> tuple[ExportRecord, ModelRow]:
    """Export a point of a finished run's front; nothing is searched, and the run's own result stays as it is.

    Where the front was recovered (`stages.recover_front`) and the point gained by it, it is exported recovered: the row
    is then called so, and the card has both.

    Args:
        number: From 1; 1 has the best quality.
        out: Folder to write; `exported-NUMBER` in the run folder if not given.
        given: Model and texts in memory that the run was begun with.

    Raises:
        RunFolderError: The run is not finished, has no such point, or `out` is in use.
        InputError: The model or the text is gone or has changed since.
        ExportError: The exported folder does not behave like the model that was evaluated.
    """
    front = read_front(root)
    point = find_point(front, number)
    target = out or root / f"exported-{number}"
    if out is not None and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunFolderError(f"{out} is there already and is not empty; choose another --out folder")
    report = read_record(RunFolder(root).report, Report)
    others = tuple(row for row in report.rows if row.name not in RESULTS)
    with finished_run(root, listener, given) as run:
        pruned, choice = cut_point(run, calibrate_stage(run).bank, front, point)
        with stage_clock("evaluate", listener) as clock:
            rows = _evaluated_states(run, point, pruned, report.row("secateur").seconds)
            clock.note = f"perplexity {' -> '.join(f'{row.perplexity.value:.4f}' for row in rows)}"
        with stage_clock("export", listener) as clock:
            target.parent.mkdir(parents=True, exist_ok=True)
            record = write_export(run, target, pruned, choice, (*others, *rows))
            clock.note = exported_note(record)
    return record, rows[-1]


def _evaluated_states(run: Run, point: FrontPoint, pruned: PreTrainedModel, seconds: float) -> list[ModelRow]:
    """Evaluate a point as it was cut; and recovered, in place, where the front was and it gained by it."""
    sets, architecture, shape = evaluation_sets(run), point.architecture, run.inputs.shape
    rows = [evaluated(run, sets, "secateur", shape, architecture, pruned, seconds)]
    recovery = read_front_recovery(run.folder)
    if recovery is not None and recovery.recovers(point.number):
        read_front_adapters(run.folder, recovery).merge(pruned)
        round_weights(pruned, run.export_dtype)
        seconds += recovery.shared.training.seconds
        rows.append(evaluated(run, sets, "recovered", shape, architecture, pruned, seconds))
    return rows
