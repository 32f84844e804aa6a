"""The pipeline of "Pruning Large Language Models via Accuracy Predictor", as published.

    tied and free architectures -> measure -> multi-output trees -> shrink -> 10,000 random, predicted -> 18 measured

`docs/ji2023.md` lists where this departs from the paper, and why.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from pydantic import Field

from secateur.budget import BudgetConfig
from secateur.errors import BudgetError, SecateurError
from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.predictor.multi_output import MultiOutputTrees, PaperQuality, fit_multi_output
from secateur.predictor.quality import rank_correlation
from secateur.schema import Record, derive_seed
from secateur.search.task import Found, SearchTask
from secateur.space.architecture import Architecture
from secateur.space.candidate import Candidate, Measurement
from secateur.space.cost import WORDS, Budget
from secateur.space.search_space import Levels, SearchSpace

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5)
# After shrinking: what the predictor leans on most is pruned least.
IMPORTANT_RATIOS = (0.1, 0.2, 0.3)
UNIMPORTANT_RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# Layers 3 to 29 of 32 are pruned.
PROTECTED_FIRST, PROTECTED_LAST, OF_LAYERS = 3, 2, 32
TIED_LAYERS = 4
# Pairs below which a 7:3 split leaves too little to fit or to judge.
FEWEST_PAIRS = 20


class PaperRecord(Record):
    """What the paper's pipeline reports of itself."""

    quality: PaperQuality
    targets: tuple[str, ...]
    ratios: tuple[tuple[float, ...], ...] = Field(description="per module, allowed pruning ratios after shrinking")
    importance: tuple[float, ...] = Field(description="per module, share of the trees' gain")
    kendall_tau_finalists: float = Field(description="of predictions with measurements, among the last ones measured")


@dataclass(frozen=True)
class PaperSizes:
    """How much the paper measures: 400 tied and 125 free architectures, 18 of 10,000 predicted."""

    tied: int = 400
    free: int = 125
    predicted: int = 10_000
    measured: int = 18

    def scaled(self, scale: float) -> "PaperSizes":
        """Scale the training pairs, tied and free alike."""
        return PaperSizes(round(self.tied * scale), round(self.free * scale), self.predicted, self.measured)


def paper_space(shape: DenseShape, step: int) -> SearchSpace:
    """Give the widths that the paper's ratios round to, and between them those that meet a budget.

    Args:
        step: Of the FFN widths between.
    """
    named = {_width(shape, BlockKind.MLP, ratio) for ratio in (*RATIOS, *UNIMPORTANT_RATIOS)}
    ffn = tuple(sorted(named | set(range(step, shape.ffn_width, step)) | {shape.ffn_width}))
    heads = tuple(range(1, shape.num_kv_heads + 1))
    return SearchSpace(shape=shape, options=(heads, ffn) * shape.num_layers)


def refuse_other_limits(budget: BudgetConfig) -> None:
    """Refuse limits that the paper's pipeline does not know.

    Raises:
        BudgetError: Something else than `keep` is limited.
    """
    if budget.ceilings:
        raise BudgetError(
            "search.method=ji2023 meets a share of the decoder parameters alone, as the paper's pipeline does; give "
            f"--keep only, not {' or '.join(WORDS[name].option for name in budget.ceilings)}, or choose another method"
        )


def refuse_paper_budget(space: SearchSpace, budget: Budget) -> None:
    """Refuse a budget that no trimmed vector of ratios can meet.

    Raises:
        BudgetError: Even with the narrowest blocks in all layers that the paper prunes there is too much left.
    """
    pruned = set(pruned_modules(space.shape))
    least = sum(costs[0] if module in pruned else costs[-1] for module, costs in enumerate(space.parameters))
    most = space.shape.decoder_parameters
    if not least <= budget.ceiling <= most:
        raise BudgetError(
            f"search.method=ji2023 reaches {least:,} to {most:,} decoder parameters, {budget.ceiling:,} were asked "
            "for; choose another --keep"
        )


