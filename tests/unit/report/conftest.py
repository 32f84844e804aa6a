"""A finished run's report, written by hand."""

import pytest

from secateur.evaluation.perplexity import Perplexity
from secateur.predictor.quality import PredictorQuality
from secateur.report.record import Choice, ExportRecord, ModelRow, Report
from secateur.search.task import RoundRecord
from secateur.space.architecture import Architecture
from secateur.space.cost import cost_of


@pytest.fixture
def report(prepared):
    shape = prepared.dense.shape
    chosen = Architecture.from_widths((3, 24, 0, 48, 4, 0))

    def row(name, architecture, value, kl):
        cost = cost_of(shape, architecture)
        return ModelRow(
            name=name,
            architecture=architecture,
            cost=cost,
            parameter_reduction=1 - cost.decoder_parameters / shape.decoder_parameters,
            perplexity=Perplexity(
                protocol="packed-64",
                value=value,
                low=value - 0.25,
                high=value + 0.5,
                confidence=0.95,
                num_windows=40,
                num_tokens=40 * 63,
            ),
            kl=kl,
            seconds=12.25,
        )

    quality = PredictorQuality(
        predictor="trees", num_pairs=56, kendall_tau=0.81, kendall_tau_reduction_only=0.12, kendall_tau_error_only=0.53
    )
    return Report(
        secateur="0.1.0",
        versions={"python": "3.11.0"},
        model="models/tiny",
        seed=3,
        keep=0.6,
        method="secateur",
        fingerprints={"model": "abc"},
        num_tokens={"calibration": 100},
        num_measurements=56,
        rows=(
            row("dense", Architecture.dense(shape), 8.0, 0.0),
            row("uniform", Architecture.from_widths((2, 32) * 3), 32.0, 1.5),
            row("secateur", chosen, 16.0, 0.7),
        ),
        excess_log_perplexity_left={"uniform": 0.5},
        choice=Choice(architecture=chosen, origin="predicted", kl=0.72, kl_after_sequential=0.69, num_finalists=8),
        rounds=(RoundRecord(round=1, quality=quality, best_kl=0.72),),
        paper=None,
        stages={"load": 1.0, "search": 10.0},
        export=ExportRecord(
            folder="runs/tiny/exported",
            dtype="bfloat16",
            class_name="SecateurLlamaForCausalLM",
            remote_code=True,
            loading_line='model = AutoModelForCausalLM.from_pretrained("exported", trust_remote_code=True)',
            num_parameters=20_000,
            bytes=40_000,
            max_logit_difference=2e-6,
        ),
    )
