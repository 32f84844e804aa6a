"""The front: written for every run, and any point of it exported later without another search."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from secateur.config import build_config, read_yaml
from secateur.errors import RunFolderError
from secateur.given import NOTHING_GIVEN, Given
from secateur.inputs import check_unchanged, load_inputs
from secateur.pruning.bank import WeightBank
from secateur.report.front import Front, FrontPoint, front_of
from secateur.report.record import Choice, ExportRecord, ModelRow, Report
from secateur.runs.folder import RunFolder, written_whole
from secateur.runs.progress import Listener, silent, stage_clock
from secateur.runs.store import RunStore
from secateur.search.task import Found
from secateur.space.candidate import Measurement
from secateur.stages.calibrate import calibrate_stage
from secateur.stages.evaluate import evaluated, evaluation_sets
from secateur.stages.export import exported_note, write_export
from secateur.stages.hidden import hidden_stage
from secateur.stages.prune import cut_best
from secateur.stages.run import Run


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
    return Front.model_validate_json(folder.front.read_text())


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
        check_unchanged(root, known.payload, inputs.fingerprints)
        yield hidden_stage(Run(config, inputs, folder, store, listener))


def cut_point(run: Run, bank: WeightBank, front: Front, point: FrontPoint) -> tuple[PreTrainedModel, Choice]:
    """Prune, reconstruct and match gains as the run did, for one point of its front."""
    measurement = Measurement(
        architecture=point.architecture, protocol="front", status="measured", kl=point.kl, seconds=0.0
    )
    with stage_clock("prune", run.listener) as clock:
        return cut_best(run, bank, [measurement], clock, reconstructed_before=front.reconstructed)


def export_point(
    root: Path, number: int, out: Path | None = None, listener: Listener = silent, given: Given = NOTHING_GIVEN
) -> tuple[ExportRecord, ModelRow]:
    """Export a point of a finished run's front; nothing is searched, and the run's own result stays as it is.

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
    report = Report.model_validate_json(RunFolder(root).report.read_text())
    with finished_run(root, listener, given) as run:
        pruned, choice = cut_point(run, calibrate_stage(run).bank, front, point)
        with stage_clock("evaluate", listener) as clock:
            seconds = report.row("secateur").seconds
            row = evaluated(
                run, evaluation_sets(run), "secateur", run.inputs.shape, point.architecture, pruned, seconds
            )
            clock.note = f"perplexity {row.perplexity.value:.4f}"
        with stage_clock("export", listener) as clock:
            target.parent.mkdir(parents=True, exist_ok=True)
            record = write_export(
                run,
                target,
                pruned,
                choice,
                (*(each for each in report.rows if each.name not in ("secateur", "recovered")), row),
            )
            clock.note = exported_note(record)
    return record, row