def paper_search(
    task: SearchTask, sizes: PaperSizes, end_paper: Callable[[PaperRecord], None] = lambda _record: None
) -> Found:
    """Run the paper's pipeline; the best of the architectures measured last is taken.

    Raises:
        BudgetError: No random vector of the shrunk space can be trimmed to the budget.
        SecateurError: Too few pairs, or too many failed, to fit the predictor.
    """
    shape = task.space.shape
    rng = np.random.default_rng(derive_seed(task.seed, "paper"))
    widest = dict.fromkeys(pruned_modules(shape), RATIOS)
    drawn = np.vstack([tied_ratios(shape, sizes.tied, rng), free_ratios(widest, shape, sizes.free, rng)])
    pairs = dict.fromkeys(tuple(row) for row in widths_of(shape, drawn).tolist())
    # On a shallow model few tied architectures differ; free ones make up the number.
    spare = widths_of(shape, free_ratios(widest, shape, 10 * len(drawn), rng)).tolist()
    for row in map(tuple, spare):
        if len(pairs) < len(drawn):
            pairs.setdefault(row)
    probes = task.measure([_candidate(task, widths, "paper") for widths in pairs])
    good = [probe for probe in probes if probe.targets]
    if len(good) < FEWEST_PAIRS:
        raise SecateurError(
            f"only {len(good)} of {len(probes)} training pairs were measured, at least {FEWEST_PAIRS} are needed for a "
            "7:3 split; raise paper.scale"
        )
    trees, quality = _fit(task, good)
    ratios = shrink(shape, trees.importance())
    space = {module: ratios[module] for module in pruned_modules(shape)}
    random = widths_of(shape, free_ratios(space, shape, sizes.predicted, rng))
    trimmed = [widths for row in random.tolist() if (widths := trim(task, row)) is not None]
    if not trimmed:
        raise BudgetError(
            f"none of {sizes.predicted:,} random vectors of the paper's ratios can be trimmed to the budget of "
            f"{task.budget.ceiling:,} decoder parameters; choose --keep between 0.5 and 0.9"
        )
    distinct = np.array(list(dict.fromkeys(trimmed)))
    score = badness(trees, trees.predict(features(shape, distinct)))
    order = np.argsort(score, kind="stable")[: sizes.measured]
    measured = task.measure([_candidate(task, tuple(distinct[index].tolist()), "predicted", 1) for index in order])
    finalists = sorted(
        (m for m in measured if m.targets), key=lambda m: (_measured_badness(trees, m), m.architecture.key)
    )
    by_key = dict(zip((m.architecture.key for m in measured), score[order].tolist(), strict=True))
    end_paper(
        PaperRecord(
            quality=quality,
            targets=trees.targets,
            ratios=tuple(ratios),
            importance=tuple(trees.importance().tolist()),
            kendall_tau_finalists=rank_correlation(
                np.array([by_key[m.architecture.key] for m in finalists]),
                np.array([_measured_badness(trees, m) for m in finalists]),
            ),
        )
    )
    return Found(measured, finalists, probes=probes)


def pruned_modules(shape: DenseShape) -> list[int]:
    """Give the modules that the paper prunes: 27 of 32 layers, other depths the same share, rounded."""
    first, last = (round(shape.num_layers * count / OF_LAYERS) for count in (PROTECTED_FIRST, PROTECTED_LAST))
    return list(range(2 * first, 2 * (shape.num_layers - last)))


