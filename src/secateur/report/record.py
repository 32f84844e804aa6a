"""`report.json`: everything in the final table, the chosen architecture, and what is needed to do it again."""

import json
import math

from pydantic import Field

from secateur.evaluation.paired import PairedComparison
from secateur.evaluation.perplexity import Perplexity
from secateur.evaluation.speed import SpeedComparison
from secateur.recovery.recover import RecoveryRecord
from secateur.schema import Record
from secateur.search.ji2023 import PaperRecord
from secateur.search.task import RoundRecord
from secateur.search.verification import Verification
from secateur.space.architecture import Architecture
from secateur.space.cost import Cost
from secateur.space.latency_table import LatencyTable


class ModelRow(Record):
    """One row of the final table; all rows are evaluated on the same windows."""

    name: str = Field(description="dense, uniform, uniform-wide, secateur (pruned) or recovered")
    architecture: Architecture = Field(description="what is kept per dense layer")
    cost: Cost = Field(description="parameters, FLOPs per token, KV-cache bytes per token")
    parameter_reduction: float = Field(description="1 - decoder parameters / dense decoder parameters")
    perplexity: Perplexity = Field(description="on the evaluation set, with a bootstrap interval")
    bits_per_byte: float | None = Field(
        None, description="on the same windows, of the UTF-8 text that is predicted; null where it cannot be told"
    )
    kl: float = Field(description="KL(dense || model) on the evaluation set, nats per token")
    groups: dict[str, Perplexity] = Field(default_factory=dict, description="per group, on its evaluation windows")
    disparity: float | None = Field(
        None, description="spread over groups of log(perplexity / dense perplexity), nats; null without groups"
    )
    seconds: float = Field(description="wall time spent to get this row")


class BudgetUse(Record):
    """One limit of the budget."""

    name: str = Field(description="of the cost: decoder_parameters, total_parameters, flops_per_token, ...")
    ceiling: int | float
    used: int | float = Field(description="by the result; a latency is the sum of its blocks in the table")
    dense: int | float = Field(description="what the dense model has")


class MadePoint(Record):
    """A point of the front with its objectives after all that the result has had, on the selection sets."""

    architecture: Architecture
    objectives: dict[str, float]


class Choice(Record):
    """The chosen architecture on the selection set."""

    architecture: Architecture
    origin: str = Field(
        description="which proposal it came from: uniform, additive, global_threshold, neighbour, sampled, predicted, "
        "explored, offspring, enumerated or allocated"
    )
    kl: float = Field(description="as measured in the search, nats per token")
    kl_after_sequential: float | None = Field(
        description="after sequential reconstruction; null if it was not run, or no finalist gained by it"
    )
    kl_after_gains: float | None = Field(
        None, description="after a gain per module was matched; null if there was none to match or none helped"
    )
    num_finalists: int = Field(description="architectures that were cut out and compared on the selection set")
    made: tuple[MadePoint, ...] = Field(
        (),
        description="points of the front that were made as the result is, of runs that weigh disparity against quality",
    )


class Traded(Record):
    """What the choice gave up for less disparity, on the selection windows of the groups."""

    best_quality_disparity: float = Field(description="of the point with the least mean perplexity, nats")
    disparity: float = Field(description="of the chosen point, nats")
    mean_perplexity_ratio: float = Field(description="chosen over best, geometric mean over groups")


class Winner(Record):
    """The best of one space at the budget, on the selection set; KL in nats per token."""

    architecture: Architecture
    decoder_parameters: int
    predicted: float = Field(description="KL by slices, of a predictor that has seen neither winner")
    sliced: float | None = Field(description="KL by slices of the bank; null where only that failed")
    kl: float = Field(description="as the search measures last: after sequential reconstruction, where it does that")
    num_measurements: int = Field(description="among which it is the best: by slices, and in the searched space in all")


class Uniformity(Record):
    """What layers alike cost at the run's budget; the space that was not asked for got fewer measurements."""

    uniform: Winner
    per_layer: Winner
    kendall_tau: float = Field(description="of the predictor over both spaces, cross-validated")

    @property
    def cost(self) -> float:
        """Nats per token that layers alike cost; below 0 where they did better."""
        return self.uniform.kl - self.per_layer.kl


class HiddenRecord(Record):
    """What hidden sizes promised at the budget, and which was taken."""

    chosen: int
    dense: int
    kl: dict[int, float] = Field(
        description="by hidden size: least KL on the selection set of a few architectures that need no search"
    )


class DropRecord(Record):
    """What `--max-drop` allowed and what was lost, in its unit: a share of perplexity or accuracy, or nats of KL."""

    metric: str
    limit: float
    minimized: str = Field(description="the cost that was made small")
    share: float = Field(description="of it that is left in the decoder layers")
    selection: float = Field(description="drop on the selection windows or questions")
    selection_bound: float = Field(description="what it was held to: as many others as the evaluation's stay below it")
    evaluation: float = Field(description="drop on the evaluation windows or questions")
    held: bool = Field(description="on the evaluation windows or questions")
    verifications: tuple[Verification, ...] = Field(description="in order; `searched` and `bound` are upper bounds")


