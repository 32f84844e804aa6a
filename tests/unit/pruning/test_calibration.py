"""What the streaming pass gathers, against the same statistics of the whole set at once."""

import pytest
import torch
import torch.nn.functional as F

from secateur.data import Role
from secateur.model.shape import decoder_layers, group_tensors, module_of
from secateur.pruning.bank import output_projection
from secateur.pruning.calibration import calibrate, calibrate_part, num_parts, statistics_of_parts, steps_done
from secateur.pruning.calibration_sums import PART_BATCHES
from secateur.runs.shelf import Shelf
from tiny import REPRESENTATIVES


@pytest.mark.parametrize("family", [*REPRESENTATIVES, "opt"])
def test_gram_is_the_mean_outer_product_of_the_inputs(prepare, family):
    prepared = prepare(family)
    seen = {}
    handles = [
        output_projection(prepared.dense, index).register_forward_pre_hook(
            lambda _module, args, index=index: seen.update({index: args[0].flatten(0, -2)})
        )
        for index in range(prepared.dense.shape.num_modules)
    ]
    prepared.dense.model(input_ids=prepared.calibration.tokens)
    for handle in handles:
        handle.remove()
    for index, statistics in enumerate(prepared.statistics):
        expected = torch.stack([torch.outer(x, x) for x in seen[index]]).mean(0)
        torch.testing.assert_close(statistics.gram, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(statistics.mean, seen[index].mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_taylor_is_the_gradient_of_the_texts_own_loss(prepare, make_dense, family):
    prepared = prepare(family)
    dense = make_dense(family)
    dense.model.requires_grad_(True)
    tokens = prepared.calibration.tokens
    logits = dense.model(input_ids=tokens).logits
    F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").backward()
    for index, statistics in enumerate(prepared.statistics):
        layer, kind = module_of(index)
        tensors = group_tensors(decoder_layers(dense.model, dense.family)[layer], dense.family, kind)
        num_groups = dense.shape.block(kind).num_groups
        entries, rows = torch.zeros(num_groups), torch.zeros(num_groups)
        for projection, axis in tensors.values():
            product = (projection.weight * projection.weight.grad).detach()
            for group, part in enumerate(product.chunk(num_groups, dim=axis)):
                entries[group] += part.abs().sum()
                rows[group] += part.sum(1 - axis).abs().sum()
        torch.testing.assert_close(statistics.taylor, entries, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(statistics.taylor_vector, rows, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_fisher_is_made_of_the_squared_gradients_of_windows_taken_one_by_one(prepare, make_dense, family):
    """A gradient of the whole set squared would let windows cancel each other."""
    prepared = prepare(family)
    dense = make_dense(family)
    dense.model.requires_grad_(True)
    squares = {name: torch.zeros_like(parameter) for name, parameter in dense.model.named_parameters()}
    for window in prepared.calibration.tokens:
        dense.model.zero_grad()
        logits = dense.model(input_ids=window[None]).logits[0]
        F.cross_entropy(logits[:-1], window[1:], reduction="sum").backward()
        for name, parameter in dense.model.named_parameters():
            squares[name] += parameter.grad.square()
    named = {parameter: squares[name] for name, parameter in dense.model.named_parameters()}
    for index, statistics in enumerate(prepared.statistics):
        layer, kind = module_of(index)
        tensors = group_tensors(decoder_layers(dense.model, dense.family)[layer], dense.family, kind)
        num_groups = dense.shape.block(kind).num_groups
        expected = torch.zeros(num_groups)
        for projection, axis in tensors.values():
            product = (projection.weight.square() * named[projection.weight]).detach()
            expected += torch.stack([part.sum() for part in product.chunk(num_groups, dim=axis)])
        torch.testing.assert_close(statistics.fisher, expected, atol=1e-3, rtol=1e-3)


def test_fisher_is_left_out_unless_asked_for(make_dense, make_tokens):
    dense, tokens = make_dense(), make_tokens(Role.CALIBRATION)
    plain, asked = (calibrate(dense, tokens, batch_tokens=24, seed=0, fisher=wanted) for wanted in (False, True))
    assert all(statistics.fisher is None for statistics in plain)
    for left, right in zip(plain, asked, strict=True):
        assert torch.equal(left.taylor, right.taylor), "nothing else depends on it"
        assert torch.equal(left.gram, right.gram)
        assert torch.equal(left.gradient_moment, right.gradient_moment)


class StoppedError(Exception):
    """Ends a calibration."""


@pytest.mark.parametrize("fisher", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 6])
def test_a_calibration_that_was_interrupted_goes_on_and_ends_the_same(make_dense, make_tokens, tmp_path, fisher, steps):
    """Three layers forwards and three backwards; after each, what an interruption leaves is files."""
    dense, tokens = make_dense(), make_tokens(Role.CALIBRATION, num_windows=5)
    whole = calibrate(dense, tokens, 24, seed=1, fisher=fisher)
    done = []

    def stop():
        done.append(1)
        if len(done) == steps:
            raise StoppedError

    if steps:
        with pytest.raises(StoppedError):
            calibrate(dense, tokens, 24, seed=1, advance=stop, fisher=fisher, shelf=Shelf(tmp_path))
    assert steps_done(Shelf(tmp_path), num_layers=3) == steps
    more = []
    resumed = calibrate(dense, tokens, 24, seed=1, advance=lambda: more.append(1), fisher=fisher, shelf=Shelf(tmp_path))
    assert len(more) == 6 - steps, "nothing is done twice"
    for left, right in zip(whole, resumed, strict=True):
        assert torch.equal(left.gram, right.gram)
        assert torch.equal(left.taylor, right.taylor)
        assert torch.equal(left.gradient_moment, right.gradient_moment)
        assert left.fisher is right.fisher is None or torch.equal(left.fisher, right.fisher)


def test_only_statistics_are_left_in_the_end(make_dense, make_tokens, tmp_path):
    calibrate(make_dense(), make_tokens(Role.CALIBRATION), 24, seed=0, shelf=Shelf(tmp_path))
    assert sorted(path.stem for path in tmp_path.iterdir()) == [f"statistics-{layer:03}" for layer in range(3)]


def test_statistics_do_not_depend_on_the_batch_size(make_dense, make_tokens):
    dense, tokens = make_dense("qwen2"), make_tokens(Role.CALIBRATION, num_windows=6)
    one = calibrate(dense, tokens, batch_tokens=1, seed=3, fisher=True)
    all_ = calibrate(dense, tokens, batch_tokens=10_000, seed=3, fisher=True)
    for left, right in zip(one, all_, strict=True):
        torch.testing.assert_close(left.gram, right.gram, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(left.taylor, right.taylor, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(left.gradient_moment, right.gradient_moment, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(left.fisher, right.fisher, atol=1e-3, rtol=1e-3)


def test_the_gradient_moment_is_symmetric_and_has_no_negative_direction(prepared):
    for statistics in prepared.statistics:
        moment = statistics.gradient_moment
        torch.testing.assert_close(moment, moment.T)
        values = torch.linalg.eigvalsh(moment.double())
        assert values.min() > -1e-6 * values.max()
        assert values.max() > 0


def test_the_gradient_moment_is_the_fisher_information_of_the_output(make_dense, make_tokens):
    """At the last MLP, g follows from the head alone, and its expectation over labels can be written down.

    With J the derivative of the logits with respect to the residual stream, E[g g^T] is the mean over tokens of
    J^T (diag(p) - p p^T) J.
    """
    dense, tokens = make_dense(), make_tokens(Role.CALIBRATION, num_windows=80)
    samples = [calibrate(dense, tokens, batch_tokens=960, seed=seed)[-1].gradient_moment for seed in range(10)]
    moment = torch.stack(samples).mean(0)
    streams = []
    handle = dense.model.model.norm.register_forward_pre_hook(lambda _module, args: streams.append(args[0]))
    dense.model(input_ids=tokens.tokens)
    handle.remove()
    points = streams[0].flatten(0, 1)

    def head(point):
        return dense.model.lm_head(dense.model.model.norm(point))

    jacobian = torch.func.vmap(torch.func.jacrev(head))(points)
    p = torch.func.vmap(head)(points).softmax(-1)
    fisher = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    expected = torch.einsum("tvh,tvw,twk->hk", jacobian, fisher, jacobian) / len(points)
    assert (moment - expected).norm() < 0.1 * expected.norm()


def test_another_seed_samples_other_labels(make_dense, make_tokens):
    dense, tokens = make_dense(), make_tokens(Role.CALIBRATION)
    one, other = (calibrate(dense, tokens, batch_tokens=48, seed=seed)[0] for seed in (0, 1))
    assert torch.equal(one.gram, other.gram)
    assert not torch.allclose(one.gradient_moment, other.gradient_moment)


def test_the_dense_model_is_left_frozen_and_without_gradients(make_dense, make_tokens):
    dense = make_dense("qwen2")
    before = {name: tensor.clone() for name, tensor in dense.model.state_dict().items()}
    calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=24, seed=0)
    for name, parameter in dense.model.named_parameters():
        assert not parameter.requires_grad, name
        assert parameter.grad is None, name
        assert torch.equal(parameter, before[name]), name
    assert not any(module._forward_hooks for module in dense.model.modules())


def test_trainable_weights_stay_trainable(make_dense, make_tokens):
    dense = make_dense()
    weight = dense.model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    calibrate(dense, make_tokens(Role.CALIBRATION), batch_tokens=24, seed=0)
    assert weight.requires_grad
    assert weight.grad is None


def test_only_a_calibration_set_is_accepted(prepared):
    with pytest.raises(ValueError, match="a calibration set is expected here, got the selection set"):
        calibrate(prepared.dense, prepared.selection, batch_tokens=24, seed=0)


def test_progress_is_told_after_every_layer_in_both_directions(make_dense, make_tokens):
    calls = []
    calibrate(make_dense(), make_tokens(Role.CALIBRATION, num_windows=5), 24, seed=0, advance=lambda: calls.append(1))
    assert len(calls) == 2 * 3


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_parts_of_a_set_give_what_the_whole_set_gives_bit_by_bit(make_dense, make_tokens, tmp_path, family):
    """Whoever goes through the parts, and in whatever order: sums are added in the order of the parts."""
    dense, tokens = make_dense(family), make_tokens(Role.CALIBRATION, num_windows=2 * PART_BATCHES + 3)
    whole = calibrate(dense, tokens, 1, seed=1, fisher=True)
    assert num_parts(tokens, 1) == 3
    shelves = [Shelf(tmp_path / f"part-{part}") for part in range(3)]
    for part in (2, 0, 1):
        calibrate_part(dense, tokens, 1, 1, part, shelves[part], fisher=True)
    found = statistics_of_parts(dense, tokens, shelves, Shelf())
    for left, right in zip(whole, found, strict=True):
        for name in ("gram", "gradient_moment", "mean", "taylor", "taylor_vector", "fisher"):
            assert torch.equal(getattr(left, name), getattr(right, name)), name


class FullShelf(Shelf):
    """A shelf on which the sums of the first layer find no room."""

    def put(self, name, tensors):
        if name == "sums-000":
            raise StoppedError
        super().put(name, tensors)


def test_a_part_that_was_interrupted_goes_on(make_dense, make_tokens, tmp_path):
    dense, tokens = make_dense(), make_tokens(Role.CALIBRATION, num_windows=PART_BATCHES + 2)
    whole, shelf = Shelf(), Shelf(tmp_path)
    calibrate_part(dense, tokens, 1, 1, 1, whole)
    with pytest.raises(StoppedError):
        calibrate_part(dense, tokens, 1, 1, 1, FullShelf(tmp_path))
    made = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("sums-*")}
    assert len(made) == 2
    calibrate_part(dense, tokens, 1, 1, 1, shelf)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in made} == made, "nothing is done twice"
    for layer in range(3):
        name = f"sums-{layer:03}"
        assert shelf.take(name).keys() == whole.take(name).keys()
        assert all(torch.equal(tensor, shelf.take(name)[key]) for key, tensor in whole.take(name).items())
