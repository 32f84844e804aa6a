"""Sequential reconstruction brings the residual stream back towards the dense one."""

import pytest
import torch

from secateur.model.families import find_family
from secateur.model.shape import BlockKind, block_names, module_of
from secateur.model.walk import DecoderWalk
from secateur.pruning.sequence import (
    DenseStreams,
    inverse_squares,
    least_squares,
    reconstruct_in_sequence,
    wanted_output,
)
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

CUT = Architecture.from_widths((2, 24, 3, 16, 2, 24))


@torch.no_grad()
def final_stream(model, tokens):
    seen = []
    norm = model.get_submodule(find_family(model.config.model_type).final_norm)
    handle = norm.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    model(input_ids=tokens, use_cache=False)
    handle.remove()
    return seen[0]


def reconstruct(prepared, pruned, architecture, ridge=0.1, batch_tokens=96):
    streams = DenseStreams(prepared.walk, prepared.calibration, batch_tokens, 10_000, cache_bytes=0)
    reconstruct_in_sequence(prepared.dense, prepared.walk, pruned, architecture, streams, ridge)
    return pruned


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_final_stream_comes_closer_to_the_dense_one(prepare, family, architecture):
    prepared = prepare(family)
    tokens = prepared.calibration.tokens
    dense = final_stream(prepared.dense.model, tokens)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    before = (final_stream(pruned, tokens) - dense).square().mean()
    after = (final_stream(reconstruct(prepared, pruned, architecture), tokens) - dense).square().mean()
    if architecture == Architecture.dense(prepared.dense.shape):
        assert after < 1e-8
    else:
        assert after < 0.95 * before


def test_the_first_module_solves_its_ridge_problem(prepared):
    """It still sees the dense stream, so its target is the dense attention's own output.

    Tokens weigh one over the mean square of the stream behind it, by which later norms divide.
    """
    architecture = Architecture.from_widths((2, *Architecture.dense(prepared.dense.shape).widths[1:]))
    pruned = prune(prepared.dense, prepared.bank, architecture)
    start = pruned.model.layers[0].self_attn.o_proj.weight.double().clone()
    seen = {}

    def keep(name):
        return lambda _module, args, output: seen.update({name: (args[0].flatten(0, 1), output.flatten(0, 1))})

    handles = [
        model.model.layers[0].self_attn.o_proj.register_forward_hook(keep(name))
        for name, model in (("dense", prepared.dense.model), ("pruned", pruned))
    ]
    for model in (prepared.dense.model, pruned):
        model(input_ids=prepared.calibration.tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    x, target = seen["pruned"][0].double(), seen["dense"][1].double()
    before = prepared.walk.embed(prepared.calibration.tokens).flatten(0, 1).double()
    weighted = x / (before + target).square().mean(1, keepdim=True)
    gram = weighted.T @ x
    pull = 0.1 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    expected = torch.linalg.solve(gram + pull, weighted.T @ target + pull @ start.T).T
    reconstruct(prepared, pruned, architecture)
    torch.testing.assert_close(pruned.model.layers[0].self_attn.o_proj.weight.double(), expected, atol=1e-4, rtol=1e-4)


def test_keeping_everything_changes_almost_nothing(prepared):
    architecture = Architecture.dense(prepared.dense.shape)
    pruned = prune(prepared.dense, prepared.bank, architecture)
    before = {name: parameter.clone() for name, parameter in pruned.named_parameters()}
    reconstruct(prepared, pruned, architecture)
    for name, parameter in pruned.named_parameters():
        torch.testing.assert_close(parameter, before[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", list(BlockKind))
@pytest.mark.parametrize(
    ("family", "overrides"),
    [("llama", {}), ("granite", {"residual_multiplier": 0.3}), ("olmo2", {}), ("gemma3_text", {})],
)
def test_a_block_that_adds_what_it_should_is_asked_for_the_output_that_it_has(make_dense, family, overrides, kind):
    """Whatever is behind the projection: nothing, a factor, or a norm, which may multiply by one plus its weight."""
    dense = make_dense(family, **overrides)
    walk = DecoderWalk(dense.model, dense.family)
    output = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))
    added = walk.scaled(walk.layers[1], block_names(dense.family, kind).post_norm, output)
    torch.testing.assert_close(wanted_output(walk, 1, kind, added, output), output, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["qwen2", "gpt_neox", "gpt2"])
def test_only_weights_of_the_groups_change_and_the_final_norm(prepare, family):
    """No other norm, no embedding, head or bias: all three have biases into their heads, two of them behind."""
    prepared = prepare(family)
    entry = prepared.dense.family
    pruned = prune(prepared.dense, prepared.bank, CUT)
    before = {name: parameter.clone() for name, parameter in pruned.named_parameters()}
    reconstruct(prepared, pruned, CUT)
    changed = {name for name, parameter in pruned.named_parameters() if not torch.equal(parameter, before[name])}

    def weights_into_groups(layer, kind):
        names = block_names(entry, kind)
        return {f"{entry.layers}.{layer}.{names.module}.{name}.weight" for name in names.inputs}

    into = set().union(*(weights_into_groups(layer, kind) for layer in range(3) for kind in BlockKind))
    out = {
        f"{entry.layers}.{layer}.{b.module}.{b.output}.weight"
        for layer in range(3)
        for b in (entry.attention, entry.mlp)
    }
    norm = {name for name in before if name.startswith(entry.final_norm)}
    # What reads the dense model's own input has nothing to correct: the first attention, and an MLP parallel to it.
    first = weights_into_groups(0, BlockKind.ATTENTION)
    if prepared.walk.parallel:
        first |= weights_into_groups(0, BlockKind.MLP)
    assert (into | out | norm) - first <= changed <= into | out | norm


def test_the_dense_model_and_the_bank_are_left_as_they_were(prepare):
    for tied in (False, True):
        prepared = prepare(tied=tied)
        before = {name: tensor.clone() for name, tensor in prepared.dense.model.state_dict().items()}
        slices = {name: tensor.clone() for name, tensor in prepared.bank.slices(2, 3).items()}
        reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT)
        after = prepared.dense.model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
        assert all(torch.equal(prepared.bank.slices(2, 3)[name], tensor) for name, tensor in slices.items())
        assert not any(module._forward_pre_hooks for module in prepared.dense.model.modules())


