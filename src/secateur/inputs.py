"""What a run starts from, loaded and checked before anything is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Int
from torch import Tensor

from secateur.config import RunConfig
from secateur.data import (
    Role,
    TokenSet,
    assign_documents,
    assign_group_documents,
    build_group_sets,
    build_token_sets,
    perplexity_windows,
    read_rows,
)
from secateur.drop_inputs import drop_budget, load_drop_questions, refuse_drop
from secateur.errors import BudgetError, ConfigError, ModelError
from secateur.evaluation.latency import measure_latency
from secateur.evaluation.multiple_choice import ChoiceSet, load_choices
from secateur.export.target import check_target
from secateur.given import NOTHING_GIVEN, Given, dense_of
from secateur.model.loading import DenseModel
from secateur.model.shape import BlockKind, DenseShape, module_of
from secateur.model.walk import DecoderWalk
from secateur.objective_inputs import named_objectives, refuse_objectives
from secateur.pruning.hidden import check_hidden
from secateur.pruning.orders import importance_order
from secateur.recovery.text import RecoverySet
from secateur.recovery_inputs import load_recovery_set, refuse_recovery
from secateur.schema import derive_seed
from secateur.search.ji2023 import paper_space, refuse_other_limits, refuse_paper_budget
from secateur.search.methods import ALLOCATIONS, JI2023, SEARCHES, UNIFORM
from secateur.space.cost import COSTS, Budget, Limit
from secateur.space.latency_table import LatencyTable
from secateur.space.search_space import SearchSpace, define_space
from secateur.space_inputs import (
    Alternative,
    alternative_of,
    refuse_hidden,
    refuse_target,
    searchable,
    space_of,
    width_multiple,
)

# The paper's perplexities are those of the protocol ppl-128.
PAPER_SEQUENCE_LENGTH = 128


@dataclass(frozen=True)
class PaperTargets:
    """What the paper's predictor learns besides the selection set: texts by name, and questions."""

    texts: dict[str, TokenSet]
    choices: ChoiceSet | None


@dataclass(frozen=True)
class Narrowed:
    """What a model with fewer hidden channels was made from, and which of them it has."""

    original: DenseModel
    walk: DecoderWalk
    channels: Int[Tensor, " kept"]


@dataclass(frozen=True)
class Inputs:
    """The dense model with its walk, the token sets, and where the search may go.

    `latency` is there where the budget limits it; `groups` holds a selection and an evaluation set per group of text;
    `questions` are there where accuracy may drop; `alternative` where the run says what layers alike cost; `recovery`
    where it recovers.
    """

    dense: DenseModel
    walk: DecoderWalk
    sets: dict[Role, TokenSet]
    space: SearchSpace
    budget: Budget
    fingerprints: dict[str, str]
    paper: PaperTargets | None = None
    latency: LatencyTable | None = None
    groups: dict[str, dict[Role, TokenSet]] = field(default_factory=dict)
    questions: dict[Role, ChoiceSet] = field(default_factory=dict)
    alternative: Alternative | None = None
    narrowed: Narrowed | None = None
    recovery: RecoverySet | None = None

    @property
    def original(self) -> DenseModel:
        """The model that was given; `dense` is the one that is cut, and has fewer hidden channels where they go too."""
        return self.narrowed.original if self.narrowed else self.dense

    @property
    def original_walk(self) -> DecoderWalk:
        """What quality is measured against."""
        return self.narrowed.walk if self.narrowed else self.walk

    @property
    def channels(self) -> Int[Tensor, " kept"] | None:
        """Hidden channels that `dense` has of the original's; None where all."""
        return self.narrowed.channels if self.narrowed else None

    @property
    def shape(self) -> DenseShape:
        """The dense shape, or the one in which narrowed blocks count their new bias."""
        return self.space.shape

    @property
    def summary(self) -> str:
        shape = self.dense.shape
        tokens = " + ".join(f"{token_set.num_tokens:,}" for token_set in self.sets.values())
        sizes = f"{shape.num_layers} layers, {shape.decoder_parameters:,} decoder parameters"
        timed = f", blocks timed in {self.latency.seconds:.1f} s" if self.latency else ""
        return f"{self.dense.family.model_type}, {sizes}, {tokens} tokens{timed}"


