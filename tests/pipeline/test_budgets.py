"""Whole runs under other limits than a share of the decoder parameters."""

import json
from pathlib import Path

import pytest
from small_runs import Finished, Moment, finish, run_until

from planted import SHAPE
from secateur import inputs
from secateur.config import RunConfig, build_config
from secateur.errors import BudgetError
from secateur.pipeline import resume_pipeline
from secateur.report.table import budget_title
from secateur.runs.store import RunStore
from secateur.space.latency_table import LatencyTable, PhaseLatency


def limited(config: RunConfig, **limits: object) -> RunConfig:
    fewer = {
        "search": {"measurements": 25, "rounds": 1, "finalists": 1},
        "latency": {"repeats": 2, "prompt_tokens": 16},
    }
    return build_config([config.model_dump(mode="json"), fewer, {"budget": {"keep": None, **limits}}])


@pytest.fixture(scope="module")
def in_memory(small_config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run for a machine that is short of memory."""
    config = limited(small_config, max_params="48k", max_kv_cache_bytes=160)
    return finish(config, tmp_path_factory.mktemp("limited") / "run")


def test_the_result_meets_every_limit_and_so_does_the_baseline(in_memory: Finished) -> None:
    report = in_memory.report
    dense = report.row("dense").cost
    assert dense.total_parameters > 48_000
    assert dense.kv_cache_bytes_per_token > 160
    for row in report.rows[1:]:
        assert row.cost.total_parameters <= 48_000, row.name
        assert row.cost.kv_cache_bytes_per_token <= 160, row.name
    assert {row.name for row in report.rows} == {"dense", "uniform", "uniform-wide", "secateur"}
    assert report.export.num_parameters == report.row("secateur").cost.total_parameters


def test_the_report_says_what_was_limited_and_used(in_memory: Finished) -> None:
    written = json.loads((in_memory.root / "report.json").read_text())
    assert written["keep"] is None
    cost = in_memory.report.row("secateur").cost
    assert [(use["name"], use["ceiling"], use["used"]) for use in written["budget"]] == [
        ("total_parameters", 48_000, cost.total_parameters),
        ("kv_cache_bytes_per_token", 160, cost.kv_cache_bytes_per_token),
    ]
    assert budget_title(in_memory.report) == "within 48,000 parameters and 160 bytes of KV cache per token"
    card = (in_memory.root / "exported" / "README.md").read_text()
    assert f"{cost.total_parameters:,} of 48,000 parameters" in card


class FakeTimes:
    """Times blocks without a clock: half a millisecond per KV head, a twentieth per FFN channel, one outside."""

    def __init__(self) -> None:
        self.tables: list[LatencyTable] = []

    def measure(
        self, _dense: object, _walk: object, kv_heads: set[int], ffn_widths: set[int], *_: object, **__: object
    ) -> LatencyTable:
        heads, widths = tuple(sorted(kv_heads - {0})), tuple(sorted(ffn_widths - {0}))
        phase = PhaseLatency(
            attention=tuple(0.5 * count for count in heads), mlp=tuple(0.05 * width for width in widths), outside=1.0
        )
        table = LatencyTable(
            device="none",
            dtype="float32",
            prompt_tokens=16,
            batch=1,
            repeats=1,
            kv_heads=heads,
            ffn_widths=widths,
            prefill=phase,
            decode=phase,
            seconds=0.25,
        )
        self.tables.append(table)
        return table


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> FakeTimes:
    fake = FakeTimes()
    monkeypatch.setattr(inputs, "measure_latency", fake.measure)
    return fake


@pytest.mark.slow
def test_a_run_on_a_time_limit_goes_on_with_the_table_that_it_was_begun_with(
    small_config: RunConfig, tmp_path: Path, times: FakeTimes
) -> None:
    config, root = limited(small_config, keep=0.9, max_decode_ms=10.0), tmp_path / "run"
    run_until(config, root, Moment("advanced", 5, "search"))
    with RunStore(root / "run.db") as store:
        row = store.stage("latency")
    assert row is not None
    assert [LatencyTable.model_validate(row.payload)] == times.tables
    report = resume_pipeline(root)
    assert len(times.tables) == 1, "it was not timed again"
    assert report.latency == times.tables[0]
    # A table knows nothing of shapes but the kinds of their blocks.
    use = {each.name: each for each in report.budget}["decode_ms"]
    spent = report.latency.costs["decode_ms"].of
    assert use.dense == spent(SHAPE, report.row("dense").architecture) == pytest.approx(1 + 3 * (2 + 2.4))
    assert use.used == spent(SHAPE, report.choice.architecture) <= use.ceiling == 10.0


def test_a_time_that_no_architecture_meets_is_refused_and_nothing_written(
    small_config: RunConfig, tmp_path: Path, times: FakeTimes
) -> None:
    with pytest.raises(BudgetError, match=r"allows 0.5 ms per generated token, .* has 1"):
        finish(limited(small_config, max_decode_ms=0.5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_is_timed_where_no_time_is_limited(in_memory: Finished) -> None:
    assert in_memory.report.latency is None
    assert "latency" not in in_memory.report.stages
