"""What a run starts from: limits that fit the method, and the targets that the paper's predictor learns."""

import csv
import dataclasses

import pytest
from transformers import AutoTokenizer

from secateur import inputs
from secateur.config import build_config
from secateur.data import Role
from secateur.demo import decoder_path
from secateur.errors import BudgetError, ConfigError, DataError, InputError
from secateur.inputs import define_limits, load_paper_targets, time_blocks
from secateur.search.methods import ALLOCATIONS, JI2023, SEARCHES
from secateur.space.cost import COSTS, Budget, cost_of
from secateur.space.sampling import sample_architectures
from secateur.space_inputs import width_multiple


class TestLimits:
    def limits(
        self, dense, method="secateur", reconstruction="none", keep=0.7, band=0.03, measurements=160, protect_first=0
    ):
        config = build_config(
            [
                {"search": {"method": method, "measurements": measurements}},
                {"space": {"protect_first": protect_first}},
                {"pruning": {"reconstruction": reconstruction}},
                {"budget": {"keep": keep, "band": band}},
            ]
        )
        return define_limits(config, dense)

    @pytest.mark.parametrize("reconstruction", ["none", "bias", "least_squares", "sequential"])
    def test_new_biases_are_counted_and_the_budget_is_a_share_of_the_dense_model(self, prepared, reconstruction):
        dense = prepared.dense
        space, budget = self.limits(dense, reconstruction=reconstruction)
        assert space.shape == (dense.shape.with_output_bias() if reconstruction == "bias" else dense.shape)
        assert budget.ceiling == int(dense.shape.decoder_parameters * 0.7)

    def test_biases_have_no_place_in_a_mixture(self, make_dense):
        with pytest.raises(
            ConfigError, match=r"bias has no place for its biases in a mixture .*'qwen3_moe' is; use none"
        ):
            self.limits(make_dense("qwen3_moe"), reconstruction="bias")

    def test_any_number_of_experts_may_stay(self, make_dense):
        """Widths are multiples of what hardware likes; of 128 experts those would be even."""
        dense = make_dense("qwen3_moe", experts="whole", num_experts=128, moe_intermediate_size=4)
        assert width_multiple(build_config([]), dense.shape) == 1

    @pytest.mark.parametrize("method", SEARCHES)
    def test_a_budget_that_the_space_cannot_meet_is_refused_for_searches(self, prepared, method):
        with pytest.raises(BudgetError, match="no architecture of the search space keeps between"):
            self.limits(prepared.dense, method, keep=0.3, protect_first=2)

    @pytest.mark.parametrize("method", SEARCHES)
    def test_a_band_with_too_few_architectures_to_learn_from_is_refused_for_searches(self, prepared, method):
        with pytest.raises(BudgetError, match=r"only \d+ architectures .* at least 25 are needed"):
            self.limits(prepared.dense, method, keep=0.99, band=0.0001)

    def test_a_band_narrower_than_a_step_of_the_grid_is_widened_to_one(self, prepared):
        space, narrow = self.limits(prepared.dense, keep=0.6, band=1e-6)
        assert narrow.floor == narrow.ceiling - space.smallest_step(COSTS["decoder_parameters"])
        _, wide = self.limits(prepared.dense, keep=0.6, band=0.05)
        assert wide == Budget.from_keep(prepared.dense.shape, 0.6, 0.05)

    @pytest.mark.parametrize("method", [*ALLOCATIONS, JI2023])
    def test_methods_with_widths_of_their_own_are_not_held_to_the_space(self, prepared, method):
        self.limits(prepared.dense, method, keep=0.9, band=0.0001)

    def test_one_measurement_per_module_and_one_for_a_solution_is_the_least_for_the_additive_search(self, make_dense):
        """Before calibration, not after it."""
        dense = make_dense(num_hidden_layers=13)
        self.limits(dense, "additive", measurements=27)
        with pytest.raises(InputError, match=r"search\.measurements.* 26 modules"):
            self.limits(dense, "additive", measurements=26)

    @pytest.mark.parametrize(
        ("method", "num_layers", "keep"),
        [("uniform", 3, 0.02), ("uniform_middle", 8, 0.1), (JI2023, 3, 0.05)],
    )
    def test_a_budget_that_the_method_cannot_meet_is_refused_before_calibration(
        self, make_dense, method, num_layers, keep
    ):
        with pytest.raises(BudgetError, match=f"search.method={method}"):
            self.limits(make_dense(num_hidden_layers=num_layers), method, keep=keep, band=0.003)


