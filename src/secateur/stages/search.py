"""Search: the run's method proposes, and candidates are measured."""

from collections.abc import Mapping
from dataclasses import replace

from secateur.data import Role
from secateur.predictor.quality import PredictorQuality
from secateur.pruning.bank import WeightBank
from secateur.report.recorded import ROUND_PLAN
from secateur.runs.progress import Listener, PredictorFitted, stage_clock
from secateur.runs.records import read_text
from secateur.search.ji2023 import PaperSizes, paper_search
from secateur.search.methods import JI2023, SEARCHES, measure_the_one
from secateur.search.task import PROBES, Found, MeasureBatch, PastRound, RoundPlan, RoundRecord, SearchTask
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate
from secateur.space.search_space import SearchSpace
from secateur.stages.groups import group_references, wanted_objectives
from secateur.stages.measure import halver, measurers
from secateur.stages.run import Run


def search_stage(
    run: Run, space: SearchSpace, bank: WeightBank, heuristics: Mapping[str, Architecture] | None = None
) -> Found:
    """Let the run's method search; what the database holds already is not measured again.

    Args:
        heuristics: Architectures that need no measurement, by name, to begin with.
    """
    planned = None if run.config.search.halving else planned_measurements(run)
    with stage_clock("search", run.listener, planned) as clock:
        groups = group_references(run, Role.SELECTION)
        measure, measure_reconstructed = measurers(run, bank, groups, clock)
        task = replace(
            search_task(run, space, bank, measure),
            measure_best=halver(run, bank, groups, clock) if run.config.search.halving else None,
            measure_reconstructed=measure_reconstructed,
            objectives=wanted_objectives(run, groups),
            judged=lambda quality: say_fitted(quality, "search", run.listener),
            heuristics=heuristics or {},
            begun=lambda: first_proposed(run),
            past=lambda number: past_round(run, number),
            begin_round=lambda plan: run.store.end_stage(ROUND_PLAN, 0.0, plan.model_dump(mode="json")),
            planned=lambda number: begun_round(run, number),
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
        wait_for=search.wait_for,
        dense_parameters=run.inputs.original.shape.decoder_parameters,
        seed=run.config.seed,
        end_round=lambda record: run.store.end_stage(f"round {record.round}", 0.0, record.model_dump(mode="json")),
        end_fit=lambda record: run.store.end_stage(record.stage, 0.0, record.model_dump(mode="json")),
    )


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


def first_proposed(run: Run) -> list[Candidate]:
    """Give what was proposed before the first round, in the order in which it was."""
    found = [read_text(each, Candidate) for each in run.store.candidates(round_number=0)]
    return [each for each in found if each.origin not in PROBES]


def past_round(run: Run, number: int) -> PastRound | None:
    """Give a round that an earlier process has ended; its measurements are in the database."""
    row = run.store.stage(f"round {number}")
    if row is None:
        return None
    record = row.read(RoundRecord)
    found = [run.store.candidate(each.architecture) for each in record.foretold]
    return PastRound(record, [read_text(each, Candidate) for each in found if each is not None])


def begun_round(run: Run, number: int) -> RoundPlan | None:
    """Give what a round set out with, if an earlier process has begun it and not ended it."""
    row = run.store.stage(ROUND_PLAN)
    plan = row.read(RoundPlan) if row is not None else None
    return plan if plan is not None and plan.round == number else None


def say_fitted(quality: PredictorQuality, stage: str, listener: Listener) -> None:
    """Tell how good the predictor is that a search goes on with."""
    listener(PredictorFitted(stage, quality.predictor, quality.kendall_tau, quality.num_pairs, bool(quality.trusted)))


def paper_sizes(run: Run) -> PaperSizes:
    return PaperSizes().scaled(run.config.paper.scale)


def planned_measurements(run: Run) -> int:
    """Say how many measurements the method will make at most."""
    method, search = run.config.search.method, run.config.search
    if method == JI2023:
        sizes = paper_sizes(run)
        return sizes.tied + sizes.free + sizes.measured
    return search.measurements if method in SEARCHES else 1
