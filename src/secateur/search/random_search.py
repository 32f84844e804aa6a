"""Random search: the floor that every other search must stand on."""

from secateur.schema import derive_seed
from secateur.search.task import Found, SearchTask, ranked
from secateur.space.sampling import sample_architectures


def random_search(task: SearchTask) -> Found:
    """Measure random architectures of the budget band and take the best."""
    drawn = sample_architectures(task.space, task.budget, task.num_measurements, derive_seed(task.seed, "random"))
    measured = task.measure([task.candidate(task.space.levels(each), "sampled") for each in drawn])
    return Found(measured, ranked(measured))
