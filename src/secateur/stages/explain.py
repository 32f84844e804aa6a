"""Explain: what each module adds to what the last predictor says, of the measured architectures and of the chosen."""

import math

import numpy as np

from secateur.predictor.shapley import module_shapley
from secateur.report.record import Choice, Explanation
from secateur.report.recorded import EXPLANATION
from secateur.runs.progress import stage_clock
from secateur.schema import derive_seed
from secateur.search.task import Found
from secateur.space.search_space import SearchSpace
from secateur.stages.run import Run

# Architectures that are explained, from the whole ranking, and orders in which their modules come in: as many rows are
# predicted as MOST * ORDERS * 2 * (modules + 1).
MOST, ORDERS = 32, 16


def explain_stage(run: Run, space: SearchSpace, found: Found, choice: Choice) -> Explanation | None:
    """Give the Shapley values of modules; None where the method has no predictor."""
    fitted = found.fitted
    if fitted is None:
        return None
    with stage_clock("explain", run.listener) as clock:
        places = np.unique(np.linspace(0, len(fitted.levels) - 1, MOST).round().astype(int))
        explained = np.vstack([fitted.levels[places], [space.levels(choice.architecture)]])
        seed = derive_seed(run.config.seed, "explain")
        values = module_shapley(fitted.predict, explained, fitted.levels, ORDERS, seed)
        explanation = Explanation(
            quantity=fitted.quantity,
            num_explained=len(places),
            mean_absolute=tuple(np.abs(values[:-1]).mean(0).tolist()),
            chosen=tuple(values[-1].tolist()),
            base=math.exp(float(fitted.predict(fitted.levels).mean())),
            predicted=math.exp(float(fitted.predict(explained[-1:])[0])),
        )
        clock.note = f"{len(places)} measured architectures, and the chosen one"
    run.store.end_stage(EXPLANATION, clock.seconds, explanation.model_dump(mode="json"))
    return explanation