class Begun(Record):
    """What a run began with, for a report on one that has not ended."""

    secateur: str = Field(description="version")
    versions: dict[str, str] = Field(description="of Python, torch, transformers and LightGBM")
    dense: Architecture = Field(description="of the model that is cut")
    decoder_parameters: int = Field(description="of the model that was given")
    whole_experts: bool = Field(description="`ffn_width` of architectures counts experts, not channels")


class ReconstructionErrors(Record):
    """What the weight bank knows of every module, without its tensors."""

    by_width: tuple[dict[int, float], ...] = Field(
        description="per module in module order: reconstruction error by kept width, nats per token"
    )


class Explanation(Record):
    """What each module adds to what the last predictor says: Shapley values, in log units of the quantity.

    A module that is absent is at the width of another measured architecture; so a positive value is harm beside those.
    """

    quantity: str = Field(description="what is predicted, with its unit")
    num_explained: int = Field(description="measured architectures, from best to worst, that the mean is over")
    mean_absolute: tuple[float, ...] = Field(description="per module, mean over those of the absolute contribution")
    chosen: tuple[float, ...] = Field(description="per module, contribution to the chosen architecture's prediction")
    base: float = Field(description="what is predicted of the measured architectures: their geometric mean")
    predicted: float = Field(description="of the chosen architecture")


class Sample(Record):
    """How models go on from one prompt, greedily."""

    prompt: str = Field(description="the start of an evaluation window, which chose nothing")
    continuations: dict[str, str] = Field(description="by row of the final table")


class ExportRecord(Record):
    """What the exported folder is, as seen by a fresh process that loaded it."""

    folder: str
    dtype: str
    class_name: str
    remote_code: bool = Field(description="loading runs the modelling file in the folder")
    loading_line: str
    num_parameters: int
    bytes: int
    max_logit_difference: float | None = Field(
        description="between the fresh process and the model that was evaluated; of GGUF where llama.cpp is installed"
    )
    reader: str = Field("transformers", description="what the fresh process loaded it with")
    added_parameters: int = Field(0, description="zeros that fill layers up, among num_parameters")

    @property
    def logits(self) -> str:
        """Say how near the logits came, where they could be computed."""
        if self.max_logit_difference is None:
            return f"tensors read back with {self.reader}; install llama-cpp-python to have it run as well"
        return f"logits within {self.max_logit_difference:.0e}"


class Report(Record):
    """The outcome of one run."""

    secateur: str = Field(description="version")
    versions: dict[str, str] = Field(description="of Python, torch, transformers and LightGBM")
    model: str
    seed: int
    keep: float | None = Field(description="share of decoder parameters that was allowed to stay; null if not limited")
    budget: tuple[BudgetUse, ...] = Field((), description="what was limited, and what the result uses of it")
    method: str = Field(description="`search.method`")
    fingerprints: dict[str, str] = Field(description="of the model's weights and of each token set")
    num_tokens: dict[str, int] = Field(description="per token set")
    num_measurements: int
    rows: tuple[ModelRow, ...]
    excess_log_perplexity_left: dict[str, float | None] = Field(
        description="per baseline row: (log ppl - log dense ppl) of secateur over that of the baseline; null where the "
        "baseline is no worse than dense"
    )
    choice: Choice
    traded: Traded | None = Field(
        None, description="of runs with groups: of models made as the result is, else as the search measured"
    )
    uniformity: Uniformity | None = Field(None, description="what layers alike cost; null where it was not asked")
    hidden: HiddenRecord | None = Field(None, description="of runs with space.hidden")
    drop: DropRecord | None = Field(None, description="of runs with `--max-drop`")
    explanation: Explanation | None = Field(None, description="of the last predictor; null for methods without one")
    samples: tuple[Sample, ...] = Field((), description="generated text side by side")
    rounds: tuple[RoundRecord, ...] = Field(description="of Secateur's own method; empty for others")
    paper: PaperRecord | None = Field(description="of `ji2023`; null for other methods")
    recovery: RecoveryRecord | None = Field(None, description="how the result was trained; null if it was not")
    comparisons: tuple[PairedComparison, ...] = Field(
        (), description="of the result against dense and each baseline, on the evaluation windows"
    )
    speed: SpeedComparison | None = Field(None, description="dense and result beside each other; null if not measured")
    latency: LatencyTable | None = Field(None, description="what blocks take on the run's device; null if not limited")
    stages: dict[str, float] = Field(description="seconds per stage, interruptions not counted")
    export: ExportRecord
    whole_experts: bool = Field(False, description="`ffn_width` of architectures counts experts, not channels")

    def row(self, name: str) -> ModelRow:
        return next(row for row in self.rows if row.name == name)

    @property
    def result(self) -> ModelRow:
        """Give the row of what was exported: the recovered model where there was a recovery, else the pruned one."""
        return self.rows[-1]

    @property
    def recovered_share(self) -> float | None:
        """Give the share of the pruned model's excess log-perplexity that the recovery took away, on evaluation text.

        None without a recovery, or where the pruned model was no worse than dense.
        """
        if self.recovery is None:
            return None
        dense, pruned, recovered = (
            math.log(self.row(name).perplexity.value) for name in ("dense", "secateur", "recovered")
        )
        return (pruned - recovered) / (pruned - dense) if pruned > dense else None


def report_schema() -> str:
    """Give the JSON schema of `report.json`, as `docs/report.schema.json` holds it."""
    return json.dumps(Report.model_json_schema(), indent=1, sort_keys=True) + "\n"
