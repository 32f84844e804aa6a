"""What a run will do and how long that should take: counted from the configuration, at the speeds of this machine."""

import math
import os
import platform
from collections.abc import Iterator

import torch

from secateur.config import RunConfig
from secateur.data import Role
from secateur.evaluation.precision import measuring_dtype
from secateur.evaluation.timing import WARM_UPS
from secateur.inputs import Inputs
from secateur.model.shape import module_of
from secateur.pruning.gains import MOST_EVALUATIONS
from secateur.report.recorded import SPEEDS
from secateur.runs.folder import RunFolder
from secateur.runs.progress import Part, StageWork, WorkExpected
from secateur.runs.store import stored_stage
from secateur.schema import Record, digest
from secateur.search.ji2023 import PaperSizes
from secateur.search.methods import ALLOCATIONS, JI2023
from secateur.search.rounds import num_initial, num_to_reconstruct
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace
from secateur.space.uniform_space import UniformSpace
from secateur.stages.prices import Amounts, Prices
from secateur.stages.probe import Speeds, probe_speeds
from secateur.stages.run import Run
from secateur.stages.samples import NEW_TOKENS, PROMPT_TOKENS, PROMPTS

# In pieces of thinking (`Speeds.thinking`), from whole runs of small models (docs/log.md): a fresh process that loads
# an export, Shapley values, and two models that are loaded to be timed.
FRESH_PROCESS = 600.0
EXPLANATION, LOADED_TWICE = 30.0, 250.0
# A token that comes alone takes as long as so many in a batch, seen on the demo.
ALONE = 16
# Of the alternative's measurements, those that are proposed; and those measured after reconstruction.
PROPOSED_SHARE, BEST_OF_ALTERNATIVE = 0.3, 3
# Measured of each hidden size that is tried, by slices and after reconstruction.
HIDDEN_TRIED, HIDDEN_MADE = 8, 2


class SpeedsOf(Record):
    """How fast a machine does what a run consists of, as kept in the run's database."""

    machine: str
    speeds: Speeds


def speeds_here(config: RunConfig, inputs: Inputs, folder: RunFolder) -> SpeedsOf:
    """Give the speeds of this machine: those that the run was begun with, if that was here, or a probe's."""
    machine = machine_of(inputs)
    stored = stored_speeds(folder)
    return stored if stored and stored.machine == machine else SpeedsOf(machine=machine, speeds=probe(config, inputs))


def stored_speeds(folder: RunFolder) -> SpeedsOf | None:
    """Read the speeds of the machine that went on with the run last; None before they are stored."""
    row = stored_stage(folder.database, SPEEDS)
    return row.read(SpeedsOf) if row else None


def machine_of(inputs: Inputs) -> str:
    """Identify what a run's speed depends on: host, threads, and the device that the model is on."""
    device = inputs.dense.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return digest([platform.node(), os.cpu_count(), torch.get_num_threads(), name])


def probe(config: RunConfig, inputs: Inputs) -> Speeds:
    """Time a little of everything that a run will do."""
    chosen = config.pruning.reconstruction
    spaces = [inputs.space, *([inputs.alternative.space] if inputs.alternative else [])]
    widths = [
        sorted({width for space in spaces for own in space.options[block::2] for width in own}) for block in (0, 1)
    ]
    return probe_speeds(
        inputs.dense,
        inputs.sets[Role.CALIBRATION],
        (tuple(widths[0]), tuple(widths[1])),
        kept_share(inputs),
        config.pruning.importance,
        "least_squares" if chosen == "sequential" else chosen,
        config.evaluation.batch_tokens,
        measuring_dtype(config.evaluation.dtype, inputs.dense.model),
    )


def kept_share(inputs: Inputs) -> float:
    """Give the share of the tightest limit that may stay; half where the size is open."""
    shape, limits = inputs.shape, inputs.budget.limits
    whole = inputs.budget.used(shape, Architecture.dense(shape))
    shares = [limit.ceiling / most for limit, most in zip(limits, whole, strict=True) if most]
    share = min(shares, default=1.0)
    return share if 0 < share < 1 else 0.5


def announce(run: Run, here: SpeedsOf) -> None:
    """Tell who listens what the stages to come will do, and keep the speeds for whoever goes on with the run here."""
    run.store.end_stage(SPEEDS, 0.0, here.model_dump(mode="json"))
    done = frozenset(row.name for row in run.store.stages())
    measured = len(run.store.all_measurements())
    # Search and what follows are gone through again, with what was measured.
    kept = frozenset({"calibrate", "hidden"} & done)
    run.listener(WorkExpected(expected_work(Amounts.of(run.config, run.inputs), here.speeds, measured, kept)))


