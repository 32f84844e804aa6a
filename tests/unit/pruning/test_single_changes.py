"""What a single change would cost, by gradients, against what it costs when it is made and run."""

from dataclasses import replace

import pytest
import torch

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel
from secateur.predictor.quality import rank_correlation
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.single_changes import estimate_single_changes
from secateur.pruning.surgery import prune
from secateur.runs.shelf import Shelf
from secateur.space.architecture import Architecture
from tiny import REPRESENTATIVES

CUT = Architecture.from_widths((3, 32, 1, 48, 4, 16))
WHOLE = Architecture.from_widths((4, 48, 4, 48, 4, 48))


def estimate(prepared, architecture=CUT, bank=None, batch_tokens=96, **settings):
    bank = bank or prepared.bank
    return estimate_single_changes(
        prepared.dense, bank, architecture, prepared.calibration, batch_tokens, seed=0, **settings
    )


def divergence(dense, model, tokens):
    """Mean KL over all positions, by the whole models."""
    log_p, log_q = (each(input_ids=tokens).logits.log_softmax(-1) for each in (dense.model, model))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def measured_changes(prepared, architecture, bank):
    """KL of every single change less that of the architecture, by running them all on the calibration tokens."""
    reference = DenseReference(prepared.walk, replace(prepared.calibration, role=Role.SELECTION), 16)
    stitched = StitchedModel(prepared.walk, bank, reference)

    def kl(widths):
        return float(stitched.score(Architecture.from_widths(widths)).kl.mean())

    own = architecture.widths
    return [
        {width: kl((*own[:index], width, *own[index + 1 :])) - kl(own) for width in module.errors}
        for index, module in enumerate(bank.modules)
    ]


def flat(tables):
    return torch.tensor([value for table in tables for _, value in sorted(table.items())]).numpy()


def nearly(module, width, step):
    """Make the dense width of a module its own width and a step beyond."""
    widest = max(module.outputs)
    weight = step * torch.randn(module.outputs[widest].shape, generator=torch.Generator().manual_seed(0))
    weight[:, : module.outputs[width].shape[1]] += module.outputs[width]
    return replace(
        module,
        outputs={**module.outputs, widest: weight},
        biases={**module.biases, widest: module.biases[width] + step},
    )


@pytest.mark.parametrize("reconstruction", ["least_squares", "bias"])
@pytest.mark.parametrize("family", [*REPRESENTATIVES, "opt"])
def test_the_architecture_is_run_as_it_would_be_pruned(prepare, family, reconstruction):
    """Its own loss says so, whatever the family puts before and behind the output projections."""
    prepared = prepare(family, reconstruction=reconstruction)
    before = prepared.dense.model(input_ids=prepared.calibration.tokens).logits
    pruned = prune(prepared.dense, prepared.bank, CUT)
    expected = divergence(prepared.dense, pruned, prepared.calibration.tokens)
    assert estimate(prepared).loss == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(prepared.dense.model(input_ids=prepared.calibration.tokens).logits, before)


@pytest.mark.parametrize("family", ["olmo2", "mixtral"])
def test_there_is_no_estimate_where_fewer_groups_are_more_than_a_part(prepare, family):
    assert estimate(prepare(family)) is None


@pytest.mark.parametrize("architecture", [WHOLE, CUT])
def test_a_modules_own_width_changes_nothing(prepared, architecture):
    found = estimate(prepared, architecture)
    assert [found.changes[index][width] for index, width in enumerate(architecture.widths)] == [0.0] * 6
    assert found.loss == pytest.approx(0, abs=1e-5) if architecture == WHOLE else found.loss > 0.1


@pytest.mark.parametrize(("architecture", "least"), [(WHOLE, 0.85), (CUT, 0.5)])
def test_changes_are_ranked_as_they_are_when_they_are_run(prepared, architecture, least):
    found = flat(estimate(prepared, architecture).changes)
    assert rank_correlation(found, flat(measured_changes(prepared, architecture, prepared.bank))) > least


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_the_slope_of_the_loss_is_told_exactly(prepare, family):
    """The dense width is made nearly what the architecture has: a step to either side, of which half the difference."""
    prepared = prepare(family, reconstruction="bias")
    tokens = prepared.calibration.tokens
    told, slopes = [], []
    for index in (0, 1, 2, 5):
        dense_width = max(prepared.bank.modules[index].outputs)
        widths = (*CUT.widths[:index], dense_width, *CUT.widths[index + 1 :])
        found, losses = [], []
        for step in (3e-4, -3e-4):
            modules = list(prepared.bank.modules)
            modules[index] = nearly(modules[index], CUT.widths[index], step)
            bank = replace(prepared.bank, modules=tuple(modules))
            found.append(estimate(prepared, bank=bank).changes[index][dense_width])
            losses.append(
                divergence(prepared.dense, prune(prepared.dense, bank, Architecture.from_widths(widths)), tokens)
            )
        told.append((found[0] - found[1]) / 2)
        slopes.append((losses[0] - losses[1]) / 2)
    assert told == pytest.approx(slopes, rel=0.05, abs=3e-6)
    assert max(map(abs, slopes)) > 3e-5, "there is something to be told"


def test_where_gradient_and_change_are_dependent_the_product_per_token_says_so(make_dense, make_tokens):
    """The last MLP only acts on tokens whose stream is so loud that the final norm leaves nothing of what it adds."""
    dense = make_dense()
    layers = dense.model.model.layers
    with torch.no_grad():
        dense.model.model.embed_tokens.weight[:, 0] = 0
        dense.model.model.embed_tokens.weight[48:, 0] = 300
        for layer in layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        for projection in (layers[-1].mlp.gate_proj, layers[-1].mlp.up_proj):
            projection.weight[:, 1:] = 0
    calibration = make_tokens(Role.CALIBRATION, num_windows=16)
    statistics = calibrate(dense, calibration, batch_tokens=96, seed=0)
    widths = [{width, 0} for width in Architecture.dense(dense.shape).widths]
    bank = build_bank(dense, statistics, widths)
    whole = Architecture.dense(dense.shape)
    without = Architecture.from_widths((*whole.widths[:-1], 0))
    measured = divergence(dense, prune(dense, bank, without), calibration.tokens)
    found = estimate_single_changes(dense, bank, whole, calibration, batch_tokens=96, seed=0)
    assert found.changes[-1][0] == pytest.approx(measured, rel=0.5)
    assert bank.errors(5)[0] > 100 * measured, "what takes them as independent is far off"


@pytest.mark.parametrize("settings", [{"batch_tokens": 12}, {"batch_tokens": 10_000}, {"shelf": "folder"}])
def test_neither_batches_nor_files_change_what_is_found(prepared, settings, tmp_path):
    expected = estimate(prepared)
    found = estimate(prepared, **({"shelf": Shelf(tmp_path)} if "shelf" in settings else settings))
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)
    for one, other in zip(found.changes, expected.changes, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    assert not list(tmp_path.iterdir()), "what was put aside is dropped"


def test_only_the_first_windows_are_run(prepared):
    first = replace(prepared.calibration, tokens=prepared.calibration.tokens[:4])
    found = estimate(prepared, num_tokens=50)
    assert found == estimate_single_changes(prepared.dense, prepared.bank, CUT, first, batch_tokens=96, seed=0)
    assert found != estimate(prepared)
