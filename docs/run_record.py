"""What a finished run has left, as the pictures of docs/make_pictures.py need it."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from secateur.config import build_config, read_yaml
from secateur.inputs import Inputs, load_inputs
from secateur.predictor.choice import fit_predictor
from secateur.predictor.protocol import Pairs
from secateur.pruning.bank import WeightBank, load_bank
from secateur.report.record import Report
from secateur.runs.folder import RunFolder
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureSource, by_option, feature_table


@dataclass(frozen=True)
class RunRecord:
    """What a finished run has left, as the pictures need it."""

    folder: RunFolder

    @cached_property
    def report(self) -> Report:
        return Report.model_validate_json(self.folder.report.read_text())

    @cached_property
    def inputs(self) -> Inputs:
        return load_inputs(build_config([read_yaml(self.folder.config)]))

    @cached_property
    def bank(self) -> WeightBank:
        return load_bank(self.inputs.dense, self.folder.bank)

    @cached_property
    def measured(self) -> dict[str, list[Measurement]]:
        """Measurements of the run's own space by protocol, the cheap one first: slices, then after reconstruction."""
        with closing(sqlite3.connect(f"file:{self.folder.database.resolve()}?mode=ro", uri=True)) as database:
            proposed = [record for (record,) in database.execute("SELECT record FROM candidates")]
            rows = database.execute("SELECT record FROM measurements ORDER BY measured_at, rowid").fetchall()
        candidates = map(Candidate.model_validate_json, proposed)
        own = {each.architecture.key for each in candidates if each.origin != "alternative"}
        by_protocol: dict[str, list[Measurement]] = {}
        for (record,) in rows:
            measurement = Measurement.model_validate_json(record)
            if measurement.kl is not None and measurement.architecture.key in own:
                by_protocol.setdefault(measurement.protocol, []).append(measurement)
        cheap_first = sorted(by_protocol.values(), key=lambda each: np.median([m.seconds for m in each]))
        return dict(zip(("slices", "reconstructed"), cheap_first, strict=False))

    def out_of_fold(self, measured: Sequence[Measurement]) -> tuple[np.ndarray, np.ndarray, float]:
        """Give predicted and measured KL of architectures that the predictor was fitted without, and Kendall tau."""
        space = self.inputs.space
        errors = by_option(space, [self.bank.errors(module) for module in range(space.num_modules)])
        table = feature_table(FeatureSource(space, errors))
        inside = [
            m for m in measured if self.inputs.budget.admits(*self.inputs.budget.used(space.shape, m.architecture))
        ]
        levels = np.array([space.levels(measurement.architecture) for measurement in inside])
        parameters = np.array([float(space.decoder_parameters(tuple(row))) for row in levels.tolist()])
        kl = np.array([measurement.kl for measurement in inside])
        predictor, quality = fit_predictor("auto", Pairs(table.layout, table.features(levels), kl), parameters, 0)
        return np.exp(predictor.out_of_fold), kl, quality.kendall_tau
