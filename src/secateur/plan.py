"""THE PLAN: what a run would do and cost, before any of its work; nothing is written.

load -> check what can be exported -> count the space -> a short probe of this machine -> count the work
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil

from secateur.config import RunConfig
from secateur.data import Role, assign_documents
from secateur.errors import SecateurError
from secateur.evaluation.divergence import KEPT_PROBABILITIES_BYTES
from secateur.export.target import check_target
from secateur.inputs import Inputs, define_limits, load_inputs
from secateur.model.loading import DTYPES
from secateur.model.shape import module_of
from secateur.report.plan_table import PlannedCost, PlannedSet, PlannedTarget, RunPlan
from secateur.runs.progress import Part
from secateur.schema import derive_seed
from secateur.space.architecture import Architecture
from secateur.space.cost import COSTS, Amount, Budget
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import SearchSpace
from secateur.space.uniform_space import UniformSpace
from secateur.stages.expected import expected_work, probe
from secateur.stages.prices import Amounts

TARGETS = ("per-layer", "uniform", "padded", "gguf")
# Cells of the grid on which sums of a cost are counted.
CELLS = 20_000
# Architectures that are drawn to say what the budget leaves of other costs.
DRAWN = 24
# Kinds of steps that are measurements.
MEASURED = ("sliced", "reconstructed")


def plan_run(config: RunConfig, scratch: Path | None = None, text_given: bool = True) -> RunPlan:
    """Say what a run with this configuration would do, and how long it should take here.

    Args:
        scratch: As `load_inputs`.
        text_given: False where the sources stand in for text that was not given: the configured numbers of tokens
            are then assumed.

    Raises:
        InputError: As the run itself would raise it.
    """
    start = time.perf_counter()
    inputs = load_inputs(config, scratch=scratch)
    load_seconds = time.perf_counter() - start
    speeds = probe(config, inputs)
    amounts = Amounts.of(config, inputs)
    if not text_given:
        wanted = config.data
        assumed = (wanted.calibration_tokens, wanted.selection_tokens, wanted.evaluation_tokens)
        amounts.num_tokens.update(zip(Role, assumed, strict=True))
    work = expected_work(amounts, speeds)
    parts = {stage.stage: stage.parts for stage in work}
    shape = inputs.dense.shape
    return RunPlan(
        family=inputs.dense.family.model_type,
        num_layers=shape.num_layers,
        total_parameters=shape.decoder_parameters + shape.parameters_outside,
        decoder_parameters=shape.decoder_parameters,
        log10_space=log10_size(inputs.space),
        log10_in_band=None if config.budget.max_drop else log10_inside(inputs.space, inputs.budget),
        num_measurements=_steps(parts["search"]),
        alternative_measurements=_steps(parts.get("uniformity", ())),
        rounds=sum(part.kind == "fit" for part in parts["search"]),
        seconds=sum(stage.seconds for stage in work),
        stage_seconds={stage.stage: stage.seconds for stage in work},
        load_seconds=load_seconds,
        probe_seconds=speeds.seconds,
        probe_tokens=speeds.tokens,
        peak_bytes=peak_bytes(amounts, inputs),
        disk_bytes=disk_bytes(amounts, inputs),
        costs=planned_costs(config, inputs),
        targets=tuple(planned_target(config, inputs, name) for name in TARGETS),
        target=config.export.target,
        sets=planned_sets(config, amounts, text_given),
        text_given=text_given,
    )


def _steps(parts: Sequence[Part]) -> int:
    return sum(part.steps for part in parts if part.kind in MEASURED and part.seconds)


def log10_size(space: SearchSpace) -> float:
    """Count the architectures of a space, as a power of ten."""
    if isinstance(space, UniformSpace):
        sizes = (len(space.options[0]) - 1) * (len(space.options[1]) - 1)
        free = space.shape.num_layers - len(space.protected)
        return math.log10(max(sizes * (2**free - (not space.protected)), 1))
    return sum(math.log10(len(options)) for options in space.options)


def log10_inside(space: SearchSpace, budget: Budget) -> float | None:
    """Estimate how many architectures are inside the budget band, as a power of ten; None for several limits.

    Sums of the cost are counted on a grid, module by module; where few fall into the band, none may be found.
    """
    if isinstance(space, UniformSpace):
        count = space.count(budget)
        return math.log10(count) if count else None
    if len(budget.limits) != 1 or math.isinf(budget.limits[0].floor):
        return None
    [limit] = budget.limits
    table = space.table(limit.cost)
    outside = float(limit.cost.outside(space.shape))
    cell = max((sum(max(costs) for costs in table) / CELLS), 1e-12)
    shares = np.zeros(CELLS + len(table) + 1)
    shares[0] = 1.0
    for costs in table:
        steps = np.round(np.array(costs, dtype=float) / cell).astype(int)
        shares = np.mean([np.concatenate([np.zeros(step), shares[: len(shares) - step]]) for step in steps], axis=0)
    low, high = ((float(amount) - outside) / cell for amount in (limit.floor, limit.ceiling))
    inside = float(shares[max(math.ceil(low - 0.5), 0) : math.floor(high + 0.5) + 1].sum())
    return log10_size(space) + math.log10(inside) if inside > 0 else None


def planned_costs(config: RunConfig, inputs: Inputs) -> tuple[PlannedCost, ...]:
    """Say what architectures at the budget have of every cost."""
    budget, space, shape = inputs.budget, inputs.space, inputs.shape
    seed = derive_seed(config.seed, "plan")
    drawn = [] if config.budget.max_drop else sample_architectures(space, budget, DRAWN, seed)
    ceilings: dict[str, Amount] = {limit.cost.name: limit.ceiling for limit in budget.limits}
    dense = Architecture.dense(shape)
    found = []
    for name, cost in COSTS.items():
        amounts = [float(cost.of(shape, each)) for each in drawn] or [0.0, float(cost.of(shape, dense))]
        ceiling = ceilings.get(name) if not config.budget.max_drop else None
        found.append(
            PlannedCost(
                name=name,
                dense=float(cost.of(shape, dense)),
                least=min(amounts),
                most=max(amounts),
                ceiling=None if ceiling is None else float(ceiling),
            )
        )
    return tuple(found)


def planned_target(config: RunConfig, inputs: Inputs, name: str) -> PlannedTarget:
    """Ask what the run itself would ask of an export target."""
    export = config.export.model_copy(update={"target": name})
    try:
        check_target(inputs.dense, name, output_bias=config.pruning.reconstruction == "bias")
        define_limits(config.model_copy(update={"export": export}), inputs.dense, inputs.latency)
    except SecateurError as error:
        return PlannedTarget(name=name, reason=str(error))
    return PlannedTarget(name=name, reason=None)


def planned_sets(config: RunConfig, amounts: Amounts, text_given: bool) -> dict[str, PlannedSet]:
    """Count documents and tokens per role."""
    data = config.data
    named = {Role.CALIBRATION: data.calibration, Role.SELECTION: data.selection, Role.EVALUATION: data.evaluation}
    documents = (
        assign_documents(list(data.sources), {role: list(own) for role, own in named.items()}, data.text_field)
        if text_given
        else {}
    )
    return {
        str(role): PlannedSet(documents=len(documents[role]) if documents else None, tokens=amounts.num_tokens[role])
        for role in Role
    }


def peak_bytes(amounts: Amounts, inputs: Inputs) -> int:
    """Estimate the most memory: what the process has now, and the largest of what the stages keep besides."""
    evaluation, tokens = amounts.config.evaluation, amounts.num_tokens
    state, layers = amounts.state_bytes, amounts.shape.num_layers
    vocabulary = 4 * amounts.shape.vocab_size
    selection = tokens[Role.SELECTION] + amounts.group_tokens[Role.SELECTION]
    kept = min(selection * vocabulary, KEPT_PROBABILITIES_BYTES)
    states = min(2 * evaluation.candidates * selection * state + evaluation.cache_bytes, evaluation.max_memory)
    streams = min(evaluation.cache_bytes, tokens[Role.CALIBRATION] * state * (2 * layers + 1))
    evaluated = min(tokens[Role.EVALUATION] * vocabulary, KEPT_PROBABILITIES_BYTES)
    dense = inputs.dense.model
    model = dense.num_parameters() * dense.dtype.itemsize
    return psutil.Process().memory_info().rss + kept + max(states, streams + 2 * model, evaluated + model)


def disk_bytes(amounts: Amounts, inputs: Inputs) -> int:
    """Estimate what the run folder holds at most: banks, what calibration puts aside, and the export."""
    shape, size = amounts.shape, inputs.dense.model.dtype.itemsize
    spaces = [amounts.space] + ([amounts.alternative[0]] if amounts.alternative else [])
    bank = inputs.dense.shape.decoder_parameters * size
    for module in range(shape.num_modules):
        _, kind = module_of(module)
        widths = {width for space in spaces for width in space.options[module]}
        bank += sum(width * shape.group_size(kind) for width in widths) * shape.hidden_size * size
    plain = 2 * inputs.dense.shape.decoder_parameters * size if amounts.baselines else 0
    aside = amounts.num_tokens[Role.CALIBRATION] * amounts.state_bytes * (shape.num_layers + 3)
    dtype = inputs.dense.stored_dtype if amounts.config.export.dtype == "auto" else amounts.config.export.dtype
    export = int((shape.decoder_parameters * 0.8 + shape.parameters_outside) * DTYPES[dtype].itemsize)
    return bank + plain + max(aside, export)