def tied_ratios(shape: DenseShape, count: int, rng: np.random.Generator) -> Float[np.ndarray, "count modules"]:
    """Draw pruning ratios of which four adjacent layers share one for attention and one for the MLP."""
    ratios = np.zeros((count, shape.num_modules))
    modules = pruned_modules(shape)
    for start in range(0, len(modules), 2 * TIED_LAYERS):
        tied = modules[start : start + 2 * TIED_LAYERS]
        ratios[:, tied] = np.tile(rng.choice(RATIOS, size=(count, 2)), (1, len(tied) // 2))
    return ratios


def free_ratios(
    allowed: Mapping[int, Sequence[float]], shape: DenseShape, count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count modules"]:
    """Draw pruning ratios, each module by itself, from what it is allowed; other modules stay dense."""
    ratios = np.zeros((count, shape.num_modules))
    for module, levels in allowed.items():
        ratios[:, module] = rng.choice(levels, size=count)
    return ratios


def widths_of(shape: DenseShape, ratios: Float[np.ndarray, "count modules"]) -> Int[np.ndarray, "count modules"]:
    """Round pruning ratios to widths as LLM-Pruner does: heads removed and channels kept are rounded down."""
    widths = np.zeros(ratios.shape, dtype=np.int64)
    for module in range(shape.num_modules):
        kind = module_of(module)[1]
        widths[:, module] = [_width(shape, kind, ratio) for ratio in ratios[:, module].tolist()]
    return widths


def _width(shape: DenseShape, kind: BlockKind, ratio: float) -> int:
    if kind is BlockKind.MLP:
        return int(shape.ffn_width * (1 - ratio) + 1e-9)
    return shape.num_kv_heads - int(shape.num_kv_heads * ratio + 1e-9)


def features(shape: DenseShape, widths: Int[np.ndarray, "count modules"]) -> Float[np.ndarray, "count modules"]:
    """Give the effective pruning ratio of every module: what rounding left of the one that was drawn."""
    groups = np.array([shape.block(module_of(module)[1]).num_groups for module in range(shape.num_modules)])
    return 1 - widths / groups


def shrink(shape: DenseShape, importance: Float[np.ndarray, " modules"]) -> list[tuple[float, ...]]:
    """Allow small ratios only where the predictor leans most, and large ones where it leans least.

    Modules are ranked by their share of the trees' gain: the upper third may lose 0.1 to 0.3, the lower third 0.2 to
    0.7, the rest 0.1 to 0.5.

    Source:
        arXiv 2309.09507, section 3.3, where authors read the importances and drew the borders by hand.
    """
    modules = pruned_modules(shape)
    third = len(modules) // 3
    ranked = sorted(modules, key=lambda module: (-importance[module], module))
    ratios: list[tuple[float, ...]] = [(0.0,)] * shape.num_modules
    for position, module in enumerate(ranked):
        upper, lower = position < third, position >= len(ranked) - third
        ratios[module] = IMPORTANT_RATIOS if upper else UNIMPORTANT_RATIOS if lower else RATIOS
    return ratios


def trim(task: SearchTask, widths: Sequence[int]) -> tuple[int, ...] | None:
    """Move all pruned FFNs by the same number of steps, as wide as the budget allows, then single ones a step more.

    Returns:
        Widths inside the budget band, or None where FFNs would have to leave their range.
    """
    space, budget = task.space, task.budget
    drawn = _levels(task, widths)
    ffns = [module for module in pruned_modules(space.shape) if module_of(module)[1] is BlockKind.MLP]

    def moved(steps: int) -> list[int]:
        levels = list(drawn)
        for module in ffns:
            levels[module] = min(max(drawn[module] + steps, 0), len(space.options[module]) - 1)
        return levels

    def is_above(steps: int) -> bool:
        return space.decoder_parameters(tuple(moved(steps))) > budget.ceiling

    furthest = max(map(len, space.options))
    levels = moved(bisect_left(range(-furthest, furthest + 1), True, key=is_above) - furthest - 1)
    left = budget.ceiling - space.decoder_parameters(tuple(levels))
    for module in ffns:
        costs = space.parameters[module]
        if levels[module] + 1 < len(costs) and (step := costs[levels[module] + 1] - costs[levels[module]]) <= left:
            levels[module] += 1
            left -= step
    inside = budget.admits(budget.ceiling - left)
    return space.architecture(tuple(levels)).widths if inside else None


def badness(
    trees: MultiOutputTrees, scores: Float[np.ndarray, "candidates targets"]
) -> Float[np.ndarray, " candidates"]:
    """Join z-scores into one number, lower is better: perplexities count for, accuracies against."""
    signs = np.array([-1.0 if target.startswith("accuracy") else 1.0 for target in trees.targets])
    return (scores * signs).mean(1)


def _measured_badness(trees: MultiOutputTrees, measurement: Measurement) -> float:
    values = np.array([[measurement.targets[target] for target in trees.targets]])
    return float(badness(trees, trees.standardise(values))[0])


def _fit(task: SearchTask, probes: Sequence[Measurement]) -> tuple[MultiOutputTrees, PaperQuality]:
    shape = task.space.shape
    widths = np.array([probe.architecture.widths for probe in probes])
    values = {name: np.array([probe.targets[name] for probe in probes]) for name in probes[0].targets}
    kept = np.array([_parameters(task, probe.architecture.widths) for probe in probes])
    reduction = 1 - kept / shape.decoder_parameters
    return fit_multi_output(features(shape, widths), values, reduction, derive_seed(task.seed, "split"))


def _levels(task: SearchTask, widths: Sequence[int]) -> Levels:
    return task.space.levels(Architecture.from_widths(tuple(widths)))


def _parameters(task: SearchTask, widths: Sequence[int]) -> int:
    return task.space.decoder_parameters(_levels(task, widths))


def _candidate(task: SearchTask, widths: Sequence[int], origin: str, round_number: int = 0) -> Candidate:
    return task.candidate(_levels(task, widths), origin, round_number)
