"""How the run measures candidates: by slices of the bank or after reconstruction, stored as soon as they are there."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.measure import Target, as_measurement, measure, with_more
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.inputs import PaperTargets
from secateur.pruning.bank import WeightBank
from secateur.pruning.sequence import DenseStreams
from secateur.runs.progress import StageClock
from secateur.runs.records import read_text
from secateur.schema import digest
from secateur.search.halving import Rung, halve, rungs
from secateur.search.methods import JI2023
from secateur.search.objectives import loss_target
from secateur.search.task import PROBES, MeasureBatch, MeasureBest
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.candidate import Protocol as MeasuringProtocol
from secateur.stages.groups import References, group_losses, group_targets
from secateur.stages.prune import reconstructed
from secateur.stages.run import Run
from secateur.stages.workers import Kind, Of

# Gives measurements as they are made, in any order.
Measure = Callable[[Sequence[Architecture]], Iterator[Measurement]]


@runtime_checkable
class SpreadMeasure(Protocol):
    """Gives measurements as they are made; of those of earlier calls too, where these did not wait for all."""

    def __call__(self, architectures: Sequence[Architecture], share: float = 1.0) -> Iterator[Measurement]:
        """Give measurements until so large a share of what is out is there; without architectures, until all is."""
        ...


def measurers(
    run: Run, bank: WeightBank, groups: References, clock: StageClock
) -> tuple[MeasureBatch, MeasureBatch | None]:
    """Give what measures by slices of the bank, and what measures after reconstruction where the run does that."""
    of, protocol = of_text(groups), selection_protocol(run)
    sliced = spread_out(run, protocol, Kind(after="slices", of=of), lambda: slicing(run, bank, groups))
    if not run.reconstructs_candidates:
        return BatchMeasurer(run, protocol, sliced, clock), None
    of_models = selection_protocol(run, candidate_streams(run).num_tokens)
    kind = Kind(after="reconstruction", of=of)
    after = spread_out(run, of_models, kind, lambda: reconstructing(run, bank, groups))
    return BatchMeasurer(run, protocol, sliced, clock), BatchMeasurer(run, of_models, after, clock)


def of_text(groups: References) -> Of:
    return "groups" if groups else "text"


def spread_out(run: Run, protocol: MeasuringProtocol, kind: Kind, here: Callable[[], Measure]) -> SpreadMeasure:
    """Give what measures on the run's workers, or in this process where it has none.

    Args:
        kind: The same, as a worker is told it.
    """
    if run.workers is None:
        measure_here = here()

        def alone(architectures: Sequence[Architecture], share: float = 1.0) -> Iterator[Measurement]:
            del share  # all of it is there when this ends
            return measure_here(architectures)

        return alone
    workers = run.workers
    return lambda architectures, share=1.0: workers.measure(kind, protocol, run.told, architectures, share)


def halver(run: Run, bank: WeightBank, groups: References, clock: StageClock) -> MeasureBest:
    """Give what measures the best of many candidates, found by successive halving on the selection set."""
    tokens = [batch.numel() for batch in run.selection_reference.batches]
    here, of = some_slicing(run, bank, groups), of_text(groups)

    def measure_best(batch: list[Candidate], count: int) -> list[Measurement]:
        seen: dict[str, Measurement] = {}

        def score(there: list[int], rung: Rung) -> list[float]:
            spent, new = sum(tokens[: rung.batches.start]), sum(tokens[rung.batches.start : rung.batches.stop])
            protocol = rung_protocol(run, rung.batches)
            kind = Kind(after="slices", of=of, batches=(rung.batches.start, rung.batches.stop))
            measure_rung = spread_out(run, protocol, kind, lambda: here(rung.batches))

            def measure_new(architectures: Sequence[Architecture], share: float = 1.0) -> Iterator[Measurement]:
                for each in measure_rung(architectures, share):
                    before = seen.get(each.architecture.key)
                    yield each if before is None else with_more(before, spent, each, new)

            # What a few tokens say is no "best so far".
            whole, some = rung.batches.stop == len(tokens), [batch[number] for number in there]
            measured = BatchMeasurer(run, protocol, measure_new, clock, lowest=whole)(some)
            seen.update({each.architecture.key: each for each in measured})
            return [math.nan if each.kl is None else each.kl for each in measured]

        left = halve(len(batch), rungs(len(tokens), len(batch), count), score)
        return [seen[batch[number].architecture.key] for number in left]

    return measure_best


def rung_protocol(run: Run, batches: range) -> MeasuringProtocol:
    """On some tokens it is another protocol: nothing that is chosen or fitted may mix both."""
    so_far = sum(batch.numel() for batch in run.selection_reference.batches[: batches.stop])
    return selection_protocol(run).model_copy(update={"num_tokens": so_far})


def some_slicing(run: Run, bank: WeightBank, groups: References) -> Callable[[range], Measure]:
    """Give what measures candidates by slices of the bank on some batches of the selection set."""
    reference = run.selection_reference
    stitched, targets = run.stitched(bank, reference, 1 + len(groups)), group_targets(run, bank, groups)

    def on(batches: range) -> Measure:
        protocol, whole = rung_protocol(run, batches), batches.stop == len(reference.batches)
        return lambda architectures: measure(stitched, architectures, protocol, targets if whole else {}, batches)

    return on


def slicing(run: Run, bank: WeightBank, groups: References) -> Measure:
    """Give what measures candidates by slices of the bank."""
    protocol = selection_protocol(run)
    targets = paper_targets(run, bank) if run.config.search.method == JI2023 else {}
    targets |= group_targets(run, bank, groups)
    stitched = run.stitched(bank, run.selection_reference, 1 + len(targets))
    return lambda architectures: measure(stitched, architectures, protocol, targets)


def reconstructing(run: Run, bank: WeightBank, groups: References) -> Measure:
    """Give what measures candidates after sequential reconstruction on a part of the calibration set."""
    inputs = run.inputs
    streams = candidate_streams(run)
    protocol = selection_protocol(run, streams.num_tokens)

    def measure_one(architecture: Architecture) -> Measurement:
        start = time.perf_counter()
        model = reconstructed(run, bank, architecture, streams)
        scores = score_model(model, inputs.dense.family, inputs.walk, run.selection_reference)
        losses = {loss_target(name): loss for name, loss in group_losses(run, model, groups).items()}
        return as_measurement(architecture, protocol, scores, losses, time.perf_counter() - start)

    return lambda architectures: map(measure_one, architectures)


def candidate_streams(run: Run) -> DenseStreams:
    """Give the part of the calibration set on which candidates are reconstructed."""
    return run.dense_streams(run.config.search.reconstructed_tokens)


def paper_targets(run: Run, bank: WeightBank) -> dict[str, Target]:
    """Give what the paper's predictor learns: perplexity per text and multiple-choice accuracy, by slices of the bank.

    Without any of them named, the selection set's perplexity is the only target.
    """
    walk, named = run.inputs.walk, run.inputs.paper
    assert named is not None, "inputs of the method hold its targets"
    texts = named.texts or {"selection": run.inputs.sets[Role.SELECTION]}
    sharing = len(texts) + 2
    targets: dict[str, Target] = {}
    for name, tokens in texts.items():
        windows = max(1, run.config.evaluation.batch_tokens // tokens.sequence_length)
        reference = DenseReference(walk, tokens, windows, run.config.evaluation.top_k)
        targets[f"perplexity {name}"] = _perplexity_of(run.stitched(bank, reference, sharing))
    if named.choices is not None:
        targets["accuracy"] = _accuracy_of(run, named, bank, sharing)
    return targets


def _perplexity_of(stitched: StitchedModel[WindowScores]) -> Target:
    return lambda architectures: [float(scores.loss.mean().exp()) for scores in stitched.scores(architectures)]


def _accuracy_of(run: Run, named: PaperTargets, bank: WeightBank, sharing: int) -> Target:
    assert named.choices is not None, "only asked for where there are questions"
    stitched = run.stitched(bank, named.choices, sharing)
    return lambda architectures: [float(right.mean()) for right in stitched.scores(architectures)]


def selection_protocol(run: Run, reconstructed_on: int = 0) -> MeasuringProtocol:
    """What makes the measurements of this run comparable, and those of another configuration not.

    The seed is part of the bank: labels are sampled with it, and so is the random order.
    """
    config, tokens = run.config, run.inputs.sets[Role.SELECTION]
    pruning = config.pruning
    groups = {name: sets[Role.SELECTION].fingerprint for name, sets in run.inputs.groups.items()}
    return MeasuringProtocol(
        model=run.inputs.fingerprints["model"],
        tokens=digest([tokens.fingerprint, groups]) if groups else tokens.fingerprint,
        num_tokens=tokens.num_tokens,
        sequence_length=tokens.sequence_length,
        # A model that is made is computed as it is.
        dtype=str(run.inputs.dense.model.dtype if reconstructed_on else run.measuring_dtype),
        reconstructed_on=reconstructed_on,
        top_k=run.selection_reference.top_k,
        bank=digest(
            [
                run.config.seed,
                run.inputs.fingerprints["calibration"],
                pruning.importance,
                run.bank_reconstruction,
                pruning.ridge,
                pruning.sequential_ridge if reconstructed_on else None,
                run.inputs.channels.tolist() if run.inputs.channels is not None else None,
            ]
        ),
    )


@dataclass
class BatchMeasurer:
    """Measures what the database does not hold yet; every measurement is stored as soon as it is there.

    Attributes:
        lowest: The lowest KL is the best, and is said so.
    """

    run: Run
    protocol: MeasuringProtocol
    measure: SpreadMeasure
    clock: StageClock
    lowest: bool = True
    _out: dict[str, Candidate] = field(default_factory=dict)

    def __call__(self, batch: list[Candidate]) -> list[Measurement]:
        """Give the measurements of a batch, in its order."""
        found = {each.architecture.key: each for each in self.so_far(batch, 1.0)}
        return [found[candidate.architecture.key] for candidate in batch]

    def so_far(self, batch: Sequence[Candidate], share: float) -> list[Measurement]:
        """Give measurements of this batch and of earlier ones as soon as such a share of what is out is there.

        Without candidates all that is out is waited for.
        """
        store, protocol = self.run.store, self.protocol.key
        candidates = {candidate.architecture.key: candidate for candidate in batch}
        stored = store.measurements_of(candidates, protocol)
        known = {key: read_text(stored[key], Measurement) for key in candidates if key in stored}
        for key, measurement in known.items():
            self._advance(candidates[key], measurement, 0.0)
        new = {key: candidate for key, candidate in candidates.items() if key not in known and key not in self._out}
        # What was measured is among the candidates of the database.
        store.add_candidates([(key, each.round, each.model_dump_json()) for key, each in new.items()])
        self._out |= new
        # Neighbours in this order share their first layers, which are then computed once.
        missing = sorted((each.architecture for each in new.values()), key=lambda architecture: architecture.widths)
        measured = list(known.values())
        if missing or (self._out and not batch):
            for measurement in self.measure(missing, share):
                key = measurement.architecture.key
                store.add_measurement(key, protocol, measurement.model_dump_json())
                measured.append(measurement)
                self._advance(self._out.pop(key), measurement, measurement.seconds)
        return measured

    def _advance(self, candidate: Candidate, measurement: Measurement, seconds: float) -> None:
        # A probe outside the budget is no "best so far".
        lowest = self.lowest and candidate.origin not in PROBES
        self.clock.advance(measurement.kl if lowest else None, seconds)
