"""The latency table's bookkeeping, on a clock that only moves where a test says so. No real time is asserted."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from transformers import Cache

from secateur.evaluation.latency import measure_latency, narrowed, never_faster_when_wider
from secateur.evaluation.timing import WARM_UPS, median_seconds
from secateur.model.shape import BlockKind, block_names, group_tensors
from secateur.model.walk import DecoderWalk
from tiny import REPRESENTATIVES


class Stopwatch:
    """A clock of whole seconds, and work that takes as many of them as it is told, one number per call."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def taking(self, name, seconds, making_ready=0.0):
        left = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(left)

        def make_ready():
            self.now += making_ready
            return run

        return make_ready


class TestMedians:
    def test_are_of_the_timed_runs_and_not_of_those_that_warm_up(self):
        clock = Stopwatch()
        slow_at_first = [100.0] * WARM_UPS + [1.0, 9.0, 2.0]
        work = {"a": clock.taking("a", slow_at_first), "b": clock.taking("b", [5.0] * (WARM_UPS + 3))}
        assert median_seconds(work, 3, clock, np.random.default_rng(0)) == {"a": 2.0, "b": 5.0}

    def test_are_without_the_time_for_making_ready(self):
        clock = Stopwatch()
        work = {"a": clock.taking("a", [1.0] * 10, making_ready=50.0)}
        assert median_seconds(work, 2, clock, np.random.default_rng(0)) == {"a": 1.0}

    def test_take_every_piece_of_work_once_per_round_in_an_order_of_its_own(self):
        clock, rounds = Stopwatch(), []
        names = "abcdefgh"
        work = {name: clock.taking(name, [1.0] * 20) for name in names}
        median_seconds(work, 5, clock, np.random.default_rng(0), lambda: rounds.append(len(clock.calls)))
        timed = clock.calls[WARM_UPS * len(names) :]
        orders = [tuple(timed[start : start + len(names)]) for start in range(0, len(timed), len(names))]
        assert len(orders) == len(set(orders)) == len(rounds) == 5
        assert all(sorted(order) == list(names) for order in orders)


def test_a_wider_block_is_never_faster():
    assert never_faster_when_wider((1, 2, 3, 4), (1.0, 3.0, 2.0, 4.0)) == (1.0, 2.5, 2.5, 4.0)


class TestTable:
    @pytest.fixture(params=REPRESENTATIVES)
    def prepared(self, prepare, request):
        return prepare(request.param)

    @pytest.fixture
    def table(self, prepared):
        """Every reading of the clock is a second after the one before, so that every run takes one."""
        readings = iter(range(10_000))
        steps = []
        table = measure_latency(
            prepared.dense,
            prepared.walk,
            kv_heads=(0, 1, 4),
            ffn_widths=(48, 8, 0),
            prompt_tokens=512,
            batch=2,
            repeats=3,
            seed=0,
            clock=lambda: float(next(readings)),
            advance=lambda: steps.append(1),
        )
        assert len(steps) == 3
        return table

    def test_has_every_width_but_that_of_a_block_that_is_gone_in_milliseconds(self, table):
        assert (table.kv_heads, table.ffn_widths) == ((1, 4), (8, 48))
        for phase in (table.prefill, table.decode):
            assert phase.attention == phase.mlp == (1000.0, 1000.0)
            assert phase.outside == 1000.0

    def test_leaves_room_for_one_token_after_the_prompt(self, table, prepared):
        assert table.prompt_tokens == prepared.dense.model.config.max_position_embeddings - 1

    def test_says_how_it_was_made(self, table):
        assert (table.batch, table.repeats, table.dtype) == (2, 3, "float32")
        assert table.device.startswith("cpu")


@pytest.mark.parametrize("family", REPRESENTATIVES)
@pytest.mark.parametrize("kind", list(BlockKind))
class TestABlockCutToAWidth:
    def added(self, dense, kind, width, hidden):
        """What the block adds to the residual stream of the first layer."""
        walk = DecoderWalk(dense.model, dense.family)
        norm, module = narrowed(dense, kind, width)
        arguments = walk.arguments(*hidden.shape[:2])[0] if kind is BlockKind.ATTENTION else {}
        output = module(norm(hidden), **arguments)
        post_norm = block_names(dense.family, kind).post_norm
        return walk.scaled(walk.layers[0], post_norm, output[0] if isinstance(output, tuple) else output)

    def test_is_the_models_own_where_nothing_is_cut(self, make_dense, make_tokens, family, kind):
        dense = make_dense(family)
        walk = DecoderWalk(dense.model, dense.family)
        state = walk.embed(make_tokens(num_windows=2, length=7).tokens)
        whole = self.added(dense, kind, dense.shape.block(kind).num_groups, walk.stream(state))
        torch.testing.assert_close(whole, walk.branch(0, kind, state))

    def test_has_the_sizes_of_its_width_and_leaves_the_model_alone(self, make_dense, family, kind):
        dense = make_dense(family)
        before = [parameter.shape for parameter in dense.model.parameters()]
        _, module = narrowed(dense, kind, 2)
        linear = [part for part in module.modules() if isinstance(part, torch.nn.Linear)]
        weights = sum(part.in_features * part.out_features for part in linear)
        assert weights == 2 * dense.shape.block(kind).weights_per_group
        assert self.added(dense, kind, 2, torch.randn(2, 7, 32)).shape == (2, 7, 32)
        assert [parameter.shape for parameter in dense.model.parameters()] == before


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_a_token_is_decoded_with_what_the_prompt_left_in_the_cache(make_dense, family):
    dense = make_dense(family)
    decoding = DecoderWalk(dense.model, dense.family).decoding_arguments(2, 9)
    (cache,) = [value for value in decoding.values() if isinstance(value, Cache)]
    assert cache.get_seq_length() == 10, "nine before, and the one that was decoded"


@pytest.mark.parametrize(("experts", "width", "sizes"), [("widths", 8, (6, 8, 2)), ("whole", 1, (1, 48, 1))])
def test_of_a_mixture_transformers_own_module_is_timed(make_dense, experts, width, sizes):
    """The wide MLP that stands for it computes every expert for every token."""
    dense = make_dense("mixtral", experts=experts)
    _, module = narrowed(dense, BlockKind.MLP, width)
    assert type(module).__module__.startswith("transformers.")
    assert (module.experts.num_experts, module.experts.intermediate_dim, module.gate.top_k) == sizes
    hidden = torch.randn(2, 7, 32)
    slices = {
        name: projection.weight.narrow(axis, 0, projection.weight.shape[axis] // dense.shape.ffn_width * width)
        for name, (projection, axis) in group_tensors(dense.model.model.layers[0], dense.family, BlockKind.MLP).items()
    }
    weights = {f"{name}.weight": weight for name, weight in slices.items()}
    expected = functional_call(dense.model.model.layers[0].mlp, weights, (hidden,))
    torch.testing.assert_close(module(hidden), expected, atol=1e-5, rtol=1e-4)
