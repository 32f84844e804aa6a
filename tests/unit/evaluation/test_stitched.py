import math
import random
from dataclasses import dataclass

import pytest
import torch

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, measure
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.surgery import prune
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol

PROTOCOL = Protocol(model="m", tokens="t", num_tokens=48, sequence_length=12, dtype="torch.float32", bank="b")


@pytest.fixture(scope="module")
def architectures(prepared):
    rng = random.Random(0)
    drawn = [tuple(rng.choice(options) for options in prepared.space.options) for _ in range(12)]
    # Neighbours that differ late, early and not at all, as a search proposes them.
    drawn += [(*drawn[0][:5], 8), (0, *drawn[0][1:]), drawn[0], (*drawn[0][:3], 0, *drawn[0][4:])]
    return [Architecture.from_widths(widths) for widths in drawn]


def stitched(prepared, cache_bytes):
    return StitchedModel(
        prepared.walk, prepared.bank, DenseReference(prepared.walk, prepared.selection, batch_windows=3), cache_bytes
    )


STATE_BYTES = 48 * 32 * 4


@pytest.fixture(scope="module")
def alone(prepared, architectures):
    """Scores of each architecture by a model that has measured no other."""
    return {each.key: stitched(prepared, 0).score(each) for each in architectures}


@pytest.mark.parametrize("cache_bytes", [0, 2 * STATE_BYTES, 4 * STATE_BYTES, 1 << 30])
def test_results_do_not_depend_on_the_order_or_on_what_is_kept(prepared, architectures, alone, cache_bytes):
    rng = random.Random(cache_bytes)
    together = stitched(prepared, cache_bytes)
    for order in (
        architectures,
        architectures[::-1],
        sorted(architectures, key=lambda a: a.widths),
        rng.sample(architectures, 16),
    ):
        for architecture in order:
            scores = together.score(architecture)
            assert torch.equal(scores.kl, alone[architecture.key].kl)
            assert torch.equal(scores.loss, alone[architecture.key].loss)


def test_a_width_that_the_bank_lacks_spoils_nothing_measured_later(prepared, architectures, alone):
    model = stitched(prepared, 1 << 30)
    model.score(architectures[0])
    with pytest.raises(KeyError):
        model.score(Architecture.from_widths((*architectures[0].widths[:3], 7, *architectures[0].widths[4:])))
    for architecture in architectures:
        assert torch.equal(model.score(architecture).kl, alone[architecture.key].kl)


def test_what_agrees_with_the_last_candidate_is_not_computed_again(prepared):
    walked = []

    class CountingWalk(DecoderWalk):
        def block(self, layer_index, kind, hidden, weights=None):
            walked.append((layer_index, kind))
            return super().block(layer_index, kind, hidden, weights)

    walk = CountingWalk(prepared.dense.model, prepared.dense.family)
    reference = DenseReference(walk, prepared.selection, batch_windows=4)
    model = StitchedModel(walk, prepared.bank, reference, cache_bytes=1 << 30)
    model.score(Architecture.from_widths((4, 48, 3, 40, 2, 24)))
    walked.clear()
    model.score(Architecture.from_widths((4, 48, 3, 40, 2, 16)))
    assert walked == [(2, "mlp")]
    walked.clear()
    model.score(Architecture.from_widths((4, 48, 0, 40, 2, 16)))
    assert len(walked) == 3


def test_a_measurement_holds_the_means_over_windows(prepared, architectures):
    measured = measure(stitched(prepared, 0), architectures[0], PROTOCOL)
    scores = stitched(prepared, 0).score(architectures[0])
    assert measured.status == "measured"
    assert measured.kl == float(scores.kl.mean())
    assert measured.loss == float(scores.loss.mean())
    assert measured.protocol == PROTOCOL.key
    assert measured.architecture == architectures[0]
    assert measured.seconds > 0


