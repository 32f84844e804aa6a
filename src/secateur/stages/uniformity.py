"""What layers alike cost: the best of the space that the export target does not ask for, at the same budget."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from secateur.predictor.choice import fit_predictor
from secateur.predictor.protocol import Pairs, Predictor
from secateur.pruning.bank import WeightBank
from secateur.report.record import Uniformity, Winner
from secateur.runs.progress import stage_clock
from secateur.schema import derive_seed
from secateur.search.exhaustive import holds_few
from secateur.search.one_round import FEWEST_TO_FIT
from secateur.search.propose import initial_candidates, predicted_candidates
from secateur.search.task import Found, SearchTask, ranked
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import cost_of
from secateur.space.encoding import FeatureTable
from secateur.space.sampling import sample_architectures
from secateur.space.uniform_space import UniformSpace
from secateur.stages.measure import measurers
from secateur.stages.run import Run
from secateur.stages.search import say_fitted, search_task

# Of the measurements, those that a predictor proposes; and how many of the best are measured after reconstruction.
PREDICTED_SHARE = 0.3
FINALISTS = 3


@dataclass(frozen=True)
class Learned:
    """A predictor over two spaces, with the features of each."""

    predictor: Predictor
    kendall_tau: float
    tables: tuple[FeatureTable, FeatureTable]


def uniformity_stage(run: Run, bank: WeightBank, found: Found) -> Uniformity | None:
    """Measure a little of the other space; None where the run was not asked, or too much of it failed.

    The predictor learns from both spaces. It proposes the last of what is measured in the other one, and what is said
    to be predicted of the two winners comes from one that was fitted without them.
    """
    other = run.inputs.alternative
    if other is None:
        return None
    count = run.config.search.alternative_measurements
    # The choice is measured by slices too.
    with stage_clock("uniformity", run.listener, count + 1 + FINALISTS * run.reconstructs_candidates) as clock:
        slices, reconstructs = measurers(run, bank, {}, clock)

        def measure(batch: list[Candidate]) -> list[Measurement]:
            # Whatever proposed them, no choice is among them.
            return slices([candidate.model_copy(update={"origin": "alternative"}) for candidate in batch])

        searched = search_task(run, run.inputs.space, bank, measure)
        searched = replace(searched, judged=lambda quality: say_fitted(quality, "uniformity", run.listener))
        task = replace(searched, space=other.space, budget=other.budget)
        of_searched = [m for m in (found.probes if found.reconstructed else found.measurements) if _inside(run, m)]
        of_other = _measure(task, searched, of_searched, count)
        # The choice may have been proposed when all was measured after reconstruction.
        [sliced] = measure([searched.candidate(searched.space.levels(found.best.architecture), "alternative")])
        best = of_other
        if reconstructs is not None and found.reconstructed:
            first = [task.candidate(task.space.levels(m.architecture), "alternative") for m in ranked(of_other)]
            best = reconstructs(first[:FINALISTS])
        if not ranked(best):
            return None  # as where nothing of the other space succeeded by slices
        winners = (found.best, ranked(best)[0])
        pairs = [m for m in ranked(of_searched) if m.architecture != winners[0].architecture]
        others = [m for m in ranked(of_other) if m.architecture != winners[1].architecture]
        if len(pairs) + len(others) < FEWEST_TO_FIT:
            return None
        learned = _learn((searched, task), (pairs, others))
        [sliced_other] = [m for m in of_other if m.architecture == winners[1].architecture]
        own = _winner(run, searched, learned, 0, winners[0], sliced, found.num_measurements)
        theirs = _winner(run, task, learned, 1, winners[1], sliced_other, len(of_other))
        uniform, per_layer = (own, theirs) if isinstance(searched.space, UniformSpace) else (theirs, own)
        record = Uniformity(uniform=uniform, per_layer=per_layer, kendall_tau=learned.kendall_tau)
        clock.note = f"layers alike KL {uniform.kl:.4f}, layers that differ {per_layer.kl:.4f}"
    run.store.end_stage("uniformity", clock.seconds, record.model_dump(mode="json"))
    return record


def _inside(run: Run, measurement: Measurement) -> bool:
    """Say whether a measurement is of the band: a predictor must not learn that smaller is worse."""
    return run.inputs.budget.admits(*run.inputs.budget.used(run.inputs.shape, measurement.architecture))


def _measure(task: SearchTask, searched: SearchTask, known: Sequence[Measurement], count: int) -> list[Measurement]:
    """Measure the other space by slices: all of it where it is small, else a first set and what is predicted best."""
    if holds_few(replace(task, num_measurements=count)):
        drawn = sample_architectures(task.space, task.budget, count, derive_seed(task.seed, "alternative"))
        return task.measure([task.candidate(task.space.levels(each), "alternative") for each in drawn])
    first = task.measure(initial_candidates(task, count - round(PREDICTED_SHARE * count)))
    pairs = (ranked(known), ranked(first))
    if len(pairs[0]) + len(pairs[1]) < FEWEST_TO_FIT:
        return first
    learned = _learn((searched, task), pairs)
    table = learned.tables[1]
    batch = predicted_candidates(
        task,
        lambda rows: learned.predictor.predict(table.features(rows)),
        [task.space.levels(m.architecture) for m in ranked(first)],
        count - len(first),
        round_number=1,
    )
    return first + task.measure(batch)


def _learn(tasks: tuple[SearchTask, SearchTask], pairs: tuple[list[Measurement], list[Measurement]]) -> Learned:
    """Fit one predictor on measurements of two spaces."""
    tables = (tasks[0].features(), tasks[1].features())
    rows: list[tuple[float, float, Float[np.ndarray, " features"]]] = []
    for task, table, measured in zip(tasks, tables, pairs, strict=True):
        if measured:
            levels = [task.space.levels(measurement.architecture) for measurement in measured]
            sizes = [float(task.space.decoder_parameters(each)) for each in levels]
            kls = [float(measurement.kl or 0.0) for measurement in measured]
            rows += zip(kls, sizes, table.features(np.array(levels)), strict=True)
    rows.sort(key=lambda row: row[0])
    kl, parameters, features = (np.array(column) for column in zip(*rows, strict=True))
    seed = derive_seed(tasks[0].seed, "fit", "uniformity")
    predictor, quality = fit_predictor(tasks[0].predictor, Pairs(tables[0].layout, features, kl), parameters, seed)
    tasks[0].judged(quality)
    return Learned(predictor, quality.kendall_tau, tables)


def _winner(
    run: Run, task: SearchTask, learned: Learned, which: int, winner: Measurement, sliced: Measurement, count: int
) -> Winner:
    levels = np.array([task.space.levels(winner.architecture)])
    assert winner.kl is not None, "winners did not fail"
    return Winner(
        architecture=winner.architecture,
        decoder_parameters=cost_of(run.inputs.shape, winner.architecture).decoder_parameters,
        predicted=float(np.exp(learned.predictor.predict(learned.tables[which].features(levels))[0])),
        sliced=sliced.kl,
        kl=winner.kl,
        num_measurements=count,
    )
