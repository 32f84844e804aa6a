"""A whole run for every family: from its checkpoint to an export that a fresh process holds to what was measured."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import finish

from secateur.config import RunConfig, build_config, resolve
from secateur.demo import decoder_path
from secateur.model.families import FAMILIES

pytestmark = pytest.mark.slow


MIXTURES = [name for name, family in FAMILIES.items() if family.mlp.experts is not None]


@pytest.mark.parametrize(
    ("family", "experts"), [*((name, "widths") for name in FAMILIES), *((name, "whole") for name in MIXTURES)]
)
def test_a_run_ends_in_an_export_of_that_family(
    family: str, experts: str, make_model: Any, small_settings: dict[str, Any], small_config: RunConfig, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(decoder_path())
    make_model(family, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1).save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    inputs = {"model": {"name": str(tmp_path / "decoder")}, "data": {"sources": list(small_config.data.sources)}}
    short = {"search": {"measurements": 52, "reconstructed_share": 0.5, "finalists": 1}}
    settings = [
        small_settings,
        inputs,
        short,
        {"budget": {"max_kv_cache_bytes": 10_000}, "space": {"experts": experts}},
    ]
    report = finish(resolve(build_config(settings)), tmp_path / "run").report
    assert report.export.class_name.startswith(("Secateur", FAMILIES[family].class_prefix))
    assert report.row("secateur").kl < report.row("uniform").kl
    assert report.export.num_parameters == report.row("secateur").cost.total_parameters
