"""The smallest model whose drop holds: searched, then verified by making it and measuring."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget import Drop
from secateur.data import Role
from secateur.errors import BudgetError
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.drop import drop_bound
from secateur.evaluation.measure import as_measurement
from secateur.evaluation.multiple_choice import ChoiceSet
from secateur.evaluation.stitched import score_model
from secateur.inputs import Inputs
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank
from secateur.report.record import Choice, DropRecord
from secateur.runs.progress import StageClock, silent, stage_clock
from secateur.search.sizes import SizeAxis
from secateur.search.smallest import BOUND, search_smallest
from secateur.search.task import Found, SearchTask
from secateur.search.verification import Prospect, Verification, next_to_verify, smallest_held
from secateur.space.architecture import Architecture
from secateur.space.candidate import Measurement, Protocol
from secateur.space.search_space import SearchSpace
from secateur.stages.measure import BatchMeasurer, Measure, candidate_streams, selection_protocol, spread_out
from secateur.stages.prune import cut_best, reconstructed, set_aside
from secateur.stages.run import Run
from secateur.stages.search import search_task
from secateur.stages.workers import Kind

Differences = Float[Tensor, " windows"]


@dataclass(frozen=True)
class DropMeter:
    """Tells what a model has lost beside the dense one on a token set, per window or per question.

    Attributes:
        losses: Of the dense model per window; `right`: its answers, where questions are asked.
        num_to_come: Windows or questions of the evaluation.
    """

    inputs: Inputs
    drop: Drop
    confidence: float
    reference: DenseReference
    losses: Differences
    choices: ChoiceSet | None
    right: Float[Tensor, " questions"] | None
    num_to_come: int

    @classmethod
    def of(cls, run: Run, role: Role) -> "DropMeter":
        inputs, drop = run.inputs, run.config.budget.max_drop
        assert drop is not None, "only asked for where something may drop"
        walk, choices = inputs.walk, inputs.questions.get(role)
        reference = DenseReference(walk, inputs.sets[role].expect(role), run.batch_windows)
        losses = score_model(inputs.dense.model, inputs.dense.family, walk, reference).loss
        right = choices.right(walk, walk.last_states(choices.batches)) if choices else None
        asked = inputs.questions.get(Role.EVALUATION)
        windows = len(inputs.sets[Role.EVALUATION].tokens)
        to_come = len(asked.answers) if asked else windows
        return cls(inputs, drop, run.config.drop.confidence, reference, losses, choices, right, to_come)

    def of_model(self, model: PreTrainedModel) -> tuple[WindowScores, Differences]:
        """Score a model as it stands."""
        family, walk = self.inputs.dense.family, self.inputs.walk
        scores, right = score_model(model, family, walk, self.reference), None
        if self.choices is not None:
            own = DecoderWalk(model, family, source=walk)
            right = self.choices.right(own, own.last_states(self.choices.batches))
        return scores, self.differences(scores, right)

    def differences(self, scores: WindowScores, right: Float[Tensor, " questions"] | None) -> Differences:
        """Give what was lost in the metric of the drop.

        Args:
            right: The model's answers, where questions are asked.
        """
        if self.drop.metric == "kl":
            return scores.kl
        if self.right is not None:
            assert right is not None, "accuracy has questions"
            return self.right - right
        return scores.loss - self.losses

    def bound(self, differences: Differences) -> float:
        # Of answers that are all alike, one may still differ.
        least = 1 / len(differences) if self.choices is not None else 0.0
        return drop_bound(differences, self.num_to_come, self.confidence, least)

    def targets(self, differences: Differences) -> dict[str, float]:
        """Give what a measurement holds of it."""
        return {"drop": float(differences.double().mean()), BOUND: self.bound(differences)}


def smallest_stage(run: Run, space: SearchSpace, bank: WeightBank) -> Found:
    """Search for small models whose drop may hold; what the database holds already is not measured again."""
    with stage_clock("search", run.listener, run.config.search.measurements) as clock:
        meter = DropMeter.of(run, Role.SELECTION)
        protocol, kind = drop_protocol(run)
        measure = spread_out(run, protocol, kind, lambda: drop_measure(run, bank, meter))
        task: SearchTask = search_task(run, space, bank, BatchMeasurer(run, protocol, measure, clock, lowest=False))
        axis = SizeAxis.of(space, run.inputs.budget)

        def verify(prospect: Prospect, measurement: Measurement) -> Verification:
            return verified(run, bank, meter, prospect, measurement, 1, reconstructed_before=True)[0]

        found = search_smallest(task, axis, meter.drop.limit, verify if protocol.reconstructed_on else None)
        smallest = found.finalists[0]
        share = axis.share(space.levels(smallest.architecture))
        clock.note = f"{share:.3f} of the size at a bound of {meter.drop.written(smallest.targets[BOUND]):.4f}"
    if run.store.stage("search") is None:
        # Of an interrupted search this process has seen only the end; its measurements tell the rest.
        run.store.end_stage("search", max(clock.seconds, sum(m.seconds for m in found.measurements)))
    return found


def drop_protocol(run: Run) -> tuple[Protocol, Kind]:
    """Say how the candidates of a run that may lose so much are measured."""
    if run.config.pruning.reconstruction == "sequential":
        return selection_protocol(run, candidate_streams(run).num_tokens), Kind(after="reconstruction", of="drop")
    return selection_protocol(run), Kind(after="slices", of="drop")


def drop_measure(run: Run, bank: WeightBank, meter: DropMeter) -> Measure:
    """Give what measures them."""
    reconstructs = drop_protocol(run)[1].after == "reconstruction"
    return _reconstructing(run, bank, meter) if reconstructs else _slicing(run, bank, meter)


def _slicing(run: Run, bank: WeightBank, meter: DropMeter) -> Measure:
    """Measure candidates by slices of the bank."""
    protocol, sharing = selection_protocol(run), 2 if meter.choices else 1
    stitched = run.stitched(bank, meter.reference, sharing)
    asked = run.stitched(bank, meter.choices, sharing) if meter.choices else None

    def measure_group(group: list[Architecture]) -> Iterator[Measurement]:
        start = time.perf_counter()
        scores = stitched.scores(group)
        answers = asked.scores(group) if asked is not None else [None] * len(group)
        targets = [meter.targets(meter.differences(own, right)) for own, right in zip(scores, answers, strict=True)]
        seconds = (time.perf_counter() - start) / len(group)
        for each in zip(group, scores, targets, strict=True):
            yield as_measurement(each[0], protocol, each[1], each[2], seconds)

    def measure_all(architectures: Sequence[Architecture]) -> Iterator[Measurement]:
        for group in stitched.groups(architectures):
            yield from measure_group(group)

    return measure_all


def _reconstructing(run: Run, bank: WeightBank, meter: DropMeter) -> Measure:
    """Measure candidates after sequential reconstruction on a part of the calibration set."""
    streams = candidate_streams(run)
    protocol = selection_protocol(run, streams.num_tokens)

    def measure_one(architecture: Architecture) -> Measurement:
        start = time.perf_counter()
        scores, differences = meter.of_model(reconstructed(run, bank, architecture, streams))
        targets = meter.targets(differences)
        return as_measurement(architecture, protocol, scores, targets, time.perf_counter() - start)

    return lambda architectures: map(measure_one, architectures)


Made = tuple[PreTrainedModel, Choice]


def verified(
    run: Run,
    bank: WeightBank,
    meter: DropMeter,
    prospect: Prospect,
    measurement: Measurement,
    number: int,
    *,
    reconstructed_before: bool,
) -> tuple[Verification, Made | None]:
    """Make a prospect as the result would be, and measure it; stored, and not done again once it is.

    Returns:
        The model too, where it was made now.
    """
    name = f"verification {number}"
    known = run.store.stage(name)
    if known is not None:
        return known.read(Verification), None
    start = time.perf_counter()
    made = _made(run, bank, measurement, reconstructed_before=reconstructed_before)
    _, differences = meter.of_model(made[0])
    bound = meter.bound(differences)
    verification = Verification(
        prospect=prospect,
        drop=float(differences.double().mean()),
        bound=bound,
        held=bool(bound <= meter.drop.limit),
    )
    run.store.end_stage(name, time.perf_counter() - start, verification.model_dump(mode="json"))
    return verification, made


def _made(run: Run, bank: WeightBank, measurement: Measurement, *, reconstructed_before: bool) -> Made:
    clock = StageClock("prune", silent)
    return cut_best(run, bank, [measurement], clock, reconstructed_before=reconstructed_before)


def stored_verifications(run: Run) -> list[Verification]:
    """Give what has been verified, in order."""
    return [row.read(Verification) for row in run.store.stages() if row.name.startswith("verification ")]


def verify_stage(run: Run, bank: WeightBank, found: Found) -> Made:
    """Make and measure prospects, at most as many as `drop.verifications` says; the smallest that holds is the result.

    Every verification is stored before the next, and decides what the next is. The search may have made the first.

    Raises:
        BudgetError: None holds.
    """
    with stage_clock("prune", run.listener, run.config.drop.verifications) as clock:
        meter = DropMeter.of(run, Role.SELECTION)
        limit, most = meter.drop.limit, run.config.drop.verifications
        measured = {m.architecture.key: m for m in found.measurements}
        done = stored_verifications(run)
        made: Made | None = None
        while (prospect := next_to_verify(found.prospects, done, limit, most)) is not None:
            measurement = measured[prospect.architecture.key]
            verification, new = verified(
                run, bank, meter, prospect, measurement, len(done) + 1, reconstructed_before=found.reconstructed
            )
            done.append(verification)
            if new is not None and smallest_held(done) == verification:
                made = new
                set_aside(run, made[0])
            del new  # before the next is made
            clock.advance()
        best = smallest_held(done)
        if best is None:
            raise BudgetError(_nothing_holds(meter.drop, done))
        if made is None or made[1].architecture != best.prospect.architecture:
            measurement = measured[best.prospect.architecture.key]
            made = _made(run, bank, measurement, reconstructed_before=found.reconstructed)
        clock.note = (
            f"{best.prospect.share:.3f} of the size, verified {len(done)} times, bound "
            f"{meter.drop.written(best.bound):.4f}"
        )
    spent = sum(row.seconds for row in run.store.stages() if row.name.startswith("verification "))
    run.store.end_stage("prune", max(clock.seconds, spent), made[1].model_dump(mode="json"))
    return made


def _nothing_holds(drop: Drop, done: list[Verification]) -> str:
    """Say how near the nearest came."""
    tail = "allow more, or give more selection text (data.selection_tokens), which narrows the bound"
    if drop.metric == "accuracy":
        tail = "allow more, or ask more questions (drop.questions), which narrows the bound"
    if not done:
        return f"--max-drop: nothing smaller than the dense model could be measured; {tail}"
    nearest = min(done, key=lambda each: each.bound)
    return (
        f"--max-drop: nothing smaller than the dense model holds: of {len(done)} verified the nearest, with "
        f"{nearest.prospect.share:.3f} of its size, loses {drop.written(nearest.drop):.4g} in {drop.metric}, "
        f"{drop.written(nearest.bound):.4g} at the bound, and {drop.most:.4g} may be lost; {tail}"
    )


def drop_record(run: Run, pruned: PreTrainedModel) -> DropRecord | None:
    """Say what was lost in the end, on windows or questions that chose nothing; None where nothing was limited."""
    drop = run.config.budget.max_drop
    if drop is None:
        return None
    done = stored_verifications(run)
    best = smallest_held(done)
    assert best is not None, "a run without one that holds has ended before"
    _, differences = DropMeter.of(run, Role.EVALUATION).of_model(pruned)
    evaluation = drop.written(float(differences.double().mean()))
    return DropRecord(
        metric=drop.metric,
        limit=drop.most,
        minimized=run.inputs.budget.limits[0].cost.name,
        share=best.prospect.share,
        selection=drop.written(best.drop),
        selection_bound=drop.written(best.bound),
        evaluation=evaluation,
        held=evaluation <= drop.most,
        verifications=tuple(each.written(drop.written) for each in done),
    )
