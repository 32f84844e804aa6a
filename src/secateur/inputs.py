"""What a run starts from, loaded and checked before anything is written."""

from dataclasses import dataclass

from secateur.config import RunConfig, build_config, differing_fields, read_yaml
from secateur.data import Role, TokenSet, assign_documents, build_token_sets
from secateur.demo import decoder_path
from secateur.errors import BudgetError, ModelError, RunFolderError
from secateur.model.loading import DenseModel, load_dense
from secateur.model.walk import DecoderWalk
from secateur.pruning.orders import importance_order
from secateur.runs.folder import RunFolder
from secateur.schema import derive_seed
from secateur.search.rounds import FEWEST_PAIRS
from secateur.space.cost import Budget
from secateur.space.sampling import sample_architectures
from secateur.space.search_space import SearchSpace, define_space


@dataclass(frozen=True)
class Inputs:
    """The dense model with its walk, the token sets, and where the search may go."""

    dense: DenseModel
    walk: DecoderWalk
    sets: dict[Role, TokenSet]
    space: SearchSpace
    budget: Budget
    fingerprints: dict[str, str]

    @property
    def summary(self) -> str:
        shape = self.dense.shape
        tokens = " + ".join(f"{token_set.num_tokens:,}" for token_set in self.sets.values())
        sizes = f"{shape.num_layers} layers, {shape.decoder_parameters:,} decoder parameters"
        return f"{self.dense.family.model_type}, {sizes}, {tokens} tokens"


def check_folder(folder: RunFolder, config: RunConfig) -> None:
    """Refuse a folder that is a file, holds something else, or belongs to another run."""
    if folder.root.exists() and not folder.root.is_dir():
        raise RunFolderError(f"{folder.root} is a file; --out needs a folder")
    if folder.holds_a_run:
        differing = differing_fields(build_config([read_yaml(folder.config)]), config)
        if differing:
            raise RunFolderError(
                f"{folder.root} belongs to another run: {'; '.join(differing)}; choose another --out folder, or go on "
                f"with that run by `secateur resume {folder.root}`"
            )
    elif folder.root.is_dir() and any(not path.name.startswith(".") for path in folder.root.iterdir()):
        raise RunFolderError(f"{folder.root} is not empty and holds no run; choose another --out folder")


def refuse_too_few(space: SearchSpace, budget: Budget, seed: int) -> None:
    """Refuse a band that holds fewer architectures than a predictor can learn from."""
    found = len(sample_architectures(space, budget, FEWEST_PAIRS, derive_seed(seed, "count")))
    if found < FEWEST_PAIRS:
        raise BudgetError(
            f"only {found} architectures of the search space are inside the budget band, at least {FEWEST_PAIRS} are "
            "needed to learn from; lower --keep, widen the band (budget.band) or the space (space.ffn_levels, "
            "space.protect_first, space.protect_last)"
        )


def load_inputs(config: RunConfig) -> Inputs:
    """Load model and text, define the space, and refuse what cannot work.

    What is cheap to refuse is refused first: the text's files before the model, its family before its weights.

    Raises:
        ModelError, DataError, ConfigError, BudgetError: As their names say.
    """
    name = str(decoder_path()) if config.model.name == "demo" else config.model.name
    model, data, limits = config.model, config.data, config.space
    importance_order(config.pruning.importance)
    documents = assign_documents(
        list(data.sources),
        {
            Role.CALIBRATION: list(data.calibration),
            Role.SELECTION: list(data.selection),
            Role.EVALUATION: list(data.evaluation),
        },
        data.text_field,
    )
    dense = load_dense(name, model.device, model.dtype, model.revision, model.trust_remote_code)
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
    space = define_space(
        dense.shape,
        limits.ffn_levels,
        limits.kv_levels,
        limits.ffn_multiple,
        limits.protect_first,
        limits.protect_last,
    )
    budget = Budget.from_keep(dense.shape, config.budget.keep, config.budget.band)
    space.check(budget)
    refuse_too_few(space, budget, config.seed)
    fingerprints = {"model": dense.fingerprint()} | {str(role): tokens.fingerprint for role, tokens in sets.items()}
    return Inputs(dense, DecoderWalk(dense.model, dense.family), sets, space, budget, fingerprints)
