import random
from dataclasses import dataclass

import pytest
import torch
from scipy.stats import kendalltau

from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import Memory, StitchedModel
from secateur.model.walk import DecoderWalk
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture

# Of one batch of three windows of twelve tokens, and of the whole set of four.
BATCH_BYTES, SET_BYTES = 36 * 32 * 4, 48 * 32 * 4


@pytest.fixture(scope="module")
def architectures(prepared):
    rng = random.Random(0)
    drawn = [tuple(rng.choice(options) for options in prepared.space.options) for _ in range(12)]
    # Neighbours that differ late, early and not at all, as a search proposes them.
    drawn += [(*drawn[0][:5], 8), (0, *drawn[0][1:]), drawn[0], (*drawn[0][:3], 0, *drawn[0][4:])]
    return [Architecture.from_widths(widths) for widths in drawn]


def stitched(prepared, memory=None, batch_windows=3, dtype=None):
    reference = DenseReference(prepared.walk, prepared.selection, batch_windows)
    return StitchedModel(prepared.walk, prepared.bank, reference, memory, dtype)


@pytest.fixture(scope="module")
def alone(prepared, architectures):
    """Scores of each architecture by a model that has measured no other."""
    return {each.key: stitched(prepared, Memory(cache_bytes=0)).score(each) for each in architectures}


@pytest.mark.parametrize("candidates", [1, 3, 100])
@pytest.mark.parametrize("cache_bytes", [0, 2 * BATCH_BYTES, 7 * BATCH_BYTES, 1 << 30])
def test_results_do_not_depend_on_order_groups_or_what_is_kept(prepared, architectures, alone, cache_bytes, candidates):
    rng = random.Random(cache_bytes)
    model = stitched(prepared, Memory(cache_bytes=cache_bytes, candidates=candidates))
    for order in (architectures, architectures[::-1], rng.sample(architectures, 16), rng.sample(architectures, 5)):
        for architecture, scores in zip(order, model.scores(order), strict=True):
            assert torch.equal(scores.kl, alone[architecture.key].kl)
            assert torch.equal(scores.loss, alone[architecture.key].loss)


def test_a_width_that_the_bank_lacks_spoils_nothing_measured_later(prepared, architectures, alone):
    model = stitched(prepared)
    model.score(architectures[0])
    with pytest.raises(KeyError):
        model.score(Architecture.from_widths((*architectures[0].widths[:3], 7, *architectures[0].widths[4:])))
    for architecture in architectures:
        assert torch.equal(model.score(architecture).kl, alone[architecture.key].kl)


class TestWork:
    """Only distinct prefixes are run, and none that is kept."""

    FIRST = (4, 48, 3, 40, 2, 24)

    @pytest.fixture
    def model(self, prepared):
        return stitched(prepared, batch_windows=4)

    def test_is_the_number_of_distinct_prefixes(self, model):
        # Three beginnings that differ in the third module, two of them with two ends.
        widths = [
            self.FIRST,
            (*self.FIRST[:5], 16),
            (4, 48, 2, 40, 2, 24),
            (4, 48, 2, 40, 2, 16),
            (4, 48, 1, 40, 2, 24),
        ]
        model.scores([Architecture.from_widths(each) for each in widths])
        assert model.num_blocks_run == 2 + 3 * 3 + 5

    def test_a_block_that_is_gone_is_none(self, model):
        model.score(Architecture.from_widths((4, 0, 0, 40, 2, 0)))
        assert model.num_blocks_run == 3

    def test_what_was_measured_before_is_gone_on_from(self, model):
        model.score(Architecture.from_widths(self.FIRST))
        before = model.num_blocks_run
        model.scores([Architecture.from_widths((*self.FIRST[:5], width)) for width in (8, 16)])
        assert model.num_blocks_run - before == 2
        model.score(Architecture.from_widths((4, 48, 0, 40, 2, 16)))
        assert model.num_blocks_run - before == 2 + 3

    def test_groups_share_what_their_neighbours_have_run(self, prepared):
        together, apart = (stitched(prepared, Memory(candidates=count)) for count in (64, 1))
        drawn = [Architecture.from_widths((4, 48, kv, 40, 2, ffn)) for kv in (1, 2, 3) for ffn in (8, 16, 24)]
        for model in (together, apart):
            model.scores(drawn)
        assert together.num_blocks_run == apart.num_blocks_run


