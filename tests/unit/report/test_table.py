import io

from rich.console import Console

from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.speed import SpeedComparison, SpeedRatio, Spread
from secateur.predictor.multi_output import PaperQuality
from secateur.report.record import BudgetUse
from secateur.report.table import architecture_table, budget_title, final_table, summary_lines
from secateur.search.ji2023 import PaperRecord


def printed(part):
    console = Console(file=io.StringIO(), width=200)
    console.print(part)
    return console.file.getvalue()


def test_the_final_table_has_a_line_per_model_with_its_numbers(report):
    text = printed(final_table(report))
    assert "models/tiny at 0.6 of its decoder parameters" in text
    assert "40 evaluation windows, packed-64" in text
    lines = [line.strip() for line in text.splitlines()]
    dense, uniform, secateur = (
        next(line for line in lines if line.startswith(f"{name}  ")) for name in ("dense", "uniform", "Secateur")
    )
    # Half the width of an interval from 15.75 to 16.5 is 0.375.
    assert [cell in secateur.split() for cell in ("16.00", "0.38", "0.700", "12")] == [True] * 4
    assert f"{report.row('uniform').cost.total_parameters:,}" in uniform.split()
    assert "0.0%" in dense.split()


def test_the_architecture_is_shown_layer_by_layer(report):
    text = printed(architecture_table(report))
    assert "FFN width" in text
    assert "experts" in printed(architecture_table(report.model_copy(update={"whole_experts": True})))
    assert "3 of 4" in text
    assert "24 of 48" in text
    assert "██████··" in text
    assert "········" in text


def test_the_summary_says_what_was_gained_and_how_well_the_predictor_ranks(report):
    gain, predictor, export = summary_lines(report)
    assert gain.startswith("perplexity is 0.50 of uniform; 50% of its excess log-perplexity")
    assert "predictor (trees): Kendall tau 0.81 at the budget, cross-validated on 56 pairs" in predictor
    assert "parameter count alone 0.12" in predictor
    assert "reconstruction error alone 0.53" in predictor
    assert "56 architectures measured" in export
    assert "SecateurLlamaForCausalLM, 20,000 parameters, logits within 2e-06" in export


def test_without_baselines_no_gain_is_claimed(report):
    alone = report.model_copy(update={"excess_log_perplexity_left": {}})
    assert len(summary_lines(alone)) == 2


def test_a_method_without_a_predictor_has_no_line_about_one(report):
    gain, export = summary_lines(report.model_copy(update={"rounds": (), "method": "random"}))
    assert gain.startswith("perplexity is 0.50 of uniform")
    assert "56 architectures measured" in export


def test_the_papers_predictor_is_reported_as_the_paper_does(report):
    paper = PaperRecord(
        quality=PaperQuality(
            num_fitted=367, num_validation=158, mse=0.111, rmse=0.333, mae=0.222, r2=0.887, r2_reduction_only=0.776
        ),
        targets=("perplexity selection",),
        ratios=((0.1, 0.2),) * 6,
        importance=(1 / 6,) * 6,
        kendall_tau_finalists=0.42,
    )
    _, line, _ = summary_lines(report.model_copy(update={"rounds": (), "paper": paper, "method": "ji2023"}))
    assert "367 pairs fitted, 158 held out: MSE 0.111, RMSE 0.333, MAE 0.222, R2 0.887" in line
    assert "parameter count alone 0.776" in line
    assert line.endswith("Kendall tau among the last measured, at the budget, 0.42")


class TestOtherBudgets:
    USES = (
        BudgetUse(name="total_parameters", ceiling=1_100_000, used=1_091_424, dense=1_427_808),
        BudgetUse(name="decode_ms", ceiling=12.0, used=11.256, dense=15.5),
    )
    KEEP = BudgetUse(name="decoder_parameters", ceiling=19_000, used=18_900, dense=32_448)

    def test_are_in_the_title_with_their_units(self, report):
        text = printed(final_table(report.model_copy(update={"keep": None, "budget": self.USES})))
        title, *_ = text.splitlines()
        assert title.rstrip() == "models/tiny within 1,100,000 parameters and 12 ms per generated token"

    def test_beside_a_share_are_named_after_it(self, report):
        both = report.model_copy(update={"budget": (self.KEEP, self.USES[0])})
        assert budget_title(both) == "at 0.6 of its decoder parameters, within 1,100,000 parameters"

    def test_are_summed_up_by_what_is_used(self, report):
        _, used, *_ = summary_lines(report.model_copy(update={"keep": None, "budget": self.USES}))
        assert used == (
            "of the budget it uses 1,091,424 of 1,100,000 parameters (dense: 1,427,808), "
            "11.26 of 12 ms per generated token (dense: 15.5)"
        )

    def test_of_a_share_alone_say_nothing_more(self, report):
        alone = report.model_copy(update={"budget": (self.KEEP,)})
        assert summary_lines(alone) == summary_lines(report)
        assert budget_title(alone) == "at 0.6 of its decoder parameters"


def test_a_predictor_that_was_not_trusted_is_owned_up_to(report):
    first = report.rounds[0]
    rounds = (first, first.model_copy(update={"round": 2, "fell_back": True}))
    lines = summary_lines(report.model_copy(update={"rounds": rounds}))
    assert any("in rounds 2 the predictor ranked no better than noise" in line for line in lines)
    assert not any("noise" in line for line in summary_lines(report))


def test_the_summary_ends_in_how_the_result_stands_beside_the_dense_model(report):
    comparison = PairedComparison(
        first="secateur",
        second="dense",
        protocol="packed-64",
        difference=0.25,
        low=0.2,
        high=0.3,
        confidence=0.95,
        p_value=0.0001,
        num_windows=40,
    )
    half = Spread(median=0.5, low=0.48, high=0.52)
    ratio = SpeedRatio(name="secateur", against="dense", prefill=half, decode=half, throughput=half, confidence=0.95)
    speed = SpeedComparison(
        device="cpu",
        dtype="float32",
        prompt_tokens=64,
        new_tokens=8,
        batch=1,
        repeats=9,
        models=(),
        ratios=(ratio,),
    )
    lines = summary_lines(report.model_copy(update={"comparisons": (comparison,), "speed": speed}))
    assert "beside dense, window by window: +0.2500 nats per token (+0.2000 to +0.3000; sign flips, p < 0.001)" in lines
    assert any("prefill 0.5 (0.48-0.52) of the time" in line for line in lines)