def load_inputs(
    config: RunConfig,
    latency: LatencyTable | None = None,
    advance: Callable[[], None] = lambda: None,
    scratch: Path | None = None,
    given: Given = NOTHING_GIVEN,
) -> Inputs:
    """Load model and text, define the space, and refuse what cannot work.

    What is cheap to refuse is refused first: the text's files before the model, its family before its weights.

    Args:
        latency: The table of an earlier process; blocks are timed where it is missing and the budget limits latency.
        advance: Called now and then while they are timed.
        scratch: Folder for files without a name, from which the model's weights are mapped (see `load_dense`).
        given: Model and texts that are in memory, where the configuration says so.

    Raises:
        ModelError, DataError, ConfigError, BudgetError: As their names say.
    """
    data = config.data
    refuse_objectives(config)
    refuse_drop(config)
    refuse_target(config)
    refuse_hidden(config)
    refuse_recovery(config)
    importance_order(config.pruning.importance)
    if config.search.method == JI2023:
        refuse_other_limits(config.budget)
    documents = assign_documents(
        list(data.sources),
        {
            Role.CALIBRATION: list(data.calibration),
            Role.SELECTION: list(data.selection),
            Role.EVALUATION: list(data.evaluation),
        },
        data.text_field,
        given.texts,
    )
    group_documents = assign_group_documents(data.groups, documents, data.text_field, given.texts)
    dense = dense_of(config, given, scratch)
    if config.space.hidden:
        check_hidden(dense.family)
    check_target(dense, config.export.target, output_bias=config.pruning.reconstruction == "bias")
    longest = getattr(dense.model.config, "max_position_embeddings", None)
    if longest is not None and data.sequence_length > longest:
        raise ModelError(
            f"data.sequence_length={data.sequence_length} is more than the {longest} positions that the model has; "
            f"set it to {longest} or less"
        )
    sets = build_token_sets(
        documents,
        dense.tokenizer,
        data.sequence_length,
        {
            Role.CALIBRATION: data.calibration_tokens,
            Role.SELECTION: data.selection_tokens,
            Role.EVALUATION: data.evaluation_tokens,
        },
    )
    groups = build_group_sets(
        group_documents,
        dense.tokenizer,
        data.sequence_length,
        {Role.SELECTION: data.group_tokens, Role.EVALUATION: data.evaluation_tokens},
    )
    walk = DecoderWalk(dense.model, dense.family, release=dense.release)
    if not config.budget.limits_latency:
        latency = None
    elif latency is None:
        latency = time_blocks(config, dense, walk, advance)
    space, budget = define_limits(config, dense, latency)
    fingerprints = {"model": dense.fingerprint()} | {str(role): tokens.fingerprint for role, tokens in sets.items()}
    fingerprints |= {
        f"group {group}, {role}": tokens.fingerprint for group, each in groups.items() for role, tokens in each.items()
    }
    dense.release()
    paper = load_paper_targets(config, dense) if config.search.method == JI2023 else None
    if paper is not None:
        fingerprints |= {f"target {name}": tokens.fingerprint for name, tokens in paper.texts.items()}
        if paper.choices is not None:
            fingerprints["target questions"] = paper.choices.fingerprint
    questions = load_drop_questions(config, dense)
    fingerprints |= {f"questions, {role}": choices.fingerprint for role, choices in questions.items()}
    alternative = alternative_of(config, dense, space.costs)
    recovery = None
    if config.recovery.method != "none":
        recovery = load_recovery_set(config, documents, group_documents, dense.tokenizer, given.texts)
        fingerprints["recovery"] = recovery.fingerprint
    return Inputs(
        dense,
        walk,
        sets,
        space,
        budget,
        fingerprints,
        paper,
        latency,
        groups,
        questions,
        alternative,
        recovery=recovery,
    )


def time_blocks(
    config: RunConfig, dense: DenseModel, walk: DecoderWalk, advance: Callable[[], None] = lambda: None
) -> LatencyTable:
    """Time the blocks of the search space on this device; a budget that cannot be met whatever they take is refused.

    Raises:
        BudgetError: A limit on something else than latency cannot be met.
    """
    space = space_of(config, dense, COSTS)
    known = [
        Limit.below(COSTS[n], most, config.budget.band) for n, most in config.budget.ceilings.items() if n in COSTS
    ]
    space.check_smallest(Budget(tuple(known)))
    widths: dict[BlockKind, set[int]] = {kind: set() for kind in BlockKind}
    for index, options in enumerate(space.options):
        widths[module_of(index)[1]] |= set(options)
    timing = config.latency
    return measure_latency(
        dense,
        walk,
        widths[BlockKind.ATTENTION],
        widths[BlockKind.MLP],
        timing.prompt_tokens,
        timing.batch,
        timing.repeats,
        derive_seed(config.seed, "latency"),
        advance=advance,
    )