@torch.no_grad()
def inputs_of(model, tokens):
    """What goes into `q_proj` and `up_proj` of every layer, by name of the projection, in float64."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _module, args, name=name: seen.update({name: args[0].flatten(0, 1).double()})
        )
        for name, module in model.named_modules()
        if name.endswith(("q_proj", "up_proj"))
    ]
    model(input_ids=tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


class TestCorrectedInputs:
    """Behind what was cut, projections into the groups no longer see what they were trained on."""

    @pytest.fixture
    def models(self, prepared):
        """The model as the bank cuts it, and reconstructed, with the inputs of both and of the dense one."""
        cut = prune(prepared.dense, prepared.bank, CUT)
        reconstructed = reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT)
        tokens = prepared.calibration.tokens
        return cut, reconstructed, inputs_of(reconstructed, tokens), inputs_of(prepared.dense.model, tokens)

    def test_they_come_nearer_to_what_the_dense_input_would_give(self, models):
        cut, reconstructed, inputs, dense_inputs = models
        for name, wanted in list(dense_inputs.items())[1:]:
            weight, corrected = (model.get_submodule(name).weight.double() for model in (cut, reconstructed))
            target = wanted @ weight.T
            without, with_correction = ((inputs[name] @ w.T - target).square().mean() for w in (weight, corrected))
            assert with_correction < 0.95 * without, name

    def test_they_are_the_ridge_solution(self, models):
        """W_0 (I + T), one T for all projections of a module, on the stream that the modules before have left."""
        cut, reconstructed, inputs, dense_inputs = models
        for name, z in dense_inputs.items():
            x = inputs[name]
            pull = 0.1 * x.square().mean() * torch.eye(x.shape[1], dtype=torch.float64)
            correction = torch.linalg.solve(x.T @ x / len(x) + pull, x.T @ (z - x) / len(x)).T
            siblings = ("q_proj", "k_proj", "v_proj") if name.endswith("q_proj") else ("gate_proj", "up_proj")
            for sibling in siblings:
                place = name.rpartition(".")[0] + "." + sibling
                start = cut.get_submodule(place).weight.double()
                expected = start + start @ correction
                torch.testing.assert_close(
                    reconstructed.get_submodule(place).weight.double(), expected, atol=2e-4, rtol=1e-3
                )


class TestDenseStreams:
    STATE_BYTES = 16 * 12 * 32 * 4

    @pytest.mark.parametrize("cache_bytes", [0, 7 * STATE_BYTES - 1, 7 * STATE_BYTES])
    def test_are_the_residual_stream_before_the_first_module_and_after_each(self, prepared, cache_bytes):
        """The same the second time, kept or not."""
        streams = DenseStreams(prepared.walk, prepared.calibration, 36, 10_000, cache_bytes)
        hidden = prepared.walk.embed(prepared.calibration.tokens)
        expected = [hidden]
        for index in range(6):
            expected.append(prepared.walk.block(*module_of(index), expected[-1]))
        for _ in range(2):
            given = list(streams)
            assert len(given) == 7
            for batches, whole in zip(given, expected, strict=True):
                torch.testing.assert_close(torch.cat(batches), whole, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize(("fits", "computed"), [(True, 6), (False, 12)])
    def test_are_computed_once_where_they_fit_into_memory(self, prepared, fits, computed):
        walked = []

        class CountingWalk(DecoderWalk):
            def block(self, layer_index, kind, hidden, weights=None):
                walked.append((layer_index, kind))
                return super().block(layer_index, kind, hidden, weights)

        walk = CountingWalk(prepared.dense.model, prepared.dense.family)
        streams = DenseStreams(walk, prepared.calibration, 10_000, 10_000, 7 * self.STATE_BYTES - (not fits))
        assert len(list(streams)) == len(list(streams)) == 7
        assert len(walked) == computed

    def test_a_reconstruction_leaves_them_kept_for_the_next(self, prepared):
        """It takes one stream after another and never asks for one more than there are."""
        walked = []

        class CountingWalk(DecoderWalk):
            def block(self, layer_index, kind, hidden, weights=None):
                walked.append((layer_index, kind))
                return super().block(layer_index, kind, hidden, weights)

        walk = CountingWalk(prepared.dense.model, prepared.dense.family)
        streams = DenseStreams(walk, prepared.calibration, 10_000, 10_000, 1 << 30)
        for _ in range(2):
            pruned = prune(prepared.dense, prepared.bank, CUT)
            reconstruct_in_sequence(prepared.dense, walk, pruned, CUT, streams, 0.1)
        assert len(walked) == 6

    def test_what_depends_on_the_dense_model_alone_is_computed_once(self, prepared):
        """How much tokens weigh behind a module, and what the dense model says, where that fits beside the streams."""
        walk, tokens = prepared.walk, prepared.calibration.num_tokens
        said_bytes = tokens * walk.model.config.vocab_size * 4
        for cache_bytes, kept in ((7 * self.STATE_BYTES + said_bytes, True), (7 * self.STATE_BYTES, False)):
            streams = DenseStreams(walk, prepared.calibration, 96, 10_000, cache_bytes)
            after = list(streams)
            assert streams.token_weights(walk, 2, after[3]) is streams.token_weights(walk, 2, after[3])
            assert streams.token_weights(walk, 2, after[3]) is not streams.token_weights(walk, 3, after[4])
            said = streams.distribution(walk, after[-1])
            assert (streams.distribution(walk, after[-1]) is said) == said.fits == kept

    def test_a_pass_that_was_broken_off_keeps_nothing_half(self, prepared):
        streams = DenseStreams(prepared.walk, prepared.calibration, 36, 10_000, 1 << 30)
        next(iter(streams))
        assert len(list(streams)) == 7

    @pytest.mark.parametrize(("max_tokens", "windows"), [(1, 1), (35, 2), (36, 3), (10_000, 16)])
    def test_no_more_windows_are_taken_than_asked_for_but_one_at_least(self, prepared, max_tokens, windows):
        streams = DenseStreams(prepared.walk, prepared.calibration, 24, max_tokens, 0)
        assert streams.num_tokens == windows * 12
        assert torch.equal(torch.cat(streams.batches), prepared.calibration.tokens[:windows])

    def test_only_a_calibration_set_is_accepted(self, prepared):
        with pytest.raises(ValueError, match="a calibration set is expected here, got the selection set"):
            DenseStreams(prepared.walk, prepared.selection, 24, 100, 0)


class TestLeastSquares:
    def test_gives_the_matrix_behind_exact_pairs(self):
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(3, 5, generator=generator)
        inputs = [torch.randn(4, 10, 5, generator=generator) for _ in range(3)]
        found = least_squares(inputs, [x @ matrix.T for x in inputs], ridge=1e-9)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found.float(), matrix, atol=1e-4, rtol=1e-4)

    def test_has_the_least_damped_error(self):
        """Any step away from it costs, with lambda a share of the mean diagonal of E[x x^T]."""
        generator = torch.Generator().manual_seed(1)
        x, y = torch.randn(1, 60, 4, generator=generator), torch.randn(1, 60, 2, generator=generator)
        found = least_squares([x], [y], ridge=0.5)

        def cost(matrix):
            residual = x[0].double() @ matrix.T - y[0].double()
            return residual.square().sum(1).mean() + 0.5 * x.double().square().mean() * matrix.square().sum()

        for _ in range(20):
            step = 1e-3 * torch.randn(2, 4, generator=generator, dtype=torch.float64)
            assert cost(found) < cost(found + step)

    def test_a_token_of_weight_two_counts_as_two_tokens(self):
        generator = torch.Generator().manual_seed(3)
        x, y = torch.randn(1, 30, 4, generator=generator), torch.randn(1, 30, 2, generator=generator)
        weights = torch.ones(1, 30)
        weights[0, :10] = 2
        twice = [torch.cat([tensor, tensor[:, :10]], dim=1) for tensor in (x, y)]
        # Sums are damped by a share of their diagonal, so their number does not matter.
        torch.testing.assert_close(
            least_squares([x], [y], 0.1, [weights]), least_squares([twice[0]], [twice[1]], 0.1), atol=1e-6, rtol=1e-5
        )

    def test_does_not_depend_on_how_the_pairs_are_batched(self):
        generator = torch.Generator().manual_seed(2)
        x, y = torch.randn(6, 7, 4, generator=generator), torch.randn(6, 7, 3, generator=generator)
        weights = torch.rand(6, 7, generator=generator)
        torch.testing.assert_close(
            least_squares([x], [y], 0.1, [weights]),
            least_squares(list(x.split(2)), list(y.split(2)), 0.1, list(weights.split(2))),
            atol=1e-6,
            rtol=1e-5,
        )


def test_batch_size_does_not_matter(prepared):
    one, other = (
        reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT, batch_tokens=size)
        for size in (12, 10_000)
    )
    for left, right in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_a_strong_ridge_holds_the_banks_solution(prepared):
    pruned = reconstruct(prepared, prune(prepared.dense, prepared.bank, CUT), CUT, ridge=1e9)
    bank = prune(prepared.dense, prepared.bank, CUT)
    for (name, left), right in zip(pruned.named_parameters(), bank.parameters(), strict=True):
        if name != "model.norm.weight":
            torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_a_token_without_a_stream_weighs_finitely():
    """As a padding token's, whose embedding is zero."""
    stream = torch.ones(2, 5, 8)
    stream[0, 0] = 0
    stream[1, 4] = 10
    weights = inverse_squares(stream)
    assert torch.isfinite(weights).all()
    assert weights[0, 0] == weights.max() == pytest.approx(1e3)
    assert weights[1, 4] == pytest.approx(1e-2)
    assert (weights[1, :4] == 1).all()


