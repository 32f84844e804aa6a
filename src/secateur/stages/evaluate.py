"""Evaluate: dense, baselines and result on the same windows of the evaluation set, which chose nothing."""

from transformers import PreTrainedModel

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference, WindowScores
from secateur.evaluation.stitched import StitchedModel, score_model
from secateur.model.shape import DenseShape
from secateur.pruning.bank import WeightBank
from secateur.report.record import Choice, ModelRow
from secateur.report.rows import model_row
from secateur.runs.progress import stage_clock
from secateur.schema import derive_seed
from secateur.space.architecture import Architecture
from secateur.stages.calibrate import uniform_baselines
from secateur.stages.run import Run


def evaluate_stage(
    run: Run, pruned: PreTrainedModel, choice: Choice, uniform_bank: WeightBank | None
) -> tuple[ModelRow, ...]:
    """Give one row per model; the result's is the last."""
    inputs, config = run.inputs, run.config
    tokens = inputs.sets[Role.EVALUATION].expect(Role.EVALUATION)
    dense = inputs.dense
    uniform = dict(zip(("uniform", "uniform-wide"), uniform_baselines(run), strict=False))
    spent = {row.name: row.seconds for row in run.store.stages()}
    bootstrap = derive_seed(config.seed, "bootstrap")
    rows: list[ModelRow] = []
    with stage_clock("evaluate", run.listener, len(uniform) + 2) as clock:
        reference = DenseReference(inputs.walk, tokens, run.batch_windows)

        def add_row(
            name: str, shape: DenseShape, architecture: Architecture, scores: WindowScores, seconds: float
        ) -> None:
            length, confidence = tokens.sequence_length, config.evaluation.confidence
            rows.append(model_row(name, shape, architecture, scores, seconds, length, bootstrap, confidence))
            clock.advance()

        whole = score_model(dense.model, dense.family, inputs.walk, reference)
        add_row("dense", dense.shape, Architecture.dense(dense.shape), whole, 0.0)
        for name, architecture in uniform.items():
            assert uniform_bank is not None, "baselines have a bank"
            stitched = StitchedModel(inputs.walk, uniform_bank, reference, cache_bytes=0)
            add_row(name, dense.shape, architecture, stitched.score(architecture), spent["calibrate"])
        scores = score_model(pruned, dense.family, inputs.walk, reference)
        seconds = spent["calibrate"] + spent["search"] + spent["prune"]
        add_row("secateur", inputs.shape, choice.architecture, scores, seconds)
    run.store.end_stage("evaluate", clock.seconds, [row.model_dump(mode="json") for row in rows])
    return tuple(rows)
