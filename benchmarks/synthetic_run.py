"""A run folder whose numbers are invented and whose records are real: for the report's size, speed and tests.

Its shape is that of a decoder of 32 layers; every record is written by the class that a run writes it with.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from secateur.config import RunConfig, build_config, to_yaml
from secateur.evaluation.perplexity import Perplexity
from secateur.evaluation.speed import ModelSpeed, SpeedComparison, Spread
from secateur.model.shape import BlockShape, DenseShape
from secateur.predictor.quality import PredictorQuality
from secateur.report.front import front_of
from secateur.report.record import (
    Begun,
    Choice,
    Explanation,
    ExportRecord,
    ModelRow,
    ReconstructionErrors,
    Report,
    Sample,
)
from secateur.report.recorded import BEGUN, ERRORS, EXPLANATION
from secateur.runs.folder import RunFolder
from secateur.runs.store import RunStore
from secateur.search.fit import KL, FitRecord, Foretold, OutOfFold
from secateur.search.task import Found, RoundRecord
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import cost_of

GROUPS = ("english", "finnish")
VERSIONS = {"python": "3.11", "torch": "2.13.0", "transformers": "5.24.0", "lightgbm": "4.7.0"}


def dense_shape(num_layers: int) -> DenseShape:
    """Give the sizes of a decoder of seven billion parameters, with fewer layers where fewer are asked for."""
    return DenseShape(
        hidden_size=4096,
        num_layers=num_layers,
        num_query_heads=32,
        num_kv_heads=8,
        head_dim=128,
        ffn_width=11_008,
        vocab_size=32_000,
        attention=BlockShape(
            num_groups=8, parameters_per_group=5_242_880, parameters_constant=4096, weights_per_group=5_242_880
        ),
        mlp=BlockShape(
            num_groups=11_008, parameters_per_group=12_288, parameters_constant=4096, weights_per_group=12_288
        ),
        parameters_outside=262_148_096,
    )


class SyntheticRun:
    """Writes the records of a run, as far as it is asked to come.

    Args:
        model: Name of the model; whatever stands in it.
        groups: Names of groups of text.
    """

    def __init__(
        self,
        count: int = 500,
        num_layers: int = 32,
        num_rounds: int = 8,
        model: str = "synthetic-7b",
        groups: Sequence[str] = (),
        text: str = "and then the river ",
    ) -> None:
        self.shape, self.model, self.groups, self.text = dense_shape(num_layers), model, tuple(groups), text
        self.num_rounds = num_rounds
        rng = np.random.default_rng(0)
        self.architectures = [self._architecture(rng) for _ in range(count)]
        self.kl = [0.02 + 0.5 * math.exp(-place / (count / 3)) * rng.uniform(0.6, 1.4) for place in range(count)]
        self.half = count // 2
        origins = ("sampled", "neighbour", "uniform", "predicted", "explored")
        self.candidates = [
            Candidate(
                architecture=architecture,
                origin=origins[min(place * 5 // count, 4)] if place % 7 else "additive",
                round=place * num_rounds // count,
                parameter_reduction=1 - self._kept(architecture),
            )
            for place, architecture in enumerate(self.architectures)
        ]
        self.measurements = [
            Measurement(
                architecture=each,
                protocol="sliced" if place < self.half else "reconstructed",
                status="measured",
                kl=kl,
                loss=2 + kl,
                targets={f"loss {group}": 2 + kl * (1 + number) for number, group in enumerate(self.groups)},
                seconds=1.5,
            )
            for place, (each, kl) in enumerate(zip(self.architectures, self.kl, strict=True))
        ]

    @property
    def best(self) -> Measurement:
        return min(self.measurements[self.half :], key=lambda m: m.kl or 0.0)

    def config(self) -> RunConfig:
        return build_config([{"model": {"name": self.model}, "data": {"sources": ["text.txt"]}}])

    def begin(self, root: Path) -> None:
        """Write what an unfinished run has: measurements, rounds and fits."""
        root.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(root)
        folder.config.write_text(to_yaml(self.config()))
        begun = Begun(
            secateur="0.1.0",
            versions=VERSIONS,
            dense=Architecture.dense(self.shape),
            decoder_parameters=self.shape.decoder_parameters,
            whole_experts=False,
        )
        errors = [
            {width: 1e-3 * (1 - share) for width, share in self._shares(m)} for m in range(self.shape.num_modules)
        ]
        with RunStore(folder.database) as store:
            store.end_stage(BEGUN, 0.0, begun.model_dump(mode="json"))
            store.end_stage("load", 3.0, {"model": "abc123", "calibration": "def456"})
            store.end_stage(ERRORS, 0.0, ReconstructionErrors(by_width=tuple(errors)).model_dump(mode="json"))
            store.end_stage("calibrate", 60.0)
            store.add_candidates([(c.architecture.key, c.round, c.model_dump_json()) for c in self.candidates])
            for m in self.measurements:
                store.add_measurement(m.architecture.key, m.protocol, m.model_dump_json())
            for record in self.rounds():
                store.end_stage(f"round {record.round}", 0.0, record.model_dump(mode="json"))
            for fit in (
                self._fit(self.measurements[: self.half], False),
                self._fit(self.measurements[self.half :], True),
            ):
                store.end_stage(fit.stage, 0.0, fit.model_dump(mode="json"))

    def finish(self, root: Path) -> Report:
        """Write what a finished run has."""
        self.begin(root)
        chosen, report = self.choice(), self.report()
        after = self.measurements[self.half :]
        front = front_of(Found(after, [self.best], reconstructed=True), self.shape, self.best.architecture)
        with RunStore(RunFolder(root).database) as store:
            store.end_stage("search", 900.0)
            store.end_stage("prune", 30.0, chosen.model_dump(mode="json"))
            store.end_stage("samples", 2.0, [each.model_dump(mode="json") for each in report.samples])
            assert report.explanation is not None
            store.end_stage(EXPLANATION, 1.0, report.explanation.model_dump(mode="json"))
        RunFolder(root).front.write_text(front.model_dump_json())
        RunFolder(root).report.write_text(report.model_dump_json())
        return report

    def choice(self) -> Choice:
        best = self.best
        assert best.kl is not None
        return Choice(
            architecture=best.architecture, origin="predicted", kl=best.kl, kl_after_sequential=None, num_finalists=4
        )

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Give rounds whose predictions hold for all but every tenth measurement."""
        quality = PredictorQuality(
            predictor="blend", num_pairs=50, kendall_tau=0.7, kendall_tau_reduction_only=0.1, kendall_tau_error_only=0.4
        )
        parts = np.array_split(np.arange(self.half // 2, len(self.measurements)), self.num_rounds)
        return tuple(
            RoundRecord(
                round=number,
                quality=quality,
                reconstructed=bool(part[0] >= self.half),
                best_kl=min(self.kl[: part[-1] + 1]),
                foretold=tuple(self._foretold(place) for place in part.tolist()),
            )
            for number, part in enumerate(parts, start=1)
        )

    def report(self) -> Report:
        chosen, modules = self.best.architecture, self.shape.num_modules
        rows = (
            self._row("dense", Architecture.dense(self.shape), 6.0, 0.0),
            self._row("uniform", Architecture.from_widths((6, 8256) * self.shape.num_layers), 8.0, 0.3),
            self._row("secateur", chosen, 6.4, 0.05),
        )
        return Report(
            secateur="0.1.0",
            versions=VERSIONS,
            model=self.model,
            seed=0,
            keep=0.75,
            method="secateur",
            fingerprints={"model": "abc123", "calibration": "def456"},
            num_tokens={"calibration": 65_536},
            num_measurements=len(self.measurements),
            rows=rows,
            excess_log_perplexity_left={"uniform": 0.22},
            choice=self.choice(),
            rounds=self.rounds(),
            paper=None,
            speed=self._speed(),
            stages={"load": 3.0, "search": 900.0},
            export=ExportRecord(
                folder="run/exported",
                dtype="bfloat16",
                class_name="SecateurLlamaForCausalLM",
                remote_code=True,
                loading_line="model = ...",
                num_parameters=rows[-1].cost.total_parameters,
                bytes=2 * rows[-1].cost.total_parameters,
                max_logit_difference=0.0,
            ),
            explanation=Explanation(
                quantity=KL,
                num_explained=32,
                mean_absolute=tuple(0.1 + 0.01 * (module % 7) for module in range(modules)),
                chosen=tuple(0.05 * math.sin(module) for module in range(modules)),
                base=0.1,
                predicted=0.05,
            ),
            samples=(Sample(prompt="Once upon a time", continuations={"dense": self.text * 4, "secateur": self.text}),),
        )

    def _architecture(self, rng: np.random.Generator) -> Architecture:
        heads = rng.integers(4, 9, self.shape.num_layers)
        widths = rng.integers(40, 65, self.shape.num_layers) * 172
        return Architecture.from_widths(tuple(np.stack([heads, widths], axis=1).ravel().tolist()))

    def _kept(self, architecture: Architecture) -> float:
        return cost_of(self.shape, architecture).decoder_parameters / self.shape.decoder_parameters

    def _shares(self, module: int) -> list[tuple[int, float]]:
        """Give every width that a module may have, with its share."""
        options = range(9) if module % 2 == 0 else range(0, 11_009, 172)
        return [(width, width / options[-1]) for width in options]

    def _foretold(self, place: int) -> Foretold:
        kl = self.kl[place]
        said = kl * (1.6 if place % 10 == 0 else 1.05)
        key = self.architectures[place].key
        return Foretold(architecture=key, predicted=said, low=said * 0.8, high=said * 1.25, measured=kl)

    def _fit(self, pairs: Sequence[Measurement], reconstructed: bool) -> FitRecord:
        return FitRecord(
            round=self.num_rounds,
            predictor="blend",
            quantity=KL,
            reconstructed=reconstructed,
            pairs=tuple(
                OutOfFold(architecture=m.architecture.key, predicted=1.1 * (m.kl or 0.0), measured=m.kl or 0.0)
                for m in pairs
            ),
        )

    def _row(self, name: str, architecture: Architecture, value: float, kl: float) -> ModelRow:
        cost = cost_of(self.shape, architecture)

        def perplexity(factor: float) -> Perplexity:
            middle = value * factor
            return Perplexity(
                protocol="packed-256",
                value=middle,
                low=0.98 * middle,
                high=1.03 * middle,
                confidence=0.95,
                num_windows=128,
                num_tokens=128 * 255,
            )

        return ModelRow(
            name=name,
            architecture=architecture,
            cost=cost,
            parameter_reduction=1 - cost.decoder_parameters / self.shape.decoder_parameters,
            perplexity=perplexity(1.0),
            kl=kl,
            groups={group: perplexity(1 + 0.1 * number) for number, group in enumerate(self.groups)},
            disparity=0.03 if self.groups else None,
            seconds=60.0,
        )

    def _speed(self) -> SpeedComparison:
        def model(name: str, factor: float) -> ModelSpeed:
            def spread(middle: float) -> Spread:
                return Spread(median=middle, low=0.97 * middle, high=1.04 * middle)

            return ModelSpeed(
                name=name,
                prefill_ms=spread(200 * factor),
                decode_ms_per_token=spread(40 * factor),
                throughput_tokens_per_s=spread(25 / factor),
                peak_memory_bytes=int(14e9 * factor),
                weights_bytes=int(13e9 * factor),
            )

        return SpeedComparison(
            device="cpu",
            dtype="float32",
            prompt_tokens=512,
            new_tokens=32,
            batch=1,
            repeats=15,
            models=(model("dense", 1.0), model("secateur", 0.8)),
        )
