"""The training loop: judged, taken back where it goes wrong, and the same however often it is interrupted."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur.errors import RunFolderError
from secateur.recovery.objective import CrossEntropy, WindowLosses, mean_loss
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import WholeModel
from secateur.recovery.training import DIVERGED, Plan, Training
from secateur.recovery.weighting import Evenly
from secateur.runs.shelf import Shelf

STEPS = 12
PLAN = Plan(steps=STEPS, learning_rate=2e-3, micro_windows=3, judgements=6, patience=99)


def regular_tokens() -> torch.Tensor:
    """Text in which every other token follows from the one before."""
    tokens = torch.randint(96, (20, 12), generator=torch.Generator().manual_seed(0))
    tokens[:, 1::2] = (tokens[:, ::2] + 7) % 96
    return tokens


TOKENS = regular_tokens()
TEXT = RecoverySet(TOKENS, torch.ones(20, 11, dtype=torch.bool), torch.zeros(20, dtype=torch.int64), ("text",))


class Planted:
    """Cross-entropy, but that the losses of some calls are replaced; an exception is raised."""

    def __init__(self, planted: dict[int, float | Exception] | None = None) -> None:
        self.planted, self.calls = planted or {}, 0

    def losses(self, model, batch) -> WindowLosses:
        losses = CrossEntropy().losses(model, batch)
        planted = self.planted.get(self.calls)
        self.calls += 1
        if isinstance(planted, Exception):
            raise planted
        if planted is not None:
            return WindowLosses(losses.lowered * planted, losses.cross_entropy)
        return losses


@pytest.fixture
def trainee(make_model) -> WholeModel:
    # With dropout, so that what is drawn at random has to be drawn alike.
    return WholeModel(make_model("llama", attention_dropout=0.1))


def training(trainee, objective=None, plan=PLAN, shelf=None, judge=None) -> Training:
    def selection() -> float:
        return mean_loss(trainee.judged(), TOKENS[:8], 8)

    weighting = Evenly(len(TEXT), 6, seed=0)
    return Training(trainee, TEXT, objective or CrossEntropy(), weighting, judge or selection, plan, shelf)


class TestWhatIsNotFinite:
    def test_is_rolled_back_recorded_and_gone_on_from_at_half_the_rate(self, trainee):
        # Two passes per step: the sixth step's second one.
        record = training(trainee, Planted({11: math.nan})).run()
        assert (record.rollbacks, record.rate_scale) == ((5,), 0.5)
        assert (record.steps, len(record.losses)) == (STEPS, STEPS)
        assert all(map(math.isfinite, record.losses))
        assert record.best.loss < record.judgements[0].loss - 0.1
        assert all(bool(each.isfinite().all()) for each in trainee.finish().parameters())

    def test_in_the_gradients_alone_is_seen_too(self, trainee):
        weight = next(iter(trainee.parameters.values()))
        calls = iter(range(100))
        handle = weight.register_hook(lambda grad: grad * math.inf if next(calls) == 4 else grad)
        record = training(trainee).run()
        handle.remove()
        assert len(record.rollbacks) == 1
        assert record.steps == STEPS

    def test_three_times_ends_it_with_the_best_state(self, trainee):
        record = training(trainee, Planted(dict.fromkeys(range(8, 100), math.nan))).run()
        assert len(record.rollbacks) == 3
        assert record.rate_scale == 1 / 8
        assert record.steps < STEPS
        assert record.best_step > 0
        assert mean_loss(trainee.finish(), TOKENS[:8], 8) == pytest.approx(record.best.loss, abs=1e-6)

    def test_from_the_first_step_on_leaves_the_model_as_it_was(self, trainee):
        before = [each.clone() for each in trainee.parameters.values()]
        record = training(trainee, Planted(dict.fromkeys(range(100), math.inf))).run()
        assert (record.steps, record.best_step, record.losses) == (0, 0, ())
        assert all(map(torch.equal, trainee.parameters.values(), before))


class TestTheSelectionSet:
    def test_far_off_is_rolled_back(self, trainee):
        answers = iter([4.0, 3.5, 4.0 + DIVERGED + 0.1, 3.4, 3.3, 3.2, 3.1, 3.0])
        record = training(trainee, judge=lambda: next(answers)).run()
        assert record.rollbacks == (4,)
        assert [each.loss for each in record.judgements] == [4.0, 3.5, 3.4, 3.3, 3.2, 3.1, 3.0]
        assert (record.steps, record.rate_scale) == (STEPS, 0.5)

    def test_that_is_not_finite_is_rolled_back(self, trainee):
        answers = iter([4.0, math.nan, 3.4, 3.3, 3.2, 3.1, 3.0, 2.9])
        assert training(trainee, judge=lambda: next(answers)).run().rollbacks == (2,)

    def test_that_gets_no_better_ends_it_and_the_best_is_kept(self, trainee):
        values, answers = {}, iter([4.0, 3.0, 3.1, 3.2, 2.0])

        def judge() -> float:
            values[len(values)] = [each.detach().clone() for each in trainee.parameters.values()]
            return next(answers)

        record = training(trainee, plan=replace(PLAN, patience=2), judge=judge).run()
        assert (record.steps, record.best_step) == (6, 2)
        assert all(map(torch.equal, trainee.parameters.values(), values[1]))


def train_slowly(folder: str) -> None:
    """Say every loss, with time in between to be killed."""
    from conftest import build_model

    def say(loss: float | None = None) -> None:
        print(repr(loss), flush=True)
        time.sleep(0.1)

    training(WholeModel(build_model("llama", attention_dropout=0.1)), shelf=Shelf(Path(folder))).run(say)


class TestInterrupted:
    @pytest.mark.slow
    def test_by_a_kill_it_goes_on_with_the_same_losses(self, trainee, tmp_path):
        whole = training(trainee).run()
        paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
        code = (
            f"import sys; sys.path[:0] = {paths}; import test_training; test_training.train_slowly({str(tmp_path)!r})"
        )
        command, said = [sys.executable, "-c", code], []
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                said.append(float(line))
                if len(said) == 7:
                    os.kill(process.pid, signal.SIGKILL)
                    break
        assert process.returncode == -signal.SIGKILL
        completed = subprocess.run(command, capture_output=True, text=True, check=True)
        resumed = [float(line) for line in completed.stdout.splitlines()]
        assert said == pytest.approx(whole.losses[:7], abs=1e-4)
        assert resumed == pytest.approx(whole.losses, abs=1e-4)

    def test_in_the_process_and_gone_on_with_is_the_same(self, trainee, make_model, tmp_path):
        whole = training(trainee).run()
        again = WholeModel(make_model("llama", attention_dropout=0.1))
        objective = Planted({13: RuntimeError("a planted end")})
        with pytest.raises(RuntimeError, match="a planted end"):
            training(again, objective, shelf=Shelf(tmp_path)).run()
        fresh = WholeModel(make_model("llama", attention_dropout=0.1))
        resumed = training(fresh, shelf=Shelf(tmp_path))
        told = []
        record = resumed.run(told.append)
        assert record.losses == whole.losses
        assert record.judgements == whole.judgements
        assert tuple(told) == whole.losses
        assert all(map(torch.equal, fresh.parameters.values(), trainee.parameters.values()))

    def test_after_a_rollback_it_is_still_known(self, trainee, make_model, tmp_path):
        objective = Planted({11: math.nan, 16: RuntimeError("a planted end")})
        with pytest.raises(RuntimeError, match="a planted end"):
            training(trainee, objective, shelf=Shelf(tmp_path)).run()
        record = training(WholeModel(make_model("llama", attention_dropout=0.1)), shelf=Shelf(tmp_path)).run()
        assert (record.rollbacks, record.rate_scale) == ((5,), 0.5)

    def test_once_finished_it_is_finished(self, trainee, make_model, tmp_path):
        whole = training(trainee, shelf=Shelf(tmp_path)).run()
        fresh = WholeModel(make_model("llama", attention_dropout=0.1))
        objective = Planted()
        assert training(fresh, objective, shelf=Shelf(tmp_path)).run() == whole
        assert objective.calls == 0
        assert all(map(torch.equal, fresh.parameters.values(), trainee.parameters.values()))


def test_a_shelf_with_another_training_is_refused(trainee, make_model, tmp_path) -> None:
    training(trainee, shelf=Shelf(tmp_path)).run()
    again = WholeModel(make_model("llama", attention_dropout=0.1))
    training(again, plan=replace(PLAN, micro_windows=5), shelf=Shelf(tmp_path))
    with pytest.raises(RunFolderError, match="another recipe or on other text"):
        training(again, plan=replace(PLAN, learning_rate=1e-3), shelf=Shelf(tmp_path))


def test_a_rate_at_which_nothing_got_better_is_given_up_for_a_slower_one(trainee) -> None:
    """Judged as if steps helped from the seventh that was asked for on: the third beginning is the first that gains."""
    told = iter([1.0, *[1.1] * 4, *[0.9 - 0.01 * place for place in range(99)]])
    record = training(trainee, plan=replace(PLAN, patience=2), judge=lambda: next(told)).run()
    assert record.restarts == (4, 4)
    assert record.rate_scale == 1 / 16
    assert record.steps == STEPS
    assert record.tokens == (STEPS + 8) * 6 * 12
    assert [each.step for each in record.judgements] == [0, 2, 4, 6, 8, 10, 12]
    assert record.best_step == STEPS


def test_a_training_that_began_again_and_was_interrupted_goes_on_alike(make_model, tmp_path) -> None:
    def made() -> WholeModel:
        return WholeModel(make_model("llama", attention_dropout=0.1))

    plan = replace(PLAN, learning_rate=0.3, patience=1, restarts=1)
    whole = training(made(), plan=plan).run()
    assert whole.restarts
    # Two passes per step: in the fourth step after it has begun again.
    stopped = Planted({2 * (whole.restarts[0] + 3): RuntimeError("stopped")})
    with pytest.raises(RuntimeError, match="stopped"):
        training(made(), stopped, plan=plan, shelf=Shelf(tmp_path)).run()
    resumed = training(made(), plan=plan, shelf=Shelf(tmp_path)).run()
    assert resumed.restarts == whole.restarts
    assert resumed.losses == pytest.approx(whole.losses, abs=1e-4)
