"""The budget as a user writes it: on the command line, in YAML, and in the name of a folder."""

import pytest

from secateur.assignments import parse_assignment
from secateur.budget import BudgetConfig, Drop, parse_amount, parse_drop, parse_latencies, short_amount
from secateur.config import RunConfig, build_config
from secateur.errors import ConfigError


class TestAmounts:
    @pytest.mark.parametrize(
        ("written", "amount"),
        [
            ("1.2B", 1_200_000_000),
            ("1.2b", 1_200_000_000),
            ("16G", 16_000_000_000),
            ("350M", 350_000_000),
            ("90k", 90_000),
            ("90 K", 90_000),
            ("2T", 2 * 10**12),
            ("1,427,808", 1_427_808),
            ("1_000", 1000),
            ("1e6", 1_000_000),
            ("7", 7),
            (7, 7),
            (None, None),
        ],
    )
    def test_suffixes_are_powers_of_a_thousand(self, written, amount):
        assert parse_amount(written) == amount

    @pytest.mark.parametrize("written", ["", "B", "many", "1.2X", "1.2BB", "1..2", "nan", "inf", "1e400", "12 apples"])
    def test_another_form_is_refused(self, written):
        with pytest.raises(ValueError, match="expected a"):
            parse_amount(written)

    @pytest.mark.parametrize("amount", [1, 999, 1000, 1_100_000, 1_234_000_000, 350_000_000])
    def test_what_is_written_short_is_read_as_the_same(self, amount):
        assert parse_amount(short_amount(amount)) == amount


class TestLatencies:
    def test_a_bare_number_is_of_decoding(self):
        assert parse_latencies(["12"]) == parse_latencies(["decode=12"]) == {"max_decode_ms": 12.0}

    def test_both_phases_may_be_limited(self):
        assert parse_latencies(["prefill=300", "decode=0.5"]) == {"max_prefill_ms": 300.0, "max_decode_ms": 0.5}

    @pytest.mark.parametrize("written", ["", "fast", "prefill", "decode=", "=12", "train=3", "0", "-1", "nan", "inf"])
    def test_another_form_is_refused(self, written):
        with pytest.raises(ConfigError, match=r"--max-latency-ms .* is not of the form prefill=MS, decode=MS or MS"):
            parse_latencies([written])

    def test_a_phase_is_limited_once(self):
        with pytest.raises(ConfigError, match="decode was given a limit already"):
            parse_latencies(["12", "decode=13"])


class TestDrops:
    @pytest.mark.parametrize(
        ("written", "metric", "most", "title"),
        [
            ("5%", "perplexity", 0.05, "drop-5pct"),
            (" 0.5 % ", "perplexity", 0.005, "drop-0.5pct"),
            ("perplexity=150%", "perplexity", 1.5, "drop-150pct"),
            ("kl=0.05", "kl", 0.05, "drop-kl-0.05"),
            ("accuracy=2%", "accuracy", 0.02, "drop-accuracy-2pct"),
        ],
    )
    def test_a_drop_is_of_perplexity_unless_it_says_of_what(self, written, metric, most, title):
        drop = parse_drop(written)
        assert drop == Drop(metric=metric, most=most)
        assert drop.title == title
        assert drop.written(drop.limit) == pytest.approx(drop.most)

    @pytest.mark.parametrize(
        "written", ["", "5", "0.05", "%", "kl", "kl=5%", "accuracy=2", "loss=3%", "0%", "-1%", "nan%", "accuracy=100%"]
    )
    def test_another_form_is_refused_in_one_line(self, written):
        with pytest.raises(ConfigError, match=r"budget\.max_drop=.* is not allowed: .*expected 5%") as caught:
            build_config([{"budget": {"max_drop": written}}])
        assert "\n" not in str(caught.value)

    def test_of_perplexity_the_limit_is_a_log_ratio(self):
        assert parse_drop("5%").limit == pytest.approx(0.04879, abs=1e-5)
        assert parse_drop("kl=0.05").limit == 0.05

    def test_with_it_no_share_is_asked_for_and_what_is_written_is_read_back(self):
        config = build_config([parse_assignment("budget.max_drop=5%"), parse_assignment("budget.minimize=decode")])
        assert config.budget.keep is None
        assert config.budget.title == "drop-5pct-decode"
        assert config.budget.limits_latency
        assert build_config([config.model_dump(mode="json")]) == config


class TestConfig:
    def test_a_share_is_kept_only_where_nothing_is_asked_for(self):
        assert BudgetConfig().keep == RunConfig().budget.keep == 0.75
        assert build_config([{"budget": {"band": 0.1}}]).budget.keep == 0.75
        assert BudgetConfig(max_params="1M").keep is None
        assert BudgetConfig(max_params="1M", keep=0.5).keep == 0.5

    def test_what_is_written_is_read_back(self):
        config = build_config([{"budget": {"max_params": "1.2B", "max_decode_ms": 12}}])
        assert build_config([config.model_dump(mode="json")]) == config
        assert config.budget.max_params == 1_200_000_000

    def test_an_assignment_may_have_a_suffix_too(self):
        assert build_config([parse_assignment("budget.max_flops=2.5M")]).budget.max_flops == 2_500_000

    @pytest.mark.parametrize(
        "field", ["max_params", "max_flops", "max_kv_cache_bytes", "max_prefill_ms", "max_decode_ms"]
    )
    @pytest.mark.parametrize("value", [0, -1, "many", float("nan"), float("inf")])
    def test_a_limit_that_is_no_positive_number_is_named(self, field, value):
        with pytest.raises(ConfigError, match=rf"budget\.{field}=.* is not allowed: ") as caught:
            build_config([{"budget": {field: value}}])
        assert "\n" not in str(caught.value)

    def test_ceilings_are_by_the_name_of_the_cost(self):
        budget = BudgetConfig(keep=0.5, max_params=4, max_kv_cache_bytes=3, max_flops=2, max_prefill_ms=1.5)
        assert budget.ceilings == {
            "total_parameters": 4,
            "flops_per_token": 2,
            "kv_cache_bytes_per_token": 3,
            "prefill_ms": 1.5,
        }
        assert budget.limits_latency
        assert not BudgetConfig(max_params=4).limits_latency

    @pytest.mark.parametrize(
        ("limits", "title"),
        [
            ({}, "keep-0.75"),
            ({"keep": 0.8}, "keep-0.8"),
            ({"max_params": "1.1M"}, "params-1.1M"),
            ({"max_flops": 2_500_000, "max_kv_cache_bytes": 96}, "flops-2.5M-kv-cache-bytes-96"),
            ({"keep": 0.5, "max_prefill_ms": 300, "max_decode_ms": 12.5}, "keep-0.5-prefill-300ms-decode-12.5ms"),
        ],
    )
    def test_the_folder_is_named_after_the_budget(self, limits, title):
        assert BudgetConfig(**limits).title == title
