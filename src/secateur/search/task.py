"""What every search method is given, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from pydantic import Field

from secateur.errors import SecateurError
from secateur.predictor.quality import PredictorQuality
from secateur.schema import Record
from secateur.search.fit import FitRecord, Fitted, Foretold
from secateur.search.objectives import Objectives
from secateur.search.verification import Prospect
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import Budget
from secateur.space.encoding import FeatureSource, FeatureTable, Sensitivities, by_option, feature_table
from secateur.space.search_space import Levels, SearchSpace
from secateur.space.smaller_space import Removed

# Origins of what is measured outside the budget or the space, to learn from.
PROBES = ("single", "paper", "sensitivity", "alternative")

# Gives measurements in the order of the candidates.
MeasureBatch = Callable[[list[Candidate]], list[Measurement]]
MeasureBest = Callable[[list[Candidate], int], list[Measurement]]


@runtime_checkable
class MeasuresOn(Protocol):
    """A `MeasureBatch` that can go on measuring while the next candidates are proposed."""

    def so_far(self, batch: Sequence[Candidate], share: float) -> list[Measurement]:
        """Give what is there as soon as such a share of all that is out is, in any order and of earlier batches too.

        Without candidates it waits for all that is still out.
        """
        ...


class RoundRecord(Record):
    """One fit of the predictor and what its proposals gave."""

    round: int = Field(description="1 for the first fit")
    quality: PredictorQuality = Field(description="cross-validated at the budget before the round's measurements")
    targets: dict[str, PredictorQuality] = Field(
        default_factory=dict, description="of several predictors, each; `quality` is then the least of them"
    )
    reconstructed: bool = Field(False, description="measurements were made after sequential reconstruction")
    best_kl: float = Field(description="lowest KL on the selection set after the round, nats per token")
    fell_back: bool = Field(
        False, description="the predictor could not be trusted: neighbours of the best were measured"
    )
    covered: float | None = Field(
        None, description="share of the round's measurements inside the 90 % interval predicted before; null if none"
    )
    foretold: tuple[Foretold, ...] = Field(
        (), description="what was said of the round's candidates before they were measured; empty if nothing was"
    )
    promised: float | None = Field(
        None, description="largest expected improvement among the proposals, share of the best KL; null if not asked"
    )
    removed: tuple[Removed, ...] = Field((), description="what left the search space in this round, and why")


class RoundPlan(Record):
    """What a round sets out with, kept before its first measurement: whoever goes on with it need not fit anew.

    Attributes:
        batch: What it proposes.
        out: What earlier rounds have proposed and is still being measured.
        foretold: What is said of both.
        quality, reconstructed, promised, removed: As in the record that the round will have.
    """

    round: int
    quality: PredictorQuality
    reconstructed: bool
    batch: tuple[Candidate, ...]
    out: tuple[Candidate, ...]
    foretold: tuple[Foretold, ...]
    promised: float | None
    removed: tuple[Removed, ...]

    def record(self, new: Sequence[Measurement], measured: Sequence[Measurement]) -> RoundRecord:
        """Put on record how good the predictor was, and what came of it.

        Args:
            new: What the round has measured, all of it foretold.
            measured: That and all before it.
        """
        best = ranked(measured)[0].kl
        assert best is not None, "ranked measurements have a KL"
        said = {each.architecture: each for each in self.foretold}
        came = tuple(said[m.architecture.key].model_copy(update={"measured": m.kl}) for m in new)
        inside = [each.low <= each.measured <= each.high for each in came if each.measured is not None]
        return RoundRecord(
            round=self.round,
            quality=self.quality,
            reconstructed=self.reconstructed,
            best_kl=best,
            fell_back=not self.quality.trusted,
            covered=sum(inside) / len(inside) if inside and self.quality.trusted else None,
            foretold=came,
            promised=self.promised,
            removed=self.removed,
        )


@dataclass(frozen=True)
class PastRound:
    """A round that an earlier process has ended: what is on record of it, and what it proposed."""

    record: RoundRecord
    batch: list[Candidate]


@dataclass(frozen=True)
class SearchTask:
    """What a search method may use; it proposes, and knows nothing of how measuring is done.

    What is proposed must depend on measurements and the seed alone, so that `measure` may take them from a database.

    Attributes:
        errors: Per module, reconstruction error per width (`WeightBank.errors`).
        measure: Measures candidates by slices of the bank.
        measure_best: Finds the best few of many by successive halving, and gives their measurements, best first; None
            where every candidate is measured on all tokens.
        measure_reconstructed: The same after sequential reconstruction, where the run has it.
        num_measurements: How many may be made in all, of both kinds.
        num_rounds, initial_share, reconstructed_share, predictor: Of the predictor's search (`search_rounds`); the
            configuration says what they are.
        sensitivity_share, acquisition, least_improvement, shrinks, second_opinion, wait_for: The same.
        dense_parameters: Decoder parameters of the model that was given; those of the space's shape if not given.
        heuristics: Architectures that need no measurement, by name, besides those that the search knows itself.
        judged: Called with the quality of each predictor that was fitted, once the round's candidates are proposed.
        begin_round: Called with what each round of it sets out with; `end_round` after it, and `end_fit` with every fit
            of a predictor.
        begun: Gives what an earlier process proposed before the first round, to be measured at the budget, in the
            order in which it did; empty if there was none.
        past: Gives a round by number, if an earlier process has ended it, and `planned` what one set out with that has
            only begun: nothing is fitted anew for them.
        objectives: What is to be made small; methods other than Secateur's make the KL small whatever it says.
    """

    space: SearchSpace
    budget: Budget
    errors: Sequence[Mapping[int, float]]
    measure: MeasureBatch
    num_measurements: int
    num_rounds: int
    initial_share: float
    seed: int
    judged: Callable[[PredictorQuality], None] = lambda _quality: None
    begin_round: Callable[[RoundPlan], None] = lambda _plan: None
    end_round: Callable[[RoundRecord], None] = lambda _record: None
    end_fit: Callable[[FitRecord], None] = lambda _record: None
    begun: Callable[[], list[Candidate]] = lambda: []
    past: Callable[[int], PastRound | None] = lambda _number: None
    planned: Callable[[int], RoundPlan | None] = lambda _number: None
    measure_best: MeasureBest | None = None
    measure_reconstructed: MeasureBatch | None = None
    reconstructed_share: float = 0.0
    predictor: str = "auto"
    sensitivity_share: float = 0.0
    acquisition: str = "bound"
    least_improvement: float = 0.0
    shrinks: bool = False
    second_opinion: bool = False
    wait_for: float = 1.0
    dense_parameters: int | None = None
    heuristics: Mapping[str, Architecture] = field(default_factory=dict)
    objectives: Objectives = field(default_factory=Objectives)

    def features(self, sensitivities: tuple[Sensitivities, ...] = ()) -> FeatureTable:
        """Give the features of the space's architectures."""
        errors = by_option(self.space, self.errors)
        return feature_table(FeatureSource(self.space, errors, sensitivities=sensitivities))

    def candidate(self, levels: Levels, origin: str, round_number: int = 0) -> Candidate:
        return Candidate(
            architecture=self.space.architecture(levels),
            origin=origin,
            round=round_number,
            parameter_reduction=1
            - self.space.decoder_parameters(levels) / (self.dense_parameters or self.space.shape.decoder_parameters),
        )


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        measurements: At the budget, in the order in which they were made.
        probes: Made to learn from, and not to choose from: single modules, the paper's training pairs, or what was
            measured before reconstruction where the choice is among those measured after it.
        finalists: Of `measurements`, best first by the method's own criterion.
        rounds: One record per fit of the predictor; empty for methods without one.
        reconstructed: `measurements` were made after sequential reconstruction.
        objectives: What was to be made small.
        prospects: Of a search for the smallest model that holds: what may be it.
        fitted: The predictor that the search ended with; None for methods without one.
    """

    measurements: list[Measurement]
    finalists: list[Measurement]
    rounds: tuple[RoundRecord, ...] = ()
    probes: list[Measurement] = field(default_factory=list)
    reconstructed: bool = False
    objectives: Objectives = field(default_factory=Objectives)
    prospects: tuple[Prospect, ...] = ()
    fitted: Fitted | None = None

    @property
    def best(self) -> Measurement:
        """Give the first finalist.

        Raises:
            SecateurError: There is none, because every measurement failed.
        """
        if not self.finalists:
            reasons = sorted({m.reason for m in self.measurements if m.reason})
            why = (
                f"{reasons[0]}; check the model and its dtype" if reasons else "nothing at the budget could be proposed"
            )
            raise SecateurError(f"none of {len(self.measurements)} measurements at the budget succeeded ({why})")
        return self.finalists[0]

    @property
    def num_measurements(self) -> int:
        return len(self.measurements) + len(self.probes)


def ranked(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Give those that did not fail, lowest KL first."""
    return sorted((m for m in measurements if m.kl is not None), key=lambda m: (m.kl, m.architecture.key))
