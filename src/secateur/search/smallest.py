"""The smallest model whose quality holds: a search that is free in size, around where the loss meets a limit.

A probe finds where that is, on the curve of the best that can be had without learning. Then, round after round, a
predictor of the loss over a range of sizes says which small architectures will hold, and these are measured.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.isotonic import IsotonicRegression

from secateur.predictor.choice import fit_predictor
from secateur.predictor.protocol import Pairs, Predictor
from secateur.predictor.quality import PredictorQuality
from secateur.schema import derive_seed
from secateur.search.additive import additive_optimum
from secateur.search.fit import CONFIDENCE, Fitted, Foretold, fit_record
from secateur.search.one_round import fit_to_learn_from
from secateur.search.propose_sizes import Aim, propose, variations
from secateur.search.rounds import FEWEST_PAIRS
from secateur.search.sizes import SizeAxis
from secateur.search.task import Found, RoundRecord, SearchTask, ranked
from secateur.search.verification import Predicted, Prospect, Verification, correction
from secateur.space.candidate import Candidate, Measurement
from secateur.space.encoding import FeatureSource, FeatureTable, by_option, feature_table
from secateur.space.search_space import Levels

# Name under which a measurement holds the upper bound of its drop (`Measurement.targets`).
BOUND = "drop bound"
QUANTITY = "upper bound of the drop"
# What the predictor learns from, all known before the search; the costs because the size floats.
FEATURES = ("kept", "error", "error_sums", "costs")
# Shares of the size that are probed first; the other probes go where the curve between them meets the limit.
FIRST_PROBES = (0.95, 0.85, 0.7, 0.5, 0.3)
NUM_PROBES = 8
# The range of sizes in which is searched, as drops on the probed curve, in limits. What a search finds at a size is
# better than the probe, so the small end is further away.
RANGE = (0.5, 4.0)
LEAST_RANGE = 0.04
# Drops below this share of the limit are all the same to a predictor: the model may even be better than dense there.
FLOOR = 0.05
# How far beyond the limit is looked too: a prediction may be wrong in either direction.
BEYOND = math.log(1.1)
# One model says no more of all others than this, as a log ratio.
MOST_CORRECTED = math.log(2)


class Drops:
    """Measured drops as a search sees them: logarithms of the drop in limits, 0 where the limit is just met."""

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def of(self, measurement: Measurement) -> float:
        """Give the drop of a measurement that did not fail."""
        return math.log(max(measurement.targets[BOUND] / self.limit, FLOOR))


def search_smallest(
    task: SearchTask,
    axis: SizeAxis,
    limit: float,
    verify: Callable[[Prospect, Measurement], Verification] | None = None,
) -> Found:
    """Measure small architectures whose drop may hold.

    Everything is measured in one way, after reconstruction where there is one: slices tell good from bad at one size
    but not where a limit in nats is met. What is learned is the upper bound of the drop, so that what the selection set
    cannot tell is part of the price from the beginning.

    Args:
        axis: What is to be small.
        limit: Of the drop, in the unit of the measured bounds.
        verify: Makes a prospect as the result would be, and measures it; given where the task measures after sequential
            reconstruction, on less text than the result has. It is asked once, after the probe: the factor between the
            two says which drop to look for.

    Returns:
        Found with a prospect per measurement inside the other limits; finalists are those whose bound is expected to
        hold, smallest first, then the others by their bound.

    Source:
        Auto-PruMUX (arXiv 2305.14706) fits quality and speed over a grid and takes the fastest setting whose predicted
        quality holds. Here the grid is the space of architectures, and what is predicted is measured before it counts.
    """
    search = _Search(task, axis, Drops(limit), verify is not None)
    search.probe()
    if verify is not None:
        search.calibrate(verify)
    search.choose_range()
    search.fill(min(task.num_measurements, max(FEWEST_PAIRS, round(task.num_measurements * task.initial_share))))
    for number in range(1, task.num_rounds + 1):
        left = task.num_measurements - len(search.measured)
        if number > 1 and left <= 0:
            break
        search.round(number, math.ceil(left / (task.num_rounds - number + 1)))
    return search.found()


class _Search:
    """What has been measured so far, and the range of sizes that it leaves to search."""

    def __init__(self, task: SearchTask, axis: SizeAxis, drops: Drops, reconstructed: bool) -> None:
        self.task, self.axis, self.drops, self.reconstructed = task, axis, drops, reconstructed
        self.measured: list[Measurement] = []
        self.predicted: dict[str, Predicted] = {}
        self.rounds: list[RoundRecord] = []
        self.fitted: Fitted | None = None
        self.optima: list[Levels] = []
        self.range = (axis.smallest, 1.0)
        # The drop that is looked for, as a log ratio to the limit.
        self.aim = 0.0
        source = FeatureSource(task.space, by_option(task.space, task.errors))
        self.table: FeatureTable = feature_table(source, FEATURES)

    def probe(self) -> None:
        """Measure what the reconstruction errors say is best, at a few sizes, and find where it meets the limit."""
        shares = [share for share in FIRST_PROBES if share > self.axis.smallest]
        self.measure(self._optima(shares), "additive", 0)
        for _ in range(NUM_PROBES - len(self.measured)):
            crossing = self.crossing(0.0)
            tried = [self.axis.share(levels) for levels in self.optima]
            if min((abs(crossing - share) for share in tried), default=1.0) < LEAST_RANGE / 4:
                crossing = (crossing + min((share for share in [*tried, 1.0] if share > crossing), default=1.0)) / 2
            self.measure(self._optima([crossing]), "additive", 0)

    def calibrate(self, verify: Callable[[Prospect, Measurement], Verification]) -> None:
        """Let the probe that is nearest to the limit be made, and learn what the search's drops are worth."""
        probed = [m for m in ranked(self.measured) if self.axis.share(self._levels(m)) < 1]
        if probed:
            nearest = min(probed, key=lambda m: (abs(self.drops.of(m)), m.architecture.key))
            self.aim = -min(
                max(correction([verify(self._prospect(nearest), nearest)]), -MOST_CORRECTED), MOST_CORRECTED
            )

    def choose_range(self) -> None:
        """Say at which sizes is searched."""
        low, high = self.crossing(math.log(RANGE[1])), self.crossing(math.log(RANGE[0]))
        slack = max(0.0, LEAST_RANGE - (high - low)) / 2
        self.range = (max(low - slack, self.axis.smallest), min(high + slack, 1.0))

    def _optima(self, shares: Sequence[float]) -> list[Levels]:
        found = [additive_optimum(self.task.space, self.axis.band(share), self.task.errors) for share in shares]
        known = self.known
        new = [levels for levels in dict.fromkeys(found) if levels is not None and levels not in known]
        self.optima += new
        return new

    def crossing(self, drop: float) -> float:
        """Give the share at which the curve of what was probed has a drop; dense has none, and nothing has all."""
        probed = [(self.axis.share(self._levels(m)), self.drops.of(m)) for m in ranked(self.measured)]
        shares, values = map(np.array, zip(*[*probed, (1.0, math.log(FLOOR))], strict=True))
        order = np.argsort(shares)
        curve = IsotonicRegression(increasing=False).fit_transform(shares[order], values[order])
        if drop >= curve[0]:
            return self.axis.smallest
        # Of equal values the smaller share; np.interp needs ascending drops.
        return float(np.interp(-drop, -curve, shares[order]))

    def fill(self, count: int) -> None:
        """Measure neighbours of the additive optima over the range of sizes, and draws."""
        count -= len(self.measured)
        seed = derive_seed(self.task.seed, "smallest", "fill")
        if count > 0:
            batch = variations(self.axis, self._optima_over_range(), self.range, count, self.known, seed)
            self.measure(list(batch), batch, 0)

    def _optima_over_range(self) -> list[Levels]:
        shares = np.linspace(*self.range, 7)
        found = [additive_optimum(self.task.space, self.axis.band(share), self.task.errors) for share in shares]
        return [levels for levels in found if levels is not None] or self.optima

    def round(self, number: int, count: int) -> None:
        """Fit the predictor, measure what it says is small and holds, and note how good it was."""
        predictor, quality = self._fit(number)
        batch: dict[Levels, str] = {}
        if count > 0 and quality.trusted:
            self._widen()
            batch = propose(
                self.axis,
                self._aims(predictor),
                self.range,
                [self._levels(m) for m in ranked(self.measured)],
                self.known,
                count,
                derive_seed(self.task.seed, "smallest", "propose", number),
            )
        if len(batch) < count:
            parents = [self._levels(m) for m in self._by_promise()[:4]]
            seed = derive_seed(self.task.seed, "smallest", "offspring", number)
            known = self.known | set(batch)
            batch |= dict.fromkeys(
                variations(self.axis, parents, self._near(parents), count - len(batch), known, seed), "offspring"
            )
        self.task.judged(quality)
        new = self.measure(list(batch), batch, number, predictor)
        best = self._by_promise()[0].kl
        assert best is not None, "ranked measurements have a KL"
        record = RoundRecord(
            round=number,
            quality=quality,
            reconstructed=self.reconstructed,
            best_kl=best,
            fell_back=not quality.trusted,
            covered=self._covered(new) if quality.trusted else None,
            foretold=self._foretold(new),
        )
        self.rounds.append(record)
        self.task.end_round(record)

    def _fit(self, number: int) -> tuple[Predictor, PredictorQuality]:
        pairs = fit_to_learn_from(self.measured)
        rows = np.array([self._levels(measurement) for measurement in pairs])
        parameters = np.array([float(self.task.space.decoder_parameters(tuple(row))) for row in rows.tolist()])
        drops = np.exp([self.drops.of(measurement) for measurement in pairs])
        seed = derive_seed(self.task.seed, "fit", number)
        predictor, quality = fit_predictor(
            self.task.predictor, Pairs(self.table.layout, self.table.features(rows), drops), parameters, seed
        )
        limit = self.drops.limit
        record = fit_record(
            number,
            quality.predictor,
            predictor,
            pairs,
            limit * drops,
            reconstructed=self.reconstructed,
            quantity=QUANTITY,
            unit=limit,
        )
        self.task.end_fit(record)
        self.fitted = Fitted(lambda levels: predictor.predict(self.table.features(levels)), rows, QUANTITY)
        return predictor, quality

    def _aims(self, predictor: Predictor) -> list[Aim]:
        """What is proposed: most of it where the limit is expected, a part where it is safe, a part beyond."""

        def mean(rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
            return predictor.predict(self.table.features(rows))

        def pessimistic(rows: Int[np.ndarray, "candidates modules"]) -> Float[np.ndarray, " candidates"]:
            return predictor.interval(self.table.features(rows), CONFIDENCE).high

        return [
            Aim("pessimistic", pessimistic, self.aim, 0.25),
            Aim("predicted", mean, self.aim, 0.5),
            Aim("beyond", mean, self.aim + BEYOND, 0.25),
        ]

    def _widen(self) -> None:
        """Let the range follow what was found: its small end stays below the smallest that holds."""
        holding = [self.axis.share(self._levels(m)) for m in ranked(self.measured) if self.drops.of(m) <= self.aim]
        low, high = self.range
        if holding and min(holding) - low < LEAST_RANGE / 2:
            self.range = (max(min(holding) - LEAST_RANGE / 2, self.axis.smallest), high)

    def _near(self, parents: Sequence[Levels]) -> tuple[float, float]:
        shares = [self.axis.share(levels) for levels in parents]
        return max(min(shares) - LEAST_RANGE / 2, self.axis.smallest), min(max(shares) + LEAST_RANGE / 4, 1.0)

    def measure(
        self,
        batch: Sequence[Levels],
        origins: dict[Levels, str] | str,
        number: int,
        predictor: Predictor | None = None,
    ) -> list[Measurement]:
        task = self.task
        candidates: list[Candidate] = [
            task.candidate(levels, origins if isinstance(origins, str) else origins[levels], number) for levels in batch
        ]
        if not candidates:
            return []
        if predictor is not None:
            features = self.table.features(np.array(batch))
            mean, interval = predictor.predict(features), predictor.interval(features, CONFIDENCE)
            for candidate, *said in zip(candidates, mean, interval.low, interval.high, strict=True):
                drop, low, high = (self.drops.limit * math.exp(value) for value in said)
                self.predicted[candidate.architecture.key] = Predicted(drop=drop, low=low, high=high)
        new = task.measure(candidates)
        self.measured += new
        return new

    @property
    def known(self) -> set[Levels]:
        return {self._levels(measurement) for measurement in self.measured}

    def _levels(self, measurement: Measurement) -> Levels:
        return self.task.space.levels(measurement.architecture)

    def _by_promise(self) -> list[Measurement]:
        """Those that hold, smallest first, then the others, lowest drop first."""
        good = ranked(self.measured)
        holding = [m for m in good if self.drops.of(m) <= self.aim and self.axis.allows(self._levels(m))]
        holding.sort(key=lambda m: (self.axis.share(self._levels(m)), m.architecture.key))
        kept = {m.architecture.key for m in holding}
        others = sorted((m for m in good if m.architecture.key not in kept), key=self.drops.of)
        return holding + others

    def _covered(self, new: Sequence[Measurement]) -> float | None:
        """Give the share of new measurements inside the interval that was predicted for them."""
        seen = ranked(new)
        if not seen:
            return None
        intervals = [self.predicted[m.architecture.key] for m in seen]
        inside = [each.low <= m.targets[BOUND] <= each.high for each, m in zip(intervals, seen, strict=True)]
        return sum(inside) / len(inside)

    def _foretold(self, new: Sequence[Measurement]) -> tuple[Foretold, ...]:
        said = [(m, self.predicted[m.architecture.key]) for m in new]
        return tuple(
            Foretold(
                architecture=m.architecture.key,
                predicted=each.drop,
                low=each.low,
                high=each.high,
                measured=self.drops.limit * math.exp(self.drops.of(m)) if m.kl is not None else None,
            )
            for m, each in said
        )

    def found(self) -> Found:
        prospects = [self._prospect(m) for m in ranked(self.measured) if self.axis.allows(self._levels(m))]
        return Found(
            self.measured,
            self._by_promise(),
            tuple(self.rounds),
            reconstructed=self.reconstructed,
            prospects=tuple(prospects),
            fitted=self.fitted,
        )

    def _prospect(self, measurement: Measurement) -> Prospect:
        return Prospect(
            architecture=measurement.architecture,
            share=self.axis.share(self._levels(measurement)),
            searched=self.drops.limit * math.exp(self.drops.of(measurement)),
            predicted=self.predicted.get(measurement.architecture.key),
        )