@pytest.mark.parametrize("experts", ["widths", "whole"])
def test_of_a_mixture_the_experts_change_and_not_where_tokens_go(prepare, experts):
    prepared = prepare("qwen2_moe", experts=experts)
    tokens = prepared.calibration.tokens
    architecture = CUT if experts == "widths" else Architecture.from_widths((2, 3, 3, 2, 2, 4))
    pruned = prune(prepared.dense, prepared.bank, architecture)
    before = {name: tensor.clone() for name, tensor in pruned.state_dict().items()}
    dense = final_stream(prepared.dense.model, tokens)
    distance = (final_stream(pruned, tokens) - dense).square().mean()
    reconstruct(prepared, pruned, architecture)
    assert (final_stream(pruned, tokens) - dense).square().mean() < 0.95 * distance
    for name, tensor in pruned.state_dict().items():
        if ".mlp." in name:
            stays = "router" in name or "shared_expert" in name
            assert tensor.equal(before[name]) == stays, name


def test_what_the_shared_expert_gives_is_not_made_up_for_again(prepare):
    """The first module that is cut still sees the dense stream, and little is gone from it."""
    prepared = prepare("qwen2_moe")
    architecture = Architecture.from_widths((4, 40, 4, 48, 4, 48))
    pruned = prune(prepared.dense, prepared.bank, architecture)
    states = prepared.walk.block(0, BlockKind.ATTENTION, prepared.walk.embed(prepared.calibration.tokens))
    wanted = prepared.walk.branch(0, BlockKind.MLP, states)

    def distance():
        walk = DecoderWalk(pruned, prepared.dense.family, source=prepared.walk)
        return (walk.branch(0, BlockKind.MLP, states) - wanted).square().mean()

    before = distance()
    reconstruct(prepared, pruned, architecture)
    assert distance() < before
