import math

import pytest

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import measure, with_more
from secateur.evaluation.stitched import Memory, StitchedModel
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import build_bank
from secateur.pruning.calibration import calibrate
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol

PROTOCOL = Protocol(model="m", tokens="t", num_tokens=48, sequence_length=12, dtype="torch.float32", bank="b")
DRAWN = [
    Architecture.from_widths(widths) for widths in ((3, 24, 0, 16, 2, 48), (2, 0, 4, 40, 1, 8), (2, 0, 4, 8, 1, 8))
]


@pytest.fixture
def stitched(prepared):
    return StitchedModel(prepared.walk, prepared.bank, DenseReference(prepared.walk, prepared.selection, 3))


def test_a_measurement_holds_the_means_over_windows(stitched):
    [measured] = measure(stitched, DRAWN[:1], PROTOCOL)
    scores = stitched.score(DRAWN[0])
    assert measured.status == "measured"
    assert measured.kl == float(scores.kl.mean())
    assert measured.loss == float(scores.loss.mean())
    assert measured.protocol == PROTOCOL.key
    assert measured.architecture == DRAWN[0]
    assert measured.seconds > 0


def test_measurements_come_group_by_group(prepared):
    """What has come is kept, whatever becomes of the process in the next group."""
    reference = DenseReference(prepared.walk, prepared.selection, 3)
    stitched = StitchedModel(prepared.walk, prepared.bank, reference, Memory(candidates=2))
    coming = measure(stitched, DRAWN, PROTOCOL)
    first = [next(coming), next(coming)]
    run_before = stitched.num_blocks_run
    assert [each.architecture for each in (*first, next(coming))] == sorted(DRAWN, key=lambda each: each.widths)
    assert stitched.num_blocks_run > run_before


def test_a_weight_that_is_not_a_number_is_a_failed_measurement(make_dense, make_tokens):
    dense, calibration = make_dense(), make_tokens(Role.CALIBRATION)
    statistics = calibrate(dense, calibration, batch_tokens=48, seed=0)
    widths = [{2, 4}, {24, 48}] * 3
    bank = build_bank(dense, statistics, widths)
    walk = DecoderWalk(dense.model, dense.family)
    bank.modules[1].outputs[24][0, 0] = float("nan")
    model = StitchedModel(walk, bank, DenseReference(walk, make_tokens(), batch_windows=4))
    good, bad = Architecture.from_widths((4, 48, 2, 48, 4, 24)), Architecture.from_widths((4, 24, 4, 48, 4, 48))
    measured = {each.architecture: each for each in measure(model, [good, bad], PROTOCOL)}
    assert (measured[bad].status, measured[bad].kl, measured[bad].loss) == ("failed", None, None)
    assert "not finite" in measured[bad].reason
    # A candidate beside it, which does not use that weight, is measured as if nothing had happened.
    assert measured[good].status == "measured"


class TestMoreTokens:
    """What was measured on some windows goes on with others."""

    FEW, ALL = PROTOCOL.model_copy(update={"num_tokens": 12}), PROTOCOL

    @pytest.fixture
    def stitched(self, prepared):
        return StitchedModel(prepared.walk, prepared.bank, DenseReference(prepared.walk, prepared.selection, 1))

    def test_windows_added_up_give_what_all_at_once_give(self, stitched):
        [few] = measure(stitched, DRAWN[:1], self.FEW, batches=range(1))
        [more] = measure(stitched, DRAWN[:1], self.ALL, batches=range(1, 4))
        [whole] = measure(stitched, DRAWN[:1], self.ALL)
        added = with_more(few, 12, more, 36)
        assert few.kl != pytest.approx(whole.kl, rel=1e-3)
        assert (added.kl, added.loss) == (pytest.approx(whole.kl, rel=1e-6), pytest.approx(whole.loss, rel=1e-6))
        assert added.protocol == whole.protocol
        assert added.seconds == few.seconds + more.seconds

    @pytest.mark.parametrize("which", [0, 1])
    def test_a_failure_stays_one(self, stitched, which):
        [few] = measure(stitched, DRAWN[:1], self.FEW, batches=range(1))
        failed = few.model_copy(update={"status": "failed", "kl": None, "loss": None, "reason": "kl=nan: not finite"})
        added = with_more(*(failed, 12, few, 36) if which == 0 else (few, 12, failed, 36))
        assert (added.status, added.kl, added.reason) == ("failed", None, "kl=nan: not finite")


class TestTargets:
    """What a method measures besides, by name."""

    def test_are_stored_with_the_measurement(self, stitched):
        targets = {
            "perplexity own": lambda group: [float(each.loss.mean().exp()) for each in stitched.scores(group)],
            "layers": lambda group: [len(each.layers) / 4 for each in group],
        }
        for measured in measure(stitched, DRAWN, PROTOCOL, targets):
            own = pytest.approx(math.exp(measured.loss), rel=1e-5)
            assert measured.targets == {"perplexity own": own, "layers": 0.75}
            assert Measurement.model_validate_json(measured.model_dump_json()) == measured

    def test_are_none_unless_named(self, stitched):
        assert all(measured.targets == {} for measured in measure(stitched, DRAWN, PROTOCOL))

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_one_that_is_not_finite_fails_the_measurement(self, stitched, value):
        targets = {"good": lambda _: [1.0], "bad": lambda _: [value]}
        [failed] = measure(stitched, DRAWN[:1], PROTOCOL, targets)
        assert (failed.status, failed.kl, failed.loss, failed.targets) == ("failed", None, None, {})
        assert f"bad={value}" in failed.reason
        assert failed.reason.endswith("not finite")
