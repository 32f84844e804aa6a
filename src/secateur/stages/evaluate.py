"""Evaluate: dense, baselines and result on the same windows of the evaluation sets, which chose nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.paired import PairedComparison, compare_paired
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.model.shape import DenseShape
from secateur.pruning.bank import WeightBank
from secateur.report.record import Choice, ModelRow
from secateur.report.rows import model_row
from secateur.runs.progress import stage_clock
from secateur.schema import derive_seed
from secateur.space.architecture import Architecture
from secateur.stages.calibrate import uniform_baselines
from secateur.stages.groups import References, group_losses, group_references
from secateur.stages.run import Run


@dataclass(frozen=True)
class EvaluationSets:
    """References on the evaluation set and on that of each group, and the dense model's loss on the latter."""

    reference: DenseReference
    groups: References
    dense_losses: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Rows of the final table, the last of them the result's, and what they were made of."""

    rows: tuple[ModelRow, ...]
    scores: tuple[WindowScores, ...]
    sets: EvaluationSets


def evaluation_sets(run: Run) -> EvaluationSets:
    tokens = run.inputs.sets[Role.EVALUATION].expect(Role.EVALUATION)
    groups = group_references(run, Role.EVALUATION)
    return EvaluationSets(
        DenseReference(run.inputs.original_walk, tokens, run.batch_windows),
        groups,
        group_losses(run, run.inputs.original.model, groups),
    )


def evaluate_stage(run: Run, pruned: PreTrainedModel, choice: Choice, uniform_bank: WeightBank | None) -> Evaluation:
    """Give one row per model, the pruned one's last."""
    dense = run.inputs.original
    uniform = dict(zip(("uniform", "uniform-wide"), uniform_baselines(run), strict=False))
    spent = {row.name: row.seconds for row in run.store.stages()}
    rows: list[ModelRow] = []
    scores: list[WindowScores] = []
    with stage_clock("evaluate", run.listener, len(uniform) + 2) as clock:
        sets = evaluation_sets(run)

        def add_row(row: ModelRow, own: WindowScores) -> None:
            rows.append(row)
            scores.append(own)
            clock.advance()

        add_row(*_evaluated(run, sets, "dense", dense.shape, Architecture.dense(dense.shape), dense.model, 0.0))
        for name, architecture in uniform.items():
            assert uniform_bank is not None, "baselines have a bank"
            add_row(*_sliced_row(run, sets, name, architecture, uniform_bank, spent["calibrate"]))
        seconds = spent["calibrate"] + spent["search"] + spent["prune"]
        add_row(*_evaluated(run, sets, "secateur", run.inputs.shape, choice.architecture, pruned, seconds))
    run.store.end_stage("evaluate", clock.seconds, [row.model_dump(mode="json") for row in rows])
    return Evaluation(tuple(rows), tuple(scores), sets)


def evaluate_recovered(run: Run, evaluation: Evaluation, recovered: PreTrainedModel, seconds: float) -> Evaluation:
    """Add the row of the recovered model, on the same windows.

    Args:
        seconds: That the recovery took.
    """
    pruned = evaluation.rows[-1]
    with stage_clock("evaluate recovered", run.listener) as clock:
        row, scores = _evaluated(
            run,
            evaluation.sets,
            "recovered",
            run.inputs.shape,
            pruned.architecture,
            recovered,
            pruned.seconds + seconds,
        )
        clock.note = f"perplexity {pruned.perplexity.value:.4f} -> {row.perplexity.value:.4f}"
    run.store.end_stage("evaluate recovered", clock.seconds, row.model_dump(mode="json"))
    return Evaluation((*evaluation.rows, row), (*evaluation.scores, scores), evaluation.sets)


def compared_rows(run: Run, evaluation: Evaluation) -> tuple[PairedComparison, ...]:
    """Compare the result, the last row, with each of the others on the evaluation windows."""
    rows, scores = evaluation.rows, evaluation.scores
    predictions = run.config.data.sequence_length - 1
    weights = torch.full((len(scores[-1].loss),), predictions)
    return tuple(
        compare_paired(
            rows[-1].name,
            row.name,
            row.perplexity.protocol,
            (scores[-1].loss - own.loss) * predictions,
            weights,
            run.config.seed,
            run.config.evaluation.confidence,
        )
        for row, own in zip(rows[:-1], scores[:-1], strict=True)
    )


def evaluated(
    run: Run,
    sets: EvaluationSets,
    name: str,
    shape: DenseShape,
    architecture: Architecture,
    model: PreTrainedModel,
    seconds: float,
) -> ModelRow:
    """Give the row of a model as it stands."""
    return _evaluated(run, sets, name, shape, architecture, model, seconds)[0]


def _evaluated(
    run: Run,
    sets: EvaluationSets,
    name: str,
    shape: DenseShape,
    architecture: Architecture,
    model: PreTrainedModel,
    seconds: float,
) -> tuple[ModelRow, WindowScores]:
    family, walk = run.inputs.dense.family, run.inputs.walk
    return _row(run, sets, name, shape, architecture, lambda each: score_model(model, family, walk, each), seconds)


def _sliced_row(
    run: Run, sets: EvaluationSets, name: str, architecture: Architecture, bank: WeightBank, seconds: float
) -> tuple[ModelRow, WindowScores]:
    """Give the row of an architecture by slices of a bank."""

    def score(reference: DenseReference) -> WindowScores:
        return StitchedModel(run.inputs.walk, bank, reference).score(architecture)

    return _row(run, sets, name, run.inputs.dense.shape, architecture, score, seconds)


def _row(
    run: Run,
    sets: EvaluationSets,
    name: str,
    shape: DenseShape,
    architecture: Architecture,
    score: Callable[[DenseReference], WindowScores],
    seconds: float,
) -> tuple[ModelRow, WindowScores]:
    config, scores = run.config, score(sets.reference)
    window_bytes = sets.reference.token_set.window_bytes
    row = model_row(
        name,
        shape,
        architecture,
        run.inputs.original.shape.decoder_parameters,
        scores,
        seconds,
        config.data.sequence_length,
        derive_seed(config.seed, "bootstrap"),
        config.evaluation.confidence,
        {group: score(reference) for group, reference in sets.groups.items()},
        sets.dense_losses,
        None if window_bytes is None else int(window_bytes.sum()),
    )
    return row, scores
