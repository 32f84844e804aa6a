"""Groups of text: what the dense model loses on each, what a candidate loses, and what the search is to make of it."""

from collections.abc import Mapping

from transformers import PreTrainedModel

from secateur.data import Role
from secateur.evaluation.divergence import DenseReference
from secateur.evaluation.measure import Target
from secateur.evaluation.stitched import score_model
from secateur.objective_inputs import named_objectives
from secateur.pruning.bank import WeightBank
from secateur.search.objectives import Objectives, loss_target
from secateur.stages.run import Run

References = Mapping[str, DenseReference]


def group_references(run: Run, role: Role) -> dict[str, DenseReference]:
    """Give a reference per group, on its windows of a role."""
    return {
        name: DenseReference(
            run.inputs.original_walk, sets[role].expect(role), run.batch_windows, run.config.evaluation.top_k
        )
        for name, sets in run.inputs.groups.items()
    }


def group_losses(run: Run, model: PreTrainedModel, references: References) -> dict[str, float]:
    """Give a model's mean next-token loss per group, nats per token."""
    family, walk = run.inputs.dense.family, run.inputs.walk
    return {name: float(score_model(model, family, walk, each).loss.mean()) for name, each in references.items()}


def group_targets(run: Run, bank: WeightBank, references: References) -> dict[str, Target]:
    """Give what measures candidates' losses per group, by slices of the bank."""

    def loss_of(reference: DenseReference) -> Target:
        stitched = run.stitched(bank, reference, 1 + len(references))
        return lambda architectures: [float(scores.loss.mean()) for scores in stitched.scores(architectures)]

    return {loss_target(name): loss_of(reference) for name, reference in references.items()}


def wanted_objectives(run: Run, references: References) -> Objectives:
    """Give the run's objectives, with the dense model's loss per group."""
    search = run.config.search
    names = named_objectives(run.config)
    choose = search.choose
    if choose == "auto":
        choose = "best_quality" if len(names) == 1 else "least_disparity" if references else "knee"
    return Objectives(names, group_losses(run, run.inputs.original.model, references), choose, search.within)
