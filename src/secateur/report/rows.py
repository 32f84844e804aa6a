"""From the scores of one model on the evaluation windows to its row of the final table."""

import math
from collections.abc import Mapping, Sequence

from secateur.evaluation.divergence import WindowScores
from secateur.evaluation.perplexity import bits_per_byte, perplexity
from secateur.model.shape import DenseShape
from secateur.report.record import BudgetUse, ModelRow
from secateur.space.architecture import Architecture
from secateur.space.cost import Budget, cost_of, number, say


def mlp_title(*, whole_experts: bool) -> str:
    """Say what is counted of every MLP."""
    return "experts" if whole_experts else "FFN width"


def excess_log_perplexity_left(rows: Sequence[ModelRow]) -> dict[str, float | None]:
    """Give, per baseline, the share of its excess log-perplexity over dense that the result still has."""
    log = {row.name: math.log(row.perplexity.value) for row in rows}
    excess = {name: value - log["dense"] for name, value in log.items()}
    baselines = [name for name in excess if name.startswith("uniform")]
    return {name: excess["secateur"] / excess[name] if excess[name] > 0 else None for name in baselines}


def budget_uses(
    budget: Budget, shape: DenseShape, architecture: Architecture, original: DenseShape
) -> tuple[BudgetUse, ...]:
    """Say what an architecture uses of every limit, and what the model that was given has of it."""
    used, dense = budget.used(shape, architecture), budget.used(original, Architecture.dense(original))
    return tuple(
        BudgetUse(name=limit.cost.name, ceiling=limit.ceiling, used=amount, dense=most)
        for limit, amount, most in zip(budget.limits, used, dense, strict=True)
    )


def budget_text(uses: Sequence[BudgetUse]) -> str:
    """Write down what is used of every limit: `1,091,424 of 1,100,000 parameters (dense: 1,427,808)`."""
    return ", ".join(f"{number(use.used)} of {say(use.name, use.ceiling)} (dense: {number(use.dense)})" for use in uses)


def model_row(
    name: str,
    shape: DenseShape,
    architecture: Architecture,
    dense_parameters: int,
    scores: WindowScores,
    seconds: float,
    sequence_length: int,
    seed: int,
    confidence: float,
    group_scores: Mapping[str, WindowScores],
    dense_losses: Mapping[str, float],
    num_bytes: int | None = None,
) -> ModelRow:
    """Make a row.

    Args:
        dense_parameters: Decoder parameters of the model that was given.
        seed: Of the bootstrap; should be the same for all rows, which then resample alike.
        group_scores: On each group's windows, by name; may be empty.
        dense_losses: Mean loss of the dense model on the same windows.
        num_bytes: Of the text that is predicted in all windows; None where that is not known.
    """
    cost = cost_of(shape, architecture)
    protocol = f"packed-{sequence_length}"
    loss = float(scores.loss.double().sum()) * (sequence_length - 1)
    ratios = [float(each.loss.mean()) - dense_losses[group] for group, each in group_scores.items()]
    return ModelRow(
        name=name,
        architecture=architecture,
        cost=cost,
        parameter_reduction=1 - cost.decoder_parameters / dense_parameters,
        perplexity=perplexity(scores.loss, protocol, sequence_length, seed, confidence),
        bits_per_byte=bits_per_byte(loss, num_bytes) if num_bytes else None,
        kl=float(scores.kl.mean()),
        groups={
            group: perplexity(each.loss, protocol, sequence_length, seed, confidence)
            for group, each in group_scores.items()
        },
        disparity=max(ratios) - min(ratios) if ratios else None,
        seconds=seconds,
    )
