"""The paper's pipeline, piece by piece, and as a whole on losses that need no model."""

import dataclasses

import numpy as np
import pytest

from planted import SHAPE, Problem
from secateur.errors import BudgetError, SecateurError
from secateur.model.shape import BlockShape
from secateur.predictor.multi_output import fit_multi_output
from secateur.search.ji2023 import (
    IMPORTANT_RATIOS,
    RATIOS,
    UNIMPORTANT_RATIOS,
    PaperSizes,
    badness,
    features,
    free_ratios,
    paper_search,
    paper_space,
    pruned_modules,
    shrink,
    tied_ratios,
    trim,
    widths_of,
)
from secateur.space.cost import Budget

DEEP = dataclasses.replace(SHAPE, num_layers=32)
SPACE = paper_space(DEEP, 2)
# Sizes of LLaMA-7B: what the paper pruned.
LLAMA = dataclasses.replace(
    DEEP,
    hidden_size=4096,
    num_kv_heads=32,
    num_query_heads=32,
    ffn_width=11_008,
    attention=BlockShape(32, 4 * 4096 * 128, 4096, 4 * 4096 * 128),
    mlp=BlockShape(11_008, 3 * 4096, 4096, 3 * 4096),
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class TestLayersThatArePruned:
    @pytest.mark.parametrize(("num_layers", "pruned"), [(32, range(3, 30)), (12, range(1, 11)), (5, range(5))])
    def test_are_27_of_32_and_the_same_share_of_other_depths(self, num_layers, pruned):
        shape = dataclasses.replace(SHAPE, num_layers=num_layers)
        assert pruned_modules(shape) == [2 * layer + kind for layer in pruned for kind in (0, 1)]


class TestRatios:
    def test_four_adjacent_layers_share_one_for_attention_and_one_for_the_mlp(self, rng):
        ratios = tied_ratios(DEEP, 50, rng).reshape(50, 32, 2)
        assert (ratios[:, [0, 1, 2, 30, 31]] == 0).all()
        for start in range(3, 30, 4):
            tied = ratios[:, start : min(start + 4, 30)]
            assert (tied == tied[:, :1]).all()
        # Neither the two blocks of a layer nor neighbouring fours share: 50 draws would not all agree by chance.
        assert (ratios[:, 3, 0] != ratios[:, 3, 1]).any()
        for border in range(7, 30, 4):
            assert (ratios[:, border - 1] != ratios[:, border]).any(0).all()
        assert set(np.unique(ratios[:, 3:30])) == set(RATIOS)

    def test_free_ones_are_drawn_module_by_module(self, rng):
        ratios = free_ratios({4: (0.1, 0.2), 5: (0.7,)}, DEEP, 200, rng)
        assert set(np.unique(ratios[:, 4])) == {0.1, 0.2}
        assert (ratios[:, 5] == 0.7).all()
        assert (np.delete(ratios, [4, 5], axis=1) == 0).all()

    @pytest.mark.parametrize(
        ("ratio", "heads", "channels"),
        [(0.0, 32, 11_008), (0.1, 29, 9_907), (0.2, 26, 8_806), (0.3, 23, 7_705), (0.5, 16, 5_504), (0.7, 10, 3_302)],
    )
    def test_are_rounded_as_llm_pruner_does(self, ratio, heads, channels):
        """Heads removed are rounded down, and so are channels that stay: int(32 * 0.3) = 9 heads of 32 go."""
        widths = widths_of(LLAMA, np.full((1, 64), ratio))
        assert (widths[0, ::2] == heads).all()
        assert (widths[0, 1::2] == channels).all()

    def test_whole_numbers_are_not_lost_to_floating_point(self):
        """10 * (1 - 0.7) is 3.0000000000000004, and 100 * (1 - 0.9) is 9.999999999999998."""
        shape = dataclasses.replace(
            SHAPE, num_kv_heads=10, ffn_width=100, attention=BlockShape(10, 1, 0, 1), mlp=BlockShape(100, 1, 0, 1)
        )
        assert widths_of(shape, np.full((1, 8), 0.9)).tolist() == [[1, 10] * 4]
        assert widths_of(shape, np.full((1, 8), 0.3)).tolist() == [[7, 70] * 4]

    def test_features_are_what_rounding_left_of_them(self):
        drawn = np.full((1, 64), 0.3)
        effective = features(LLAMA, widths_of(LLAMA, drawn))
        assert effective[0, 0] == pytest.approx(9 / 32)
        assert effective[0, 1] == pytest.approx(0.3, abs=1e-4)


def test_the_space_holds_every_width_that_a_ratio_rounds_to(rng):
    everything = dict.fromkeys(range(64), sorted({*RATIOS, *UNIMPORTANT_RATIOS, 0.0}))
    for widths in widths_of(DEEP, free_ratios(everything, DEEP, 50, rng)).tolist():
        assert all(width in options for width, options in zip(widths, SPACE.options, strict=True))
    for options in SPACE.options:
        assert list(options) == sorted(set(options))
        assert options[0] > 0, "the paper removes no whole block"


def test_a_step_between_the_widths_may_be_given():
    assert set(range(32, 128, 32)) | {128} <= set(paper_space(DEEP, 32).options[1])
    assert len(paper_space(DEEP, 32).options[1]) < len(paper_space(DEEP, 8).options[1])


class TestShrinking:
    def test_gives_the_important_third_small_ratios_and_the_unimportant_third_large_ones(self, rng):
        importance = rng.permutation(64) / 64.0
        ratios = shrink(DEEP, importance)
        modules = pruned_modules(DEEP)
        ranked = sorted(modules, key=lambda module: -importance[module])
        assert {ratios[module] for module in ranked[:18]} == {IMPORTANT_RATIOS}
        assert {ratios[module] for module in ranked[18:36]} == {RATIOS}
        assert {ratios[module] for module in ranked[36:]} == {UNIMPORTANT_RATIOS}
        assert {ratios[module] for module in range(64) if module not in modules} == {(0.0,)}

    def test_ratios_are_the_papers(self):
        assert IMPORTANT_RATIOS == (0.1, 0.2, 0.3)
        assert UNIMPORTANT_RATIOS == (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
        assert RATIOS == (0.1, 0.2, 0.3, 0.4, 0.5)


def deep_problem(keep=0.7, band=0.003, **kwargs):
    return Problem(lambda _architecture: 1.0, SPACE, Budget.from_keep(DEEP, keep, band), **kwargs)


class TestTrimming:
    @pytest.fixture
    def drawn(self):
        ratios = free_ratios(dict.fromkeys(pruned_modules(DEEP), RATIOS), DEEP, 60, np.random.default_rng(0))
        return widths_of(DEEP, ratios).tolist()

    @pytest.mark.parametrize("keep", [0.55, 0.6, 0.7, 0.8])
    def test_ends_in_the_band(self, drawn, keep):
        problem = deep_problem(keep)
        trimmed = [trim(problem.task(), widths) for widths in drawn]
        inside = [widths for widths in trimmed if widths is not None]
        assert len(inside) > 50
        for widths in inside:
            parameters = SPACE.decoder_parameters(SPACE.levels(architecture_of(widths)))
            assert problem.budget.admits(parameters)
            # As wide as the budget allows: what is left is less than a step of any FFN.
            assert problem.budget.ceiling - parameters < 2 * DEEP.mlp.parameters_per_group

    def test_moves_all_pruned_ffns_alike_and_single_ones_a_step_more(self, drawn):
        """Those that reach an end of their range stay there."""
        task = deep_problem().task()
        for before in drawn[:20]:
            after = trim(task, before)
            was, now = (np.array(SPACE.levels(architecture_of(widths))) for widths in (before, after))
            ffns = [module for module in pruned_modules(DEEP) if module % 2]
            others = [module for module in range(64) if module not in ffns]
            assert (was[others] == now[others]).all()
            top = len(SPACE.options[1]) - 1
            free = [module for module in ffns if 0 < now[module] < top]
            steps = (now - was)[free]
            assert steps.max() - steps.min() <= 1

    def test_what_fits_already_is_only_filled_up(self, drawn):
        problem = deep_problem()
        once = trim(problem.task(), drawn[0])
        assert trim(problem.task(), once) == once

    @pytest.mark.parametrize("keep", [0.1, 0.98])
    def test_is_given_up_where_ffns_would_have_to_leave_their_range(self, drawn, keep):
        assert trim(deep_problem(keep).task(), drawn[0]) is None


def architecture_of(widths):
    return SPACE.architecture(tuple(options.index(w) for w, options in zip(widths, SPACE.options, strict=True)))


class TestJoiningTargets:
    @pytest.fixture
    def trees(self, rng):
        values = {"perplexity a": rng.random(40), "accuracy": rng.random(40)}
        return fit_multi_output(rng.random((40, 3)), values, rng.random(40), seed=0)[0]

    def test_perplexity_counts_for_and_accuracy_against(self, trees):
        scores = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        assert badness(trees, scores).tolist() == [0.0, 0.5, -0.5, 0.0]


SENSITIVITY = np.random.default_rng(7).lognormal(sigma=1.0, size=64)


def damage(architecture):
    """Damage that adds up over modules, of which some suffer much more than others."""
    return float(SENSITIVITY @ (1 - np.array(architecture.kept_ratios(DEEP))) ** 2)


def perplexities(architecture):
    return {"perplexity a": 10 * float(np.exp(damage(architecture) / 20)), "perplexity b": 5 + damage(architecture)}


def with_accuracy(architecture):
    return {"accuracy": 1 - damage(architecture) / 40}


SIZES = dataclasses.replace(PaperSizes().scaled(0.4), predicted=400)


@pytest.fixture(scope="module")
def searched():
    """A problem, what the paper's search found for it, and what it reported."""
    problem, records = deep_problem(targets_of=perplexities), []
    return problem, paper_search(problem.task(), SIZES, records.append), records


class TestPaperSearch:
    def test_the_papers_sizes(self):
        sizes = PaperSizes()
        assert (sizes.tied + sizes.free, sizes.predicted, sizes.measured) == (525, 10_000, 18)

    @pytest.mark.parametrize("scale", [0.2, 0.06])
    def test_measures_that_share_of_525_pairs_and_18_at_the_budget(self, scale):
        problem = deep_problem(targets_of=perplexities)
        sizes = dataclasses.replace(PaperSizes().scaled(scale), predicted=100)
        found = paper_search(problem.task(), sizes)
        pairs = round(400 * scale) + round(125 * scale)
        assert (len(found.probes), len(found.measurements)) == (pairs, 18)
        assert len(set(problem.measured)) == len(problem.measured) == found.num_measurements == pairs + 18

    def test_the_pairs_float_over_all_sizes_and_the_last_are_inside_the_band(self, searched):
        problem, found, _ = searched
        assert all(problem.admits(measurement.architecture) for measurement in found.measurements)
        reductions = [candidate.parameter_reduction for candidate in problem.batches[0]]
        assert max(reductions) - min(reductions) > 0.1
        assert {candidate.origin for candidate in problem.batches[0]} == {"paper"}
        assert {(candidate.origin, candidate.round) for candidate in problem.batches[1]} == {("predicted", 1)}

    def test_the_first_and_last_layers_stay_dense(self, searched):
        _, found, _ = searched
        for measurement in (*found.probes, *found.measurements):
            assert measurement.architecture.widths[:6] == (8, 128) * 3
            assert measurement.architecture.widths[-4:] == (8, 128) * 2

    def test_finalists_are_all_that_were_measured_last_best_first(self, searched):
        _, found, _ = searched
        assert sorted(m.architecture.key for m in found.finalists) == sorted(
            m.architecture.key for m in found.measurements
        )
        losses = [measurement.targets["perplexity b"] for measurement in found.finalists]
        assert losses == sorted(losses), "both targets rank alike here"

    @pytest.mark.parametrize("targets_of", [perplexities, with_accuracy])
    def test_predictions_are_better_than_draws_that_were_trimmed_alike(self, targets_of):
        """Of perplexities that is lower, of accuracies higher."""
        problem = deep_problem(targets_of=targets_of)
        found = paper_search(problem.task(), SIZES)
        ratios = free_ratios(dict.fromkeys(pruned_modules(DEEP), RATIOS), DEEP, 60, np.random.default_rng(5))
        trimmed = [trim(problem.task(), widths) for widths in widths_of(DEEP, ratios).tolist()]
        drawn = [damage(architecture_of(widths)) for widths in trimmed if widths is not None]
        assert np.median([damage(m.architecture) for m in found.measurements]) < np.quantile(drawn, 0.1)
        losses = [damage(measurement.architecture) for measurement in found.finalists]
        assert losses == sorted(losses)

    def test_the_record_says_how_good_the_predictor_was(self, searched):
        _, found, (record,) = searched
        assert record.targets == ("perplexity a", "perplexity b")
        assert record.quality.num_fitted + record.quality.num_validation == len(found.probes) == 210
        assert record.quality.r2 > 0.3
        assert len(record.ratios) == len(record.importance) == 64
        assert sum(record.importance) == pytest.approx(1)
        assert record.ratios[0] == (0.0,)
        assert sorted(map(len, record.ratios)) == [1] * 10 + [3] * 18 + [5] * 18 + [6] * 18
        assert -1 <= record.kendall_tau_finalists <= 1

    def test_what_matters_more_may_lose_less(self, searched):
        _, _, (record,) = searched
        modules = pruned_modules(DEEP)
        important = [module for module in modules if record.ratios[module] == IMPORTANT_RATIOS]
        unimportant = [module for module in modules if record.ratios[module] == UNIMPORTANT_RATIOS]
        assert np.mean(SENSITIVITY[important]) > 2 * np.mean(SENSITIVITY[unimportant])

    def test_the_seed_decides(self):
        def run(seed):
            problem = deep_problem(targets_of=perplexities)
            paper_search(problem.task(seed=seed), dataclasses.replace(PaperSizes().scaled(0.06), predicted=50))
            return problem.batches

        assert run(1) == run(1)
        assert run(1) != run(2)

    def test_pairs_that_failed_are_left_out(self):
        problem, records = deep_problem(targets_of=perplexities), []
        problem.kl_of = lambda architecture: None if int(architecture.key, 16) % 4 == 0 else 1.0
        found = paper_search(problem.task(), dataclasses.replace(SIZES, predicted=50), records.append)
        failed = sum(probe.kl is None for probe in found.probes)
        assert failed
        assert records[0].quality.num_fitted + records[0].quality.num_validation == len(found.probes) - failed
        assert all(measurement.kl is not None for measurement in found.finalists)

    def test_too_few_pairs_say_how_many_are_needed(self):
        with pytest.raises(SecateurError, match=r"only 13 of 13 training pairs .* at least 20 .* raise paper\.scale"):
            paper_search(deep_problem(targets_of=perplexities).task(), PaperSizes(tied=10, free=3, predicted=50))

    def test_a_budget_that_nothing_can_be_trimmed_to_is_refused(self):
        with pytest.raises(BudgetError, match=r"none of 50 random vectors .* choose --keep between 0\.5 and 0\.9"):
            paper_search(
                deep_problem(keep=0.2, targets_of=perplexities).task(),
                dataclasses.replace(PaperSizes().scaled(0.06), predicted=50),
            )
