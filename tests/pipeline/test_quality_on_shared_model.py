"""The promise of the product on a real model and real text: half of the uniform baseline's perplexity, no training."""

from pathlib import Path

import pytest

from secateur.config import build_config, resolve
from secateur.pipeline import run_pipeline

SHARED = Path(__file__).parents[3] / "shared"
MODEL = SHARED / "models" / "stories260K"
TEXT = SHARED / "data" / "tinystories" / "tinystories_sample_2M.txt"


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize(("keep", "ratio"), [(0.8, 0.48), (0.5, 0.11)])
def test_perplexity_against_uniform_at_the_same_parameter_count(tmp_path: Path, keep: float, ratio: float) -> None:
    if not (MODEL.is_dir() and TEXT.is_file()):
        pytest.skip("the shared model and text are not beside this repository (../shared)")
    config = build_config(
        [{"model": {"name": str(MODEL)}, "data": {"sources": [str(TEXT)]}, "budget": {"keep": keep}, "seed": 7}]
    )
    report = run_pipeline(resolve(config), tmp_path / "run")
    secateur = report.row("secateur")
    assert report.num_measurements <= 300
    for name in report.excess_log_perplexity_left:
        baseline = report.row(name)
        assert secateur.perplexity.value <= ratio * baseline.perplexity.value, name
        assert secateur.cost.decoder_parameters <= 1.005 * baseline.cost.decoder_parameters, name
    assert report.rounds[-1].quality.kendall_tau > report.rounds[-1].quality.kendall_tau_reduction_only
