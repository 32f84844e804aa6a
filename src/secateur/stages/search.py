"""Search: the run's method proposes, candidates are measured, and every measurement is stored before the next."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.stitched import StitchedModel, as_measurement, measure, score_model
from secateur.inputs import PaperTargets
from secateur.pruning.bank import WeightBank
from secateur.pruning.sequence import DenseStreams
from secateur.runs.progress import StageClock, stage_clock
from secateur.schema import digest
from secateur.search.ji2023 import PaperSizes, paper_search
from secateur.search.methods import JI2023, SEARCHES, measure_the_one
from secateur.search.objectives import loss_target
from secateur.search.task import PROBES, Found, MeasureBatch, SearchTask
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement, Protocol
from secateur.space.search_space import SearchSpace
from secateur.stages.groups import References, group_losses, group_references, group_targets, wanted_objectives
from secateur.stages.prune import reconstructed
from secateur.stages.run import Run

Target = Callable[[Architecture], float]
MeasureOne = Callable[[Architecture], Measurement]


def search_stage(
    run: Run, space: SearchSpace, bank: WeightBank, heuristics: Mapping[str, Architecture] | None = None
) -> Found:
    """Let the run's method search; what the database holds already is not measured again.

    Args:
        heuristics: Architectures that need no measurement, by name, to begin with.
    """
    with stage_clock("search", run.listener, planned_measurements(run)) as clock:
        groups = group_references(run, Role.SELECTION)
        measure, measure_reconstructed = measurers(run, bank, groups, clock)
        task = replace(
            search_task(run, space, bank, measure),
            measure_reconstructed=measure_reconstructed,
            objectives=wanted_objectives(run, groups),
            heuristics=heuristics or {},
        )
        found = replace(_run_method(run, task), objectives=task.objectives)
        clock.note = f"best KL {found.best.kl:.4f}"
        if found.rounds:
            clock.note += f", predictor tau {found.rounds[-1].quality.kendall_tau:.2f}"
    if run.store.stage("search") is None:
        # Of an interrupted search this process has seen only the end; its measurements tell the rest.
        spent = sum(m.seconds for m in (*found.measurements, *found.probes))
        run.store.end_stage("search", max(clock.seconds, spent))
    return found


def measurers(
    run: Run, bank: WeightBank, groups: References, clock: StageClock
) -> tuple[MeasureBatch, MeasureBatch | None]:
    """Give what measures by slices of the bank, and what measures after reconstruction where the run does that."""
    sliced = _slicing(run, bank, run.selection_reference, groups)
    reconstructed_too = (
        _reconstructing(run, bank, run.selection_reference, groups) if run.reconstructs_candidates else None
    )
    return (
        lambda batch: measure_batch(run, *sliced, batch, clock),
        (lambda batch: measure_batch(run, *reconstructed_too, batch, clock)) if reconstructed_too else None,
    )


def search_task(run: Run, space: SearchSpace, bank: WeightBank, measure: MeasureBatch) -> SearchTask:
    """Give a method what the configuration says, to measure in one way."""
    search = run.config.search
    return SearchTask(
        space=space,
        budget=run.inputs.budget,
        errors=[bank.errors(module) for module in range(space.num_modules)],
        measure=measure,
        reconstructed_share=search.reconstructed_share,
        num_measurements=search.measurements,
        num_rounds=search.rounds,
        initial_share=search.initial_share,
        predictor=search.predictor,
        sensitivity_share=search.sensitivity_share,
        acquisition=search.acquisition,
        least_improvement=search.least_improvement,
        shrinks=search.shrink,
        second_opinion=search.second_opinion,
        dense_parameters=run.inputs.original.shape.decoder_parameters,
        seed=run.config.seed,
        end_round=lambda record: run.store.end_stage(f"round {record.round}", 0.0, record.model_dump(mode="json")),
    )


def _slicing(run: Run, bank: WeightBank, reference: DenseReference, groups: References) -> tuple[Protocol, MeasureOne]:
    """Measure candidates by slices of the bank."""
    protocol = selection_protocol(run)
    cache = run.config.evaluation.cache_bytes // (1 + len(groups))
    stitched = StitchedModel(run.inputs.walk, bank, reference, cache)
    targets = paper_targets(run, bank) if run.config.search.method == JI2023 else {}
    targets |= group_targets(run, bank, groups, cache)
    return protocol, lambda architecture: measure(stitched, architecture, protocol, targets)


def _reconstructing(
    run: Run, bank: WeightBank, reference: DenseReference, groups: References
) -> tuple[Protocol, MeasureOne]:
    """Measure candidates after sequential reconstruction on a part of the calibration set."""
    inputs = run.inputs
    streams = candidate_streams(run)
    protocol = selection_protocol(run, streams.num_tokens)

    def measure_one(architecture: Architecture) -> Measurement:
        start = time.perf_counter()
        model = reconstructed(run, bank, architecture, streams)
        scores = score_model(model, inputs.dense.family, inputs.walk, reference)
        losses = {loss_target(name): loss for name, loss in group_losses(run, model, groups).items()}
        return as_measurement(architecture, protocol, scores, losses, time.perf_counter() - start)

    return protocol, measure_one


def candidate_streams(run: Run) -> DenseStreams:
    """Give the part of the calibration set on which candidates are reconstructed."""
    return run.dense_streams(run.config.search.reconstructed_tokens)


def _run_method(run: Run, task: SearchTask) -> Found:
    method = run.config.search.method
    if method in SEARCHES:
        return SEARCHES[method](task)
    if method == JI2023:
        return paper_search(
            task,
            paper_sizes(run),
            lambda record: run.store.end_stage("paper", 0.0, record.model_dump(mode="json")),
        )
    return measure_the_one(task)


def paper_sizes(run: Run) -> PaperSizes:
    return PaperSizes().scaled(run.config.paper.scale)


def planned_measurements(run: Run) -> int:
    """Say how many measurements the method will make at most."""
    method, search = run.config.search.method, run.config.search
    if method == JI2023:
        sizes = paper_sizes(run)
        return sizes.tied + sizes.free + sizes.measured
    return search.measurements if method in SEARCHES else 1


def paper_targets(run: Run, bank: WeightBank) -> dict[str, Target]:
    """Give what the paper's predictor learns: perplexity per text and multiple-choice accuracy, by slices of the bank.

    Without any of them named, the selection set's perplexity is the only target.
    """
    walk, named = run.inputs.walk, run.inputs.paper
    assert named is not None, "inputs of the method hold its targets"
    texts = named.texts or {"selection": run.inputs.sets[Role.SELECTION]}
    cache = run.config.evaluation.cache_bytes // (len(texts) + 2)
    scorers: dict[str, Target] = {}
    for name, tokens in texts.items():
        windows = max(1, run.config.evaluation.batch_tokens // tokens.sequence_length)
        stitched = StitchedModel(walk, bank, DenseReference(walk, tokens, windows), cache)
        scorers[f"perplexity {name}"] = _perplexity_of(stitched)
    if named.choices is not None:
        scorers["accuracy"] = _accuracy_of(run, named, bank, cache)
    return scorers


def _perplexity_of(stitched: StitchedModel) -> Target:
    return lambda architecture: float(stitched.score(architecture).loss.mean().exp())


def _accuracy_of(run: Run, named: PaperTargets, bank: WeightBank, cache: int) -> Target:
    choices, walk = named.choices, run.inputs.walk
    assert choices is not None, "only asked for where there are questions"
    stitched = StitchedModel(walk, bank, choices, cache)
    return lambda architecture: choices.accuracy(walk, stitched.stream(architecture))


def selection_protocol(run: Run, reconstructed_on: int = 0) -> Protocol:
    """What makes the measurements of this run comparable, and those of another configuration not.

    The seed is part of the bank: labels are sampled with it, and so is the random order.
    """
    config, tokens = run.config, run.inputs.sets[Role.SELECTION]
    pruning = config.pruning
    groups = {name: sets[Role.SELECTION].fingerprint for name, sets in run.inputs.groups.items()}
    return Protocol(
        model=run.inputs.fingerprints["model"],
        tokens=digest([tokens.fingerprint, groups]) if groups else tokens.fingerprint,
        num_tokens=tokens.num_tokens,
        sequence_length=tokens.sequence_length,
        dtype=str(run.inputs.dense.model.dtype),
        reconstructed_on=reconstructed_on,
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


def measure_batch(
    run: Run,
    protocol: Protocol,
    measure_one: MeasureOne,
    batch: list[Candidate],
    clock: StageClock,
    *,
    lowest: bool = True,
) -> list[Measurement]:
    """Measure what the database does not hold yet; every measurement is stored before the next begins.

    Args:
        lowest: The lowest KL is the best, and is said so.
    """
    run.store.add_candidates([(c.architecture.key, c.round, c.model_dump_json()) for c in batch])
    measured: dict[str, Measurement] = {}
    # Neighbours in this order share their first layers, which are then computed once.
    for candidate in sorted(batch, key=lambda c: c.architecture.widths):
        key = candidate.architecture.key
        stored = run.store.measurement(key, protocol.key)
        if stored is not None:
            measurement = Measurement.model_validate_json(stored)
        else:
            measurement = measure_one(candidate.architecture)
            run.store.add_measurement(key, protocol.key, measurement.model_dump_json())
        measured[key] = measurement
        # A probe outside the budget is no "best so far".
        clock.advance(measurement.kl if lowest and candidate.origin not in PROBES else None)
    return [measured[candidate.architecture.key] for candidate in batch]