def define_limits(
    config: RunConfig, dense: DenseModel, latency: LatencyTable | None = None
) -> tuple[SearchSpace, Budget]:
    """Define the space and the budget, and refuse a budget that the method cannot search at.

    Args:
        latency: Needed where the budget limits it.

    Raises:
        BudgetError, ConfigError: As their names say.
    """
    costs = COSTS | latency.costs if latency else COSTS
    space = space_of(config, dense, costs)
    if config.budget.max_drop is not None:
        return space, drop_budget(config, space)
    budget = Budget.from_config(dense.shape, config.budget, costs)
    if config.search.method in SEARCHES:
        space, budget = searchable(space, budget, config.seed)
    if set(named_objectives(config)) & set(COSTS):
        budget = budget_range(config, dense.shape, budget)
    refuse_method(config, space, budget)
    return space, budget


def budget_range(config: RunConfig, shape: DenseShape, budget: Budget) -> Budget:
    """Give the band for a search that weighs quality against cost: from the smallest share up to the budget.

    Raises:
        BudgetError: There is nothing between them, or something else than decoder parameters is limited.
    """
    keep = config.budget.keep
    if keep is None or not budget.is_keep:
        raise BudgetError(
            f"a cost in search.objectives needs --keep as the only limit, got {budget.options}; the range goes from "
            "search.smallest_keep up to it"
        )
    smallest = keep / 2 if config.search.smallest_keep is None else config.search.smallest_keep
    if smallest >= keep:
        raise BudgetError(f"search.smallest_keep={smallest:g} must be below the budget, --keep {keep:g}")
    floor = min(budget.floor, int(shape.decoder_parameters * smallest))
    return Budget.of_decoder_parameters(budget.ceiling, floor)


def refuse_method(config: RunConfig, space: SearchSpace, budget: Budget) -> None:
    """Refuse, before calibration, a method that cannot work at this budget or with so few measurements.

    Raises:
        BudgetError, ConfigError: As their names say.
    """
    method = config.search.method
    if method in UNIFORM:
        UNIFORM[method](space.shape, budget)
    elif method in ALLOCATIONS and not budget.is_keep:
        # Their widths are their own: what nothing but the form of the cache protects may go.
        define_space(space.shape, 2, space.shape.num_kv_heads + 1).check_smallest(budget)
    if method == JI2023:
        refuse_other_limits(config.budget)
        refuse_paper_budget(paper_space(space.shape, width_multiple(config, space.shape)), budget)
    modules = sum(len(options) > 1 for options in space.options)
    if method == "additive" and config.search.measurements <= modules:
        raise ConfigError(
            f"search.measurements={config.search.measurements} is too few for search.method=additive, which measures "
            f"each of {modules} modules by itself first; at least {modules + 1} are needed"
        )


def load_paper_targets(config: RunConfig, dense: DenseModel) -> PaperTargets:
    """Read the texts and questions that `paper` names; they serve selection, and no evaluation.

    Raises:
        DataError: A text or the folder of questions cannot be used.
    """
    paper = config.paper
    names = [Path(source).name for source in paper.perplexity]
    texts = {
        # Every data set has a test.txt.
        name if names.count(name) == 1 else f"{number}. {name}": perplexity_windows(
            read_rows(source), dense.tokenizer, PAPER_SEQUENCE_LENGTH, Role.SELECTION, paper.tokens
        )
        for number, (name, source) in enumerate(zip(names, paper.perplexity, strict=True), start=1)
    }
    if paper.multiple_choice is None:
        return PaperTargets(texts, None)
    seed, batch = derive_seed(config.seed, "questions"), config.evaluation.batch_tokens
    choices = load_choices(paper.multiple_choice, paper.shots, Role.SELECTION, paper.questions, seed, dense, batch)
    return PaperTargets(texts, choices)
