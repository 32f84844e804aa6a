"""Robust recovery: worst mixtures are exact, adversaries go where the model loses, and all can be taken up again."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor
from transformers import PreTrainedModel

from secateur.data import Role, TokenSet
from secateur.errors import ConfigError
from secateur.recipe import Recipe
from secateur.recovery.assembly import DenseTeacher, Recovery, Texts
from secateur.recovery.objective import WindowLosses
from secateur.recovery.recover import recover
from secateur.recovery.robust import second_player
from secateur.recovery.robust.adversary import Reweighting, bounded_factors, divergence
from secateur.recovery.robust.chi_square import worst_mixture
from secateur.recovery.robust.judges import WorstAdversary
from secateur.recovery.text import RecoverySet
from secateur.recovery.training import Training
from secateur.recovery.weighting import Weighting
from secateur.recovery_inputs import selection_by_domain
from secateur.runs.shelf import Shelf

WAYS = ("groups", "ratio", "p-dro")
MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, small in (("FIRST_STEPS", 15), ("HIDDEN", 32), ("LAYERS", 1)):
        monkeypatch.setattr(second_player, name, small)


def planted_set(windows: int = 40, rare: int = 8, length: int = 12) -> RecoverySet:
    """Two domains of different words; the second is rare."""
    generator = torch.Generator().manual_seed(7)
    common = torch.randint(3, 48, (windows - rare, length), generator=generator)
    other = torch.randint(48, 96, (rare, length), generator=generator)
    tokens = torch.cat([common, other])
    domains = torch.tensor([0] * (windows - rare) + [1] * rare)
    return RecoverySet(tokens, torch.ones_like(tokens[:, 1:], dtype=torch.bool), domains, ("common", "rare"))


def planted(make_model: MakeModel, way: str, folder: Path | None = None, **settings: object) -> Recovery:
    own = planted_set()
    defaults = {"method": "full", "batch_windows": 10, "epochs": 6, "judgements": 3, "learning_rate": 1e-3}
    defaults |= {"distill": 0.0}
    recipe = Recipe.model_validate(defaults | {"robust": way, "robust_rate": 1e-2} | settings)
    by_domain = {"common": own.tokens[:4], "rare": own.tokens[-4:]} if way == "groups" else {}
    dense = DenseTeacher(make_model(), "dense")
    return Recovery(recipe, Texts(own, own.tokens[::4], by_domain), 0, 72, dense, folder)


@pytest.mark.parametrize("radius", [0.05, 0.5, 2.0, 6.0])
def test_a_worst_mixture_is_what_a_solver_finds(radius: float) -> None:
    generator = torch.Generator().manual_seed(3)
    for number in (2, 3, 5):
        losses = torch.rand(number, generator=generator, dtype=torch.float64)
        given = torch.rand(number, generator=generator, dtype=torch.float64) + 0.05
        given /= given.sum()
        own, p = losses.numpy(), given.numpy()
        found = minimize(
            lambda q, own=own: -q @ own,
            p,
            method="SLSQP",
            bounds=[(0, 1)] * number,
            constraints=[
                {"type": "eq", "fun": lambda q: q.sum() - 1},
                {"type": "ineq", "fun": lambda q, p=p: radius - (p * (q / p - 1) ** 2).sum()},
            ],
            options={"ftol": 1e-12, "maxiter": 500},
        )
        worst = worst_mixture(losses, given, radius)
        assert float((given * (worst / given - 1).square()).sum()) <= radius + 1e-9
        assert float(worst.sum()) == pytest.approx(1, abs=1e-12)
        assert float((worst * losses).sum()) == pytest.approx(-found.fun, abs=1e-6)


def test_a_ball_is_a_point_at_nought_and_everything_when_wide() -> None:
    losses, given = torch.tensor([0.1, 0.7, 0.3]), torch.tensor([0.6, 0.1, 0.3])
    assert worst_mixture(losses, given, 0.0).tolist() == pytest.approx(given.tolist())
    assert worst_mixture(losses, given, 9.1).tolist() == pytest.approx([0, 1, 0])
    # Domains that lose alike stay as they are to each other.
    assert worst_mixture(torch.tensor([0.1, 0.7, 0.7]), given, 9.0).tolist() == pytest.approx([0, 0.25, 0.75])
    assert worst_mixture(torch.ones(3), given, 1.0).tolist() == pytest.approx(given.tolist())
    with pytest.raises(ValueError, match="radius >= 0"):
        worst_mixture(losses, given, -1.0)


def test_factors_are_bounded_and_one_on_average() -> None:
    log_ratio = torch.tensor([900.0, 0.0, -1.0, 2.0, 1.9, -500.0])
    factors = bounded_factors(log_ratio, 2.5)
    assert float(factors.mean()) == pytest.approx(1)
    assert float(factors.max()) <= 2.5 + 1e-6
    assert float(factors[1] / factors[2]) == pytest.approx(math.e, rel=1e-5)
    assert bounded_factors(log_ratio, 1.0).tolist() == pytest.approx([1.0] * 6)
    assert divergence(torch.ones(6)) == 0


def lost(recovery: Recovery, weighting: Weighting, steps: int) -> Tensor:
    """Give how much the rare domain comes and counts, while it is the one that loses: share of all weights by step."""
    own, shares = recovery.texts.recovery, []
    for step in range(steps):
        batch = own.batch(weighting.places(step))
        dense = recovery._robust._seen(own.tokens, own.counted).losses[batch.places]
        # Rare windows lose half a nat, the others a tenth.
        excess = torch.where(batch.domains == 1, 0.5, 0.1)
        losses = WindowLosses(dense + excess, dense + excess)
        weights = torch.cat([weighting.weights(part, losses) for part in batch.split(4)])
        assert float(weights.mean()) == pytest.approx(1, abs=1e-4)
        shares.append(float(weights[batch.domains == 1].sum() / weights.sum()))
        weighting.learn(step, batch, losses)
    return torch.tensor(shares)


@pytest.mark.parametrize("way", WAYS)
def test_a_rare_domain_that_loses_comes_to_count_more(make_model: MakeModel, way: str) -> None:
    recovery = planted(make_model, way)
    shares = lost(recovery, recovery.weighting(), 30)
    assert float(shares[-10:].mean()) > 1.8 * 8 / 40


def test_the_second_player_begins_where_windows_count_alike(make_model: MakeModel) -> None:
    recovery = planted(make_model, "p-dro", robust_rate=1e-3)
    weighting = recovery.weighting()
    assert isinstance(weighting, Reweighting)
    own = recovery._robust._seen(recovery.texts.recovery.tokens, recovery.texts.recovery.counted)
    assert torch.equal(weighting.adversary.log_ratio(own), torch.zeros(40, dtype=torch.float64))
    lost(recovery, weighting, 12)
    # Over the given text the mean of q / q0 is 1: what it learns to expect more, it takes from other windows.
    assert float(weighting.adversary.log_ratio(own).exp().mean()) == pytest.approx(1, abs=0.5)


class Interrupted(Exception):  # noqa: N818  not an error
    pass


@pytest.mark.parametrize("way", WAYS)
def test_a_robust_recovery_that_was_killed_goes_on_alike(make_model: MakeModel, way: str, tmp_path: Path) -> None:
    _, whole = recover(make_model(seed=1), planted(make_model, way))

    def kill(value: float | None = None) -> None:
        told.append(value)
        if len(told) == 11:
            raise Interrupted

    told: list[float | None] = []
    with pytest.raises(Interrupted):
        recover(make_model(seed=1), planted(make_model, way, tmp_path), kill)
    _, resumed = recover(make_model(seed=1), planted(make_model, way, tmp_path))
    assert resumed.training.losses == pytest.approx(whole.training.losses, abs=1e-4)
    assert [each.loss for each in resumed.training.judgements] == pytest.approx(
        [each.loss for each in whole.training.judgements], abs=1e-4
    )
    assert resumed.training.best_step == whole.training.best_step


def test_the_best_of_all_judged_models_is_kept_when_adversaries_change_the_order(make_model: MakeModel) -> None:
    recovery = planted(make_model, "ratio")
    model = make_model(seed=1)
    trainee = recovery.trainee(model)
    weighting = recovery.weighting()
    judge = recovery.judge(trainee, weighting)
    assert isinstance(judge, WorstAdversary)
    shelf = Shelf()
    own = recovery.texts.recovery
    training = Training(trainee, own, recovery.objective(), weighting, judge, recovery.plan(model), shelf)
    record = training.run()
    # Every answer is what the model of that step loses under the worst of all adversaries, the last included.
    assert [each.loss for each in record.judgements] == pytest.approx(judge.revised())
    assert record.best.loss == min(judge.revised())
    kept = shelf.take(f"judged-{record.best_step}")
    assert all(torch.equal(kept[name], parameter) for name, parameter in trainee.parameters.items())


def test_groups_are_judged_by_the_worst_of_them(make_model: MakeModel) -> None:
    recovery = planted(make_model, "groups")
    trainee = recovery.trainee(make_model(seed=1))
    worst = recovery.judge(trainee, recovery.weighting())()
    own = [
        recovery._robust.judge(trainee, recovery.weighting(), recovery.texts.selection, {name: tokens})()
        for name, tokens in recovery.texts.domain_selection.items()
    ]
    assert worst == pytest.approx(max(own))
    assert own[0] != pytest.approx(own[1], abs=1e-3)


def test_domains_are_judged_on_selection_windows_alone(make_tokens: Callable[..., TokenSet]) -> None:
    own = planted_set()
    general, groups = make_tokens(Role.SELECTION), {"common": {role: make_tokens(role, seed=1) for role in Role}}
    named = RecoverySet(own.tokens, own.counted, own.domains, ("common", "text"))
    judged = selection_by_domain(named, general, groups)
    assert torch.equal(judged["common"], groups["common"][Role.SELECTION].tokens)
    assert torch.equal(judged["text"], general.tokens)
    with pytest.raises(ValueError, match="a selection set is expected here"):
        selection_by_domain(named, make_tokens(Role.EVALUATION), groups)


def test_what_cannot_be_robust_is_refused(make_model: MakeModel) -> None:
    own = planted_set()
    one = RecoverySet(own.tokens, own.counted, torch.zeros_like(own.domains), ("text",))
    dense = DenseTeacher(make_model(), "dense")
    groups = Recipe(method="full", robust="groups")
    with pytest.raises(ConfigError, match="two named domains at least, got 1 \\('text'\\)"):
        Recovery(groups, Texts(one, own.tokens), 0, 48, dense)
    with pytest.raises(ConfigError, match="robust=ratio compares with the dense model"):
        Recovery(Recipe(method="full", robust="ratio"), Texts(own, own.tokens), 0, 48)
    with pytest.raises(ConfigError, match="given for 'other', expected domains"):
        Recovery(groups, Texts(own, own.tokens, {"other": own.tokens}), 0, 48, dense)