class TestLimitsOnOtherThings:
    def limits(self, dense, method="secateur", **budget):
        return define_limits(build_config([{"search": {"method": method}}, {"budget": {"band": 0.03} | budget}]), dense)

    def test_are_met_by_the_space_that_is_searched(self, prepared):
        space, budget = self.limits(prepared.dense, max_params=28_000, max_kv_cache_bytes=256)
        drawn = sample_architectures(space, budget, 25, seed=5)
        assert len(drawn) == 25
        for architecture in drawn:
            cost = cost_of(space.shape, architecture)
            assert cost.total_parameters <= 28_000
            assert cost.kv_cache_bytes_per_token <= 256

    def test_of_which_few_architectures_use_any_up_are_refused_with_their_options(self, prepared):
        words = r"only \d+ architectures .* lower --max-params or --max-kv-cache-bytes"
        with pytest.raises(BudgetError, match=words):
            self.limits(prepared.dense, max_params=38_500, max_kv_cache_bytes=384)

    @pytest.mark.parametrize("method", [*SEARCHES, *ALLOCATIONS])
    def test_that_cannot_be_met_are_refused_before_calibration(self, prepared, method):
        with pytest.raises(BudgetError, match="--max-params"):
            self.limits(prepared.dense, method, max_params=6_000)

    def test_are_not_for_the_papers_pipeline(self, prepared):
        with pytest.raises(BudgetError, match="give --keep only, not --max-params or --max-flops"):
            self.limits(prepared.dense, JI2023, keep=0.7, max_params=28_000, max_flops=40_000)

    def test_are_refused_before_blocks_are_timed_where_no_time_can_change_that(self, prepared, monkeypatch):
        monkeypatch.setattr(inputs, "measure_latency", lambda *_args, **_kwargs: pytest.fail("nothing is to be timed"))
        config = build_config([{"budget": {"max_params": 6_000, "max_decode_ms": 1.0}}])
        with pytest.raises(BudgetError, match="--max-params allows 6,000 parameters"):
            time_blocks(config, prepared.dense, prepared.walk)

    def test_blocks_are_timed_at_all_widths_of_the_space(self, prepared):
        config = build_config([{"budget": {"max_decode_ms": 1e-6}, "latency": {"repeats": 1, "prompt_tokens": 8}}])
        table = time_blocks(config, prepared.dense, prepared.walk)
        space, _ = self.limits(prepared.dense, keep=0.7)
        assert (0, *table.kv_heads) == space.options[0]
        assert (0, *table.ffn_widths) == space.options[1]
        with pytest.raises(BudgetError, match=r"--max-latency-ms decode allows 1e-06 ms .* the smallest architecture"):
            define_limits(config, prepared.dense, table)


class TestPaperTargets:
    @pytest.fixture
    def load(self, prepared, tmp_path):
        def load(dense=prepared.dense, **paper):
            return load_paper_targets(build_config([{"paper": paper, "search": {"method": JI2023}}]), dense)

        return load

    @pytest.fixture
    def write(self, tmp_path):
        """Write so many words into a text file; gives its path."""

        def write(name, words):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(" ".join(f"w{3 + number % 90}" for number in range(words)))
            return str(path)

        return write

    def test_texts_are_selection_sets_of_128_token_windows_under_their_names(self, load, write):
        found = load(perplexity=[write("wiki.txt", 600), write("ptb.txt", 300)], tokens=256)
        assert list(found.texts) == ["wiki.txt", "ptb.txt"]
        assert found.choices is None
        for tokens in found.texts.values():
            assert tokens.role is Role.SELECTION
            assert tokens.tokens.shape == (2, 128)

    def test_texts_of_the_same_name_are_two_targets(self, load, write):
        """Every data set has a test.txt."""
        assert len(load(perplexity=[write("wiki/test.txt", 300), write("ptb/test.txt", 200)]).texts) == 2

    def test_no_text_leaves_the_selection_set(self, load):
        assert load().texts == {}

    def test_a_text_of_less_than_a_window_is_refused(self, load, write):
        with pytest.raises(DataError, match="at least 128 are needed"):
            load(perplexity=[write("short.txt", 50)])

    def test_questions_are_read_for_selection(self, load, prepared, tmp_path):
        (tmp_path / "mmlu" / "test").mkdir(parents=True)
        for subject in ("law", "art"):
            with (tmp_path / "mmlu" / "test" / f"{subject}_test.csv").open("w", newline="") as file:
                rows = [[f"w{3 + number} w{40 + number}", "w3", "w4", "w5", "w6", "A"] for number in range(40)]
                csv.writer(file).writerows(rows)
        # The tiny decoders' own tokenizer knows no letters.
        dense = dataclasses.replace(prepared.dense, tokenizer=AutoTokenizer.from_pretrained(decoder_path()))
        found = load(dense, multiple_choice=str(tmp_path / "mmlu"), questions=10, shots=0)
        assert found.choices is not None
        assert found.choices.role is Role.SELECTION
        assert len(found.choices.answers) == 10
