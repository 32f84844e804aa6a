"""What `secateur.prune` gives back: the pruned model, what the run found, and a way to other points of its front."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from rich.console import Console, RenderableType

from secateur.api.pruned import PrunedModel
from secateur.given import NOTHING_GIVEN, Given
from secateur.report.front import Front, FrontPoint, front_table
from secateur.report.notebook import html_summary
from secateur.report.record import Report
from secateur.report.table import architecture_table, final_table, group_table, summary_lines
from secateur.runs.progress import Listener, silent
from secateur.stages.front import export_point

WIDTH = 120


@dataclass(frozen=True)
class PruneResult(PrunedModel):
    """The outcome of a run: the chosen model (see `PrunedModel`), and everything that was found on the way.

    Attributes:
        report: All of `report.json`: rows of the final table, budget, choice, predictor, versions, seeds.
        front: All of `front.json`: `front.points` are the architectures that nothing measured beats, best first.
        run_folder: Where the run lies; `secateur show` reads it.
        listener: Receives the events of what is done later.
        given: Model and texts in memory that the run was made with.
    """

    report: Report = field(kw_only=True, repr=False)
    front: Front = field(kw_only=True, repr=False)
    run_folder: Path = field(kw_only=True)
    listener: Listener = field(default=silent, kw_only=True, repr=False, compare=False)
    given: Given = field(default=NOTHING_GIVEN, kw_only=True, repr=False, compare=False)

    def export(self, point: int | FrontPoint, out: str | Path | None = None) -> PrunedModel:
        """Make another point of the front, as the chosen one was made: cut, reconstructed, evaluated and verified.

        Nothing is searched again, and this result stays as it is.

        Args:
            point: Number of a point, or one of `front.points`; 1 has the best quality.
            out: Folder to write; `exported-NUMBER` in the run folder if not given.

        Raises:
            RunFolderError: There is no such point, `out` is in use, or model or texts are not those of the run.
            ExportError: The exported folder does not behave like the model that was evaluated.
        """
        number = point if isinstance(point, int) else point.number
        target = Path(out) if out is not None else None
        record, row = export_point(self.run_folder, number, target, self.listener, self.given)
        folder = target or self.run_folder / record.folder
        return PrunedModel(folder, row, record, self.placement, self.kept)

    def summary(self, width: int = WIDTH) -> str:
        """Give what the command line prints after a run, and the front, as text of so many columns."""
        report = self.report
        parts: Sequence[RenderableType] = (
            architecture_table(report),
            final_table(report),
            *([group_table(report)] if report.rows[0].groups else []),
            *summary_lines(report),
            front_table(self.front),
        )
        console = Console(file=StringIO(), width=width, highlight=False, markup=False, emoji=False)
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, str))
        assert isinstance(console.file, StringIO), "as it was made"
        return console.file.getvalue().strip("\n")

    def __repr__(self) -> str:
        dense = self.report.row("dense").perplexity.value
        return (
            f"PruneResult({self.report.model}: {1 - self.row.parameter_reduction:.1%} of the decoder parameters, "
            f"perplexity {self.row.perplexity.value:.3f} (dense {dense:.3f}), KL {self.row.kl:.4f}, "
            f"{len(self.front.points)} points on the front)"
        )

    def _repr_html_(self) -> str:
        return html_summary(self.report, self.front)
