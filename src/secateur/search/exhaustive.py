"""Where a space holds few architectures at the budget there is nothing to learn: all are measured."""

from secateur.schema import derive_seed
from secateur.search.front import chosen_first
from secateur.search.rounds import from_ranking, num_to_reconstruct
from secateur.search.task import Found, SearchTask, ranked
from secateur.space.candidate import Measurement
from secateur.space.sampling import sample_architectures
from secateur.space.uniform_space import UniformSpace


def holds_few(task: SearchTask) -> bool:
    """Say whether the task's measurements suffice for every architecture at the budget."""
    return isinstance(task.space, UniformSpace) and task.space.count(task.budget) <= task.num_measurements


def measure_all(task: SearchTask) -> Found:
    """Measure every architecture at the budget: after reconstruction if there is one, the best by slices where not all.

    What is measured after reconstruction is at most the share of the measurements that a search spends on it.
    """
    drawn = sample_architectures(task.space, task.budget, task.num_measurements, derive_seed(task.seed, "all"))
    candidates = [task.candidate(task.space.levels(architecture), "enumerated") for architecture in drawn]
    measure, num_reconstructed = task.measure_reconstructed, num_to_reconstruct(task)
    if measure is None or num_reconstructed == 0:
        measured = task.measure(candidates)
        return Found(measured, _finalists(task, measured))
    sliced = task.measure(candidates) if len(candidates) > num_reconstructed else []
    if sliced:
        candidates = from_ranking(task, ranked(sliced), num_reconstructed)
    measured = measure(candidates)
    return Found(measured, _finalists(task, measured), probes=sliced, reconstructed=True)


def _finalists(task: SearchTask, measured: list[Measurement]) -> list[Measurement]:
    return ranked(measured) if task.objectives.plain else chosen_first(task, measured)
