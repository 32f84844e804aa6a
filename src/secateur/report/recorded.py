"""All that a run folder tells, finished or not: what a report is made from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from secateur.errors import RunFolderError
from secateur.plain_yaml import load_plain
from secateur.recovery.recover import RecoveryRecord
from secateur.report.front import Front
from secateur.report.record import Begun, Choice, Explanation, ModelRow, ReconstructionErrors, Report, Sample
from secateur.runs.folder import RunFolder
from secateur.runs.records import read_record, reading
from secateur.runs.store import RunStore
from secateur.search.fit import FitRecord
from secateur.search.task import PROBES, RoundRecord
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement

# Stages that keep a record and take no time worth telling.
BEGUN, ERRORS, EXPLANATION, FIT = "begun", "errors", "explanation", "fit "
# And those for whoever goes on with a run: how fast this machine is, what the latest round set out with.
SPEEDS, ROUND_PLAN = "speeds", "plan"
KEPT_RECORDS = (BEGUN, ERRORS, EXPLANATION, SPEEDS, ROUND_PLAN)


def takes_time(stage: str) -> bool:
    """Say whether a stage is work, and not only a record of it."""
    return stage not in KEPT_RECORDS and not stage.startswith(FIT)


@dataclass(frozen=True)
class Recorded:
    """What a run has left so far.

    Attributes:
        config: As in `config.yaml`, without the folders that texts and model lie in.
        candidates: By key of their architecture, in the order of proposal.
        measurements: In the order in which they were made, probes and failures too.
        choice, rows: As soon as they are known; `report` comes last.
        seconds: Of finished stages.
    """

    name: str
    config: dict[str, Any]
    candidates: dict[str, Candidate] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    fits: tuple[FitRecord, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    begun: Begun | None = None
    errors: ReconstructionErrors | None = None
    explanation: Explanation | None = None
    samples: tuple[Sample, ...] = ()
    choice: Choice | None = None
    rows: tuple[ModelRow, ...] = ()
    recovery: RecoveryRecord | None = None
    front: Front | None = None
    report: Report | None = None

    @property
    def model(self) -> str:
        return Path(str(self.config["model"]["name"])).name

    @property
    def method(self) -> str:
        return str(self.config["search"]["method"])

    @property
    def counted(self) -> str:
        """Say what is counted of every MLP."""
        return "experts" if self.config["space"].get("experts") == "whole" else "FFN channels"

    @property
    def dense(self) -> Architecture | None:
        """The model that is cut."""
        if self.begun is not None:
            return self.begun.dense
        return next((row.architecture for row in self.rows if row.name == "dense"), None)

    def row(self, name: str) -> ModelRow | None:
        return next((row for row in self.rows if row.name == name), None)

    @property
    def result(self) -> ModelRow | None:
        """The row of the recovered model, or of the pruned one where there is none."""
        return self.row("recovered") or self.row("secateur")

    def is_probe(self, measurement: Measurement) -> bool:
        """Say whether it was measured to learn from only."""
        return self.candidates[measurement.architecture.key].origin in PROBES

    @cached_property
    def protocol(self) -> str | None:
        """How the measurements were made that the choice is among: the last of what is no probe."""
        if self.choice is not None:
            chosen = self.choice
            for measurement in reversed(self.measurements):
                if measurement.architecture == chosen.architecture and measurement.kl == chosen.kl:
                    return measurement.protocol
        return self.measurements[-1].protocol if self.measurements else None

    @cached_property
    def compared(self) -> tuple[Measurement, ...]:
        """What the choice is among: measured in the way that counts, failures left out."""
        return tuple(m for m in self._searched if m.protocol == self.protocol)

    @cached_property
    def earlier(self) -> tuple[Measurement, ...]:
        """What the search has measured in another way before: by slices, where the choice is after reconstruction."""
        return tuple(m for m in self._searched if m.protocol != self.protocol)

    @property
    def _searched(self) -> tuple[Measurement, ...]:
        return tuple(m for m in self.measurements if m.kl is not None and not self.is_probe(m))

    @property
    def num_failed(self) -> int:
        return sum(m.kl is None for m in self.measurements)

    def kept(self, architecture: Architecture) -> float | None:
        """Give the share of the given model's decoder parameters that an architecture keeps."""
        known = self.candidates.get(architecture.key)
        if known is not None:
            return 1 - known.parameter_reduction
        return next((1 - row.parameter_reduction for row in self.rows if row.architecture == architecture), None)

    @property
    def chosen(self) -> Architecture | None:
        """The architecture of the result; of an unfinished run the best so far."""
        if self.choice is not None:
            return self.choice.architecture
        best = self.best
        return best.architecture if best else None

    @cached_property
    def best(self) -> Measurement | None:
        return min(self.compared, key=lambda m: (m.kl, m.architecture.key), default=None)

    @property
    def versions(self) -> dict[str, str]:
        if self.report is not None:
            return {"secateur": self.report.secateur} | self.report.versions
        return {"secateur": self.begun.secateur} | self.begun.versions if self.begun else {}


def evaluated_rows(payload: Mapping[str, Any]) -> tuple[ModelRow, ...]:
    """Give the rows that a run has come to, by what its stages left."""
    rows = [*(payload.get("evaluate") or ()), *filter(None, [payload.get("evaluate recovered")])]
    return tuple(ModelRow.model_validate(row) for row in rows)


def read_recorded(root: Path, report: Report | None = None) -> Recorded:
    """Read a run folder; what the run has not come to yet is left out.

    Args:
        report: What is about to be written as `report.json`.

    Raises:
        RunFolderError: The folder holds no run.
    """
    folder = RunFolder(root)
    if not folder.database.is_file() or not folder.config.is_file():
        raise RunFolderError(f"{root} holds no run (no run.db); give a folder that `secateur prune` made")
    with reading(folder.root):
        return _recorded(folder, report)


def _recorded(folder: RunFolder, report: Report | None) -> Recorded:
    with RunStore(folder.database) as store:
        stages = {row.name: row for row in store.stages()}
        payload = {name: row.payload for name, row in stages.items()}
        candidates = [Candidate.model_validate_json(record) for record in store.candidates()]
        measurements = tuple(Measurement.model_validate_json(record) for record in store.all_measurements())
    if report is None and folder.report.is_file():
        report = read_record(folder.report, Report)
    return Recorded(
        name=folder.root.absolute().name,
        config=load_plain(folder.config.read_text()),
        candidates={candidate.architecture.key: candidate for candidate in candidates},
        measurements=measurements,
        rounds=tuple(RoundRecord.model_validate(row) for name, row in payload.items() if name.startswith("round ")),
        fits=tuple(FitRecord.model_validate(row) for name, row in payload.items() if name.startswith(FIT)),
        seconds={row.name: row.seconds for row in stages.values() if takes_time(row.name) and row.seconds > 0},
        fingerprints=payload.get("load") or {},
        begun=Begun.model_validate(payload[BEGUN]) if BEGUN in payload else None,
        errors=ReconstructionErrors.model_validate(payload[ERRORS]) if ERRORS in payload else None,
        explanation=Explanation.model_validate(payload[EXPLANATION]) if EXPLANATION in payload else None,
        samples=tuple(Sample.model_validate(each) for each in payload.get("samples") or ()),
        choice=Choice.model_validate(payload["prune"]) if "prune" in payload else None,
        rows=report.rows if report else evaluated_rows(payload),
        recovery=RecoveryRecord.model_validate(payload["recover"]) if "recover" in payload else None,
        front=read_record(folder.front, Front) if folder.front.is_file() else None,
        report=report,
    )