def expected_work(
    amounts: Amounts, speeds: Speeds, measured: int = 0, done: frozenset[str] = frozenset()
) -> tuple[StageWork, ...]:
    """Give the stages after loading with the work of each.

    Args:
        measured: Measurements that the run folder holds: they are the first, and cost nothing.
        done: Stages that come from the run folder.
    """
    prices = Prices(amounts, speeds)
    config = amounts.config
    stages = [StageWork("hidden", hidden_parts(prices))] if config.space.hidden else []
    stages.append(StageWork("calibrate", calibrate_parts(prices)))
    stages.append(StageWork("search", tuple(search_parts(prices))))
    if amounts.alternative is not None:
        stages.append(StageWork("uniformity", tuple(uniformity_parts(prices, *amounts.alternative))))
    stages.append(StageWork("prune", tuple(prune_parts(prices))))
    stages.append(StageWork("evaluate", evaluate_parts(prices)))
    if config.recovery.method != "none":
        stages.append(StageWork("recover", recover_parts(prices)))
    stages.append(StageWork("samples", samples_parts(prices)))
    stages.append(StageWork("explain", (Part("explain", EXPLANATION * speeds.thinking),)))
    stages.append(StageWork("export", (Part("export", FRESH_PROCESS * speeds.thinking),)))
    if config.evaluation.speed:
        stages.append(StageWork("speed", speed_parts(prices)))
    left = [stage for stage in stages if stage.stage not in done]
    return tuple(_without(left, measured))


def _without(stages: list[StageWork], measured: int) -> Iterator[StageWork]:
    """Take the first measurements out, as they were made already; the stages keep their steps."""
    for stage in stages:
        if stage.stage not in ("search", "uniformity"):
            yield stage
            continue
        parts: list[Part] = []
        for part in stage.parts:
            known = min(measured, part.steps) if part.steps else 0
            measured -= known
            if known:
                parts.append(Part(part.kind, 0.0, known))
            if part.steps > known or not part.steps:
                left = part.seconds * (part.steps - known) / part.steps if part.steps else part.seconds
                parts.append(Part(part.kind, left, part.steps - known))
        yield StageWork(stage.stage, tuple(parts))


def hidden_parts(prices: Prices) -> tuple[Part, ...]:
    """Trying a few hidden sizes: statistics on few tokens, a bank, a few candidates."""
    amounts, speeds = prices.amounts, prices.speeds
    tokens = min(amounts.config.search.reconstructed_tokens, amounts.num_tokens[Role.CALIBRATION])
    passes = tokens * prices.layers * (speeds.gather_token + speeds.backwards_token)
    banks = prices.layers * sum(speeds.bank.values())
    tried = HIDDEN_TRIED * prices.sliced(prices.tokens(Role.SELECTION)) + HIDDEN_MADE * prices.reconstructed()
    sizes = amounts.config.space.hidden_levels
    return (Part("hidden", sizes * (passes + banks + tried), sizes),)


def calibrate_parts(prices: Prices) -> tuple[Part, ...]:
    """Layers forwards, the head's gradients, layers backwards, then the banks, module by module."""
    speeds, layers = prices.speeds, prices.layers
    tokens = prices.amounts.num_tokens[Role.CALIBRATION]
    parts = [
        Part("gather", tokens * layers * speeds.gather_token, layers),
        Part("gradients", tokens * speeds.gradients_token),
        Part("backwards", tokens * layers * speeds.backwards_token, layers),
    ]
    for name, bank in (("bank", speeds.bank), ("plain bank", speeds.plain_bank)):
        if name == "bank" or prices.amounts.baselines:
            kinds = [module_of(module)[1] for module in range(2 * layers)]
            parts += [Part(f"{name} {kind}", bank[kind], 1) for kind in kinds]
    return tuple(parts)


def search_parts(prices: Prices) -> Iterator[Part]:
    """First candidates, then a fit and a batch per round; by slices, and after reconstruction."""
    amounts, config = prices.amounts, prices.amounts.config
    method, task = config.search.method, amounts.search_task
    selection = prices.tokens(Role.SELECTION)
    yield Part("dense", prices.dense(selection))
    sliced = prices.sliced(selection)
    if config.budget.max_drop is not None:
        each = prices.reconstructed() if amounts.reconstructs else sliced
        yield from _rounds(prices, "reconstructed" if amounts.reconstructs else "sliced", each, task.num_measurements)
    elif method == JI2023:
        sizes = PaperSizes().scaled(config.paper.scale)
        yield Part("sliced", (sizes.tied + sizes.free) * sliced, sizes.tied + sizes.free)
        yield Part("fit", prices.fit(sizes.tied + sizes.free))
        yield Part("sliced", sizes.measured * sliced, sizes.measured)
    elif method in ALLOCATIONS:
        yield Part("sliced", sliced, 1)
    elif method != "secateur":
        yield Part("sliced", task.num_measurements * sliced, task.num_measurements)
    elif (few := _few(amounts.space, amounts.budget, task.num_measurements)) is not None:
        made = num_to_reconstruct(task)
        if made == 0 or few > made:
            yield Part("sliced", few * sliced, few)
        if made:
            yield Part("reconstructed", min(few, made) * prices.reconstructed(), min(few, made))
    else:
        made = num_to_reconstruct(task)
        yield from _rounds(prices, "sliced", sliced, task.num_measurements - made)
        if made:
            yield from _rounds(prices, "reconstructed", prices.reconstructed(), made)