class TestMemory:
    """Hidden states stay within what they are given."""

    @pytest.fixture
    def watched(self, prepared, monkeypatch):
        """A model with a memory, and the most bytes of states that were alive at once behind a module."""

        def make(memory, batch_windows=1):
            model = stitched(prepared, memory, batch_windows)
            seen = []
            through = model._through

            def watching(module, children, states):
                before = {state.data_ptr(): state for state in states.values()}
                after = through(module, children, states)
                alive = before | {state.data_ptr(): state for state in after.values()}
                alive |= {kept.state.data_ptr(): kept.state for kept in model._cache._kept.values()}
                seen.append(sum(state.numel() * 4 for state in alive.values()))
                return after

            monkeypatch.setattr(model, "_through", watching)
            return model, seen

        return make

    @pytest.mark.parametrize("max_bytes", [2 * SET_BYTES, 6 * SET_BYTES, 40 * SET_BYTES])
    def test_is_not_exceeded(self, watched, architectures, alone, max_bytes):
        model, seen = watched(Memory(max_bytes, cache_bytes=max_bytes // 3))
        for architecture, scores in zip(architectures, model.scores(architectures), strict=True):
            torch.testing.assert_close(scores.kl, alone[architecture.key].kl, atol=1e-6, rtol=0)
        assert max(seen) <= max_bytes

    def test_of_half_a_candidate_runs_batches_one_after_the_other(self, watched, architectures, alone):
        model, seen = watched(Memory(SET_BYTES, cache_bytes=0))
        torch.testing.assert_close(model.score(architectures[0]).kl, alone[architectures[0].key].kl, atol=1e-6, rtol=0)
        assert len(seen) == 2 * 6
        assert max(seen) <= SET_BYTES

    def test_of_next_to_nothing_runs_all_the_same(self, watched, architectures, alone):
        model, _ = watched(Memory(1, cache_bytes=1))
        torch.testing.assert_close(model.score(architectures[0]).kl, alone[architectures[0].key].kl, atol=1e-6, rtol=0)

    def test_is_shared_by_several_models(self):
        assert Memory(100, 30, 7).share(2) == Memory(50, 15, 7)

    def test_at_most_half_is_kept(self):
        assert Memory(100, 80).kept_bytes == 50


class TestPrecision:
    def test_half_the_digits_change_little_and_rank_alike(self, prepared, architectures, alone):
        model = stitched(prepared, dtype=torch.bfloat16)
        half = torch.stack([scores.kl.mean() for scores in model.scores(architectures)])
        full = torch.stack([alone[architecture.key].kl.mean() for architecture in architectures])
        assert not torch.equal(half, full)
        torch.testing.assert_close(half, full, rtol=0.05, atol=1e-3)
        assert kendalltau(half.numpy(), full.numpy()).statistic > 0.9


def test_some_batches_give_the_scores_of_their_windows(prepared, architectures, alone):
    model = stitched(prepared, batch_windows=1)
    [some] = model.scores(architectures[:1], batches=[1, 3])
    torch.testing.assert_close(some.kl, alone[architectures[0].key].kl[[1, 3]], atol=1e-6, rtol=0)


@dataclass(frozen=True)
class Tokens:
    """Windows of which the states are wanted as they are."""

    batches: tuple[torch.Tensor, ...]

    def score_batch(self, _index, state, _model):
        return state

    def joined(self, parts):
        return parts


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_states_are_those_of_the_pruned_model_batch_by_batch(prepare, make_tokens, architectures, family, cache_bytes):
    prepared = prepare(family)
    tokens = Tokens(make_tokens(num_windows=5, length=10, seed=3).tokens.split(2))
    model = StitchedModel(prepared.walk, prepared.bank, tokens, Memory(cache_bytes=cache_bytes))
    for architecture, states in zip(architectures, model.scores(architectures), strict=True):
        pruned = prune(prepared.dense, prepared.bank, architecture)
        expected = []
        norm = pruned.get_submodule(prepared.dense.family.final_norm)
        handle = norm.register_forward_pre_hook(lambda _module, args, seen=expected: seen.append(args[0]))
        for batch in tokens.batches:
            pruned(input_ids=batch, use_cache=False)
        handle.remove()
        for one, other in zip(states, expected, strict=True):
            torch.testing.assert_close(prepared.walk.stream(one), other, atol=1e-4, rtol=1e-4)


def test_a_layer_is_released_when_all_candidates_have_left_it(prepared, architectures):
    released = []
    walk = DecoderWalk(prepared.dense.model, prepared.dense.family, release=released.append)
    reference = DenseReference(walk, prepared.selection, 4)
    released.clear()
    StitchedModel(walk, prepared.bank, reference).scores(architectures)
    assert released == [0, 1, 2]