def test_a_weight_that_is_not_a_number_is_a_failed_measurement(make_dense, make_tokens, prepared):
    dense, calibration = make_dense(), make_tokens(Role.CALIBRATION)
    statistics = calibrate(dense, calibration, batch_tokens=48, seed=0)
    widths = [{2, 4}, {24, 48}] * 3
    bank = build_bank(dense, statistics, widths)
    walk = DecoderWalk(dense.model, dense.family)
    reference = DenseReference(walk, make_tokens(), batch_windows=4)
    bank.modules[1].outputs[24][0, 0] = float("nan")
    model = StitchedModel(walk, bank, reference, cache_bytes=1 << 30)
    failed = measure(model, Architecture.from_widths((4, 24, 4, 48, 4, 48)), PROTOCOL)
    assert (failed.status, failed.kl, failed.loss) == ("failed", None, None)
    assert "not finite" in failed.reason
    # The next candidate, which does not use that weight, is measured as if nothing had happened.
    assert measure(model, Architecture.from_widths((4, 48, 2, 48, 4, 24)), PROTOCOL).status == "measured"


class TestTargets:
    """What a method measures besides, by name."""

    def test_are_stored_with_the_measurement(self, prepared, architectures):
        model = stitched(prepared, 0)
        targets = {
            "perplexity own": lambda architecture: float(model.score(architecture).loss.mean().exp()),
            "layers": lambda architecture: len(architecture.layers) / 4,
        }
        measured = measure(model, architectures[0], PROTOCOL, targets)
        assert measured.targets == {"perplexity own": pytest.approx(math.exp(measured.loss), rel=1e-5), "layers": 0.75}
        assert Measurement.model_validate_json(measured.model_dump_json()) == measured

    def test_are_none_unless_named(self, prepared, architectures):
        assert measure(stitched(prepared, 0), architectures[0], PROTOCOL).targets == {}

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_one_that_is_not_finite_fails_the_measurement(self, prepared, architectures, value):
        failed = measure(
            stitched(prepared, 0), architectures[0], PROTOCOL, {"good": lambda _: 1.0, "bad": lambda _: value}
        )
        assert (failed.status, failed.kl, failed.loss, failed.targets) == ("failed", None, None, {})
        assert f"bad={value}" in failed.reason
        assert failed.reason.endswith("not finite")


@dataclass(frozen=True)
class Tokens:
    """Windows without a dense reference, as questions are."""

    batches: tuple[torch.Tensor, ...]

    @property
    def num_tokens(self):
        return sum(batch.numel() for batch in self.batches)


class TestStream:
    """Tokens need no reference to be run on."""

    @pytest.fixture
    def tokens(self, make_tokens):
        return Tokens(make_tokens(num_windows=5, length=10, seed=3).tokens.split(2))

    @pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
    @pytest.mark.parametrize("family", ["llama", "gpt_neox"])
    def test_is_that_of_the_pruned_model_batch_by_batch(self, prepare, architectures, tokens, family, cache_bytes):
        prepared = prepare(family)
        model = StitchedModel(prepared.walk, prepared.bank, tokens, cache_bytes)
        for architecture in architectures:
            pruned = prune(prepared.dense, prepared.bank, architecture)
            expected = []
            norm = pruned.get_submodule(prepared.dense.family.final_norm)
            handle = norm.register_forward_pre_hook(lambda _module, args, seen=expected: seen.append(args[0]))
            for batch in tokens.batches:
                pruned(input_ids=batch, use_cache=False)
            handle.remove()
            for one, other in zip(model.stream(architecture), expected, strict=True):
                torch.testing.assert_close(prepared.walk.stream(one), other, atol=1e-4, rtol=1e-4)

    def test_has_no_scores(self, prepared, architectures, tokens):
        with pytest.raises(TypeError, match=r"scores need a DenseReference, got Tokens; use stream\(\)"):
            StitchedModel(prepared.walk, prepared.bank, tokens, 0).score(architectures[0])