def _few(space: SearchSpace, budget: Budget, most: int) -> int | None:
    """Count a space whose architectures can all be measured; None of others."""
    count = space.count(budget) if isinstance(space, UniformSpace) else most + 1
    return count if count <= most else None


def _rounds(prices: Prices, kind: str, each: float, count: int) -> Iterator[Part]:
    task = prices.amounts.search_task
    measured = num_initial(task, count)
    yield Part(kind, measured * each, measured)
    for number in range(task.num_rounds):
        if number and measured >= count:
            return
        yield Part("fit", prices.fit(measured))
        batch = math.ceil((count - measured) / (task.num_rounds - number))
        if batch:
            yield Part(kind, batch * each, batch)
        measured += batch


def uniformity_parts(prices: Prices, space: SearchSpace, budget: Budget) -> Iterator[Part]:
    """A little of the other space: by slices, some of it proposed, then the best after reconstruction."""
    amounts = prices.amounts
    count, sliced = amounts.config.search.alternative_measurements, prices.sliced(prices.tokens(Role.SELECTION))
    few = _few(space, budget, count)
    pairs = amounts.config.search.measurements // 2
    if few is not None:
        yield Part("sliced", few * sliced, few)
    else:
        proposed = round(PROPOSED_SHARE * count)
        yield Part("sliced", (count - proposed) * sliced, count - proposed)
        yield Part("fit", prices.fit(pairs + count - proposed))
        yield Part("sliced", proposed * sliced, proposed)
    if amounts.search_task.measure_reconstructed is not None:
        yield Part("sliced", 0.0, 1)  # the choice, which was measured by slices already
        yield Part("reconstructed", BEST_OF_ALTERNATIVE * prices.reconstructed(), BEST_OF_ALTERNATIVE)
    yield Part("fit", prices.fit(pairs + count))


def prune_parts(prices: Prices) -> Iterator[Part]:
    """The finalists: cut, reconstructed on the whole calibration set, scored; then the gains of the best."""
    amounts, config = prices.amounts, prices.amounts.config
    score = prices.scored(prices.tokens(Role.SELECTION))
    if not amounts.reconstructs:
        yield Part("cut", prices.layers * prices.speeds.cut)
        return
    tokens, modules = amounts.num_tokens[Role.CALIBRATION], amounts.shape.num_modules
    one = modules * prices.module(tokens)
    if config.budget.max_drop is not None:
        each = one + prices.final_norm(tokens) + 3 * score + MOST_EVALUATIONS * prices.gains
        yield Part("made", config.drop.verifications * each, config.drop.verifications)
        return
    compared = config.search.choose == "least_disparity" or (
        config.search.choose == "auto" and bool(config.data.groups)
    )
    yield Part("dense", prices.streams(tokens) if prices.keeps_streams(tokens) else 0.0)
    for _ in range(max(config.search.finalists, 2) + 1 if compared else config.search.finalists):
        yield Part("module", one, modules)
        yield Part("scored", prices.final_norm(tokens) + score)
        if compared:
            yield Part("gains", MOST_EVALUATIONS * prices.gains, MOST_EVALUATIONS)
    if not compared:
        yield Part("gains", MOST_EVALUATIONS * prices.gains, MOST_EVALUATIONS)
    yield Part("scored", score)


def evaluate_parts(prices: Prices) -> tuple[Part, ...]:
    """The dense model, the baselines and the result on the evaluation windows."""
    tokens = prices.tokens(Role.EVALUATION)
    baselines = prices.amounts.baselines
    return (
        Part("dense", prices.dense(tokens), 1),
        *([Part("sliced", baselines * prices.sliced(tokens), baselines)] if baselines else []),
        Part("scored", prices.scored(tokens), 1),
    )


def recover_parts(prices: Prices) -> tuple[Part, ...]:
    amounts, recipe = prices.amounts, prices.recipe
    windows = amounts.recovery_tokens // amounts.config.data.sequence_length
    steps, all_steps = recipe.steps(windows), recipe.all_steps(windows)
    step_tokens = recipe.batch_windows * amounts.config.data.sequence_length
    judged = (min(recipe.judgements, steps) + 1) * prices.scored(amounts.num_tokens[Role.SELECTION])
    once = steps * prices.trained(step_tokens) + judged
    return (Part("step", once * all_steps / steps, all_steps),)


def samples_parts(prices: Prices) -> tuple[Part, ...]:
    """A few prompts continued by two or three models, each token a pass over all before it, in small batches."""
    tokens = PROMPTS * NEW_TOKENS * (PROMPT_TOKENS + NEW_TOKENS // 2)
    return (Part("samples", 2 * (2 + bool(prices.amounts.baselines)) * prices.scored(tokens)),)


def speed_parts(prices: Prices) -> tuple[Part, ...]:
    """The dense model and the result, loaded once more and timed by turns."""
    evaluation = prices.amounts.config.evaluation
    tokens = evaluation.speed_prompt_tokens + ALONE * evaluation.speed_new_tokens
    repeats = evaluation.speed_repeats
    timing = 2 * (repeats + WARM_UPS) * prices.scored(tokens)
    return (Part("speed", LOADED_TWICE * prices.speeds.thinking + timing, repeats),)
