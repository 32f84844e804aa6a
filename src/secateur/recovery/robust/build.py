"""A robust recovery put together from its recipe: what draws and weighs windows, and what judges."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from secateur.errors import ConfigError
from secateur.recipe import Recipe
from secateur.recovery.robust.adversary import Adversary, Reweighting
from secateur.recovery.robust.domains import WorstDomains
from secateur.recovery.robust.judges import WorstAdversary, WorstDomain
from secateur.recovery.robust.ratio import LikelihoodRatio
from secateur.recovery.robust.second_player import SecondPlayer
from secateur.recovery.robust.seen import SeenWindows, all_counted, seen
from secateur.recovery.text import RecoverySet
from secateur.recovery.trainee import Trainee
from secateur.recovery.weighting import Weighting
from secateur.runs.shelf import Shelf
from secateur.schema import digest


def refuse_unfit(recipe: Recipe, domains: tuple[str, ...], judged: Mapping[str, Tensor], *, dense: bool) -> None:
    """Refuse a robust recovery that cannot work.

    Args:
        domains: Of the recovery set.
        judged: Selection windows by domain.
        dense: Whether the dense model is there.

    Raises:
        ConfigError: The dense model is missing, or domains are.
    """
    if recipe.robust == "none":
        return
    asked = f"recovery.robust={recipe.robust}"
    if not dense:
        raise ConfigError(
            f"{asked} compares with the dense model, which is not there; give the dense model, or set "
            "recovery.robust=none"
        )
    if recipe.robust == "groups" and len(domains) < 2:
        raise ConfigError(
            f"{asked} needs a recovery set of two named domains at least, got {len(domains)} "
            f"({', '.join(map(repr, domains))}); name them with --groups NAME=PATH, or set "
            "recovery.robust=ratio, which needs no names"
        )
    strangers = [name for name in judged if name not in domains]
    if recipe.robust == "groups" and strangers:
        raise ConfigError(
            f"{asked}: selection windows are given for {', '.join(map(repr, strangers))}, expected domains of the "
            f"recovery set ({', '.join(map(repr, domains))}); name both alike"
        )


@dataclass(frozen=True)
class Robust:
    """What is needed to weigh windows by what a model loses on them over the dense one.

    Attributes:
        fingerprint: Of the dense model.
        pass_windows: Per forward pass.
        shelf: For what is computed once, in advance.
    """

    recipe: Recipe
    recovery_set: RecoverySet
    dense: PreTrainedModel
    fingerprint: str
    seed: int
    pass_windows: int
    shelf: Shelf

    def weighting(self, drawn: Weighting) -> Weighting:
        """Give what decides which windows count how much.

        Args:
            drawn: Draws them where an adversary only weighs.
        """
        recipe, own = self.recipe, self.recovery_set
        windows = self._seen(own.tokens, own.counted)
        if recipe.robust == "groups":
            return WorstDomains(own, windows.losses, recipe.robust_radius, recipe.batch_windows, self.seed)
        return Reweighting(self._adversary(windows), windows, drawn, recipe.robust_most)

    def judge(
        self,
        trainee: Trainee,
        weighting: Weighting,
        selection: Int[Tensor, "windows length"],
        by_domain: Mapping[str, Int[Tensor, "_ length"]],
    ) -> Callable[[], float] | None:
        """Give what asks the selection set about the worst case; None where nothing says what that is.

        Args:
            weighting: That of the training.
            by_domain: Selection windows by domain.
        """
        if isinstance(weighting, Reweighting):
            windows = self._seen_selection(selection)
            return WorstAdversary(trainee, weighting.adversary, windows, self.recipe.robust_most, self.pass_windows)
        if not by_domain:
            return None
        domains = {name: self._seen_selection(tokens) for name, tokens in by_domain.items()}
        return WorstDomain(trainee, domains, self.pass_windows)

    def _adversary(self, windows: SeenWindows) -> Adversary:
        recipe = self.recipe
        if recipe.robust == "ratio":
            return LikelihoodRatio(windows, recipe.robust_tau, recipe.robust_rate, self.seed)
        return SecondPlayer(
            windows,
            int(self.dense.config.vocab_size),
            recipe.robust_tau,
            recipe.robust_rate,
            self.pass_windows,
            recipe.batch_windows,
            self.seed,
            self.dense.device,
            self.shelf,
            f"second-player-{self._named(self.recovery_set.fingerprint)}",
        )

    def _seen_selection(self, tokens: Int[Tensor, "windows length"]) -> SeenWindows:
        return seen(self.dense, tokens, all_counted(tokens), self.pass_windows)

    def _seen(self, tokens: Int[Tensor, "windows length"], counted: Bool[Tensor, "windows predictions"]) -> SeenWindows:
        """Run the dense model on the recovery set, or take what an earlier process has kept of it."""
        name = f"seen-{self._named(self.recovery_set.fingerprint)}"
        if name not in self.shelf:
            windows = seen(self.dense, tokens, counted, self.pass_windows)
            self.shelf.put(name, {"losses": windows.losses, "states": windows.states})
        kept = self.shelf.take(name)
        return SeenWindows(tokens, counted, kept["losses"], kept["states"])

    def _named(self, of: str) -> str:
        return digest([of, self.fingerprint, self.seed, self.recipe.batch_windows])
