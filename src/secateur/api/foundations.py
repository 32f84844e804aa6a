"""Stages by themselves, first part: dense model, token sets, search space and weight bank, on plain objects.

    dense_model -> token_sets -> search_space -> weight_bank -> Measurer -> fit_predictor -> search_architectures
        -> cut -> reconstruct -> evaluate -> export_model

Each is the stage's own core with the defaults of a run and without its folder: the same seed and settings give a run's
own numbers.
"""

from pathlib import Path
from typing import Literal, Unpack

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.api.settings import Config, Limits, budget_layer, config_layer
from secateur.api.texts import Text, as_sources
from secateur.config import DataConfig, EvaluationConfig, PruningConfig, build_config
from secateur.data import Role, TokenSet, assign_documents, build_token_sets
from secateur.demo import decoder_path
from secateur.errors import ConfigError
from secateur.inputs import define_limits, time_blocks
from secateur.model.live import live_dense
from secateur.model.loading import DenseModel, load_dense
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank, build_bank
from secateur.pruning.calibration import calibrate
from secateur.pruning.orders import NEEDS_FISHER, importance_order
from secateur.schema import derive_seed
from secateur.space.cost import Budget
from secateur.space.search_space import SearchSpace

DATA, EVALUATION, PRUNING = DataConfig(), EvaluationConfig(), PruningConfig()
# What a model in memory does not come with.
NO_TOKENIZER = "a model in memory comes without its tokenizer; give both, model and tokenizer"


def dense_model(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    experts: Literal["widths", "whole"] = "widths",
) -> DenseModel:
    """Make what every other stage takes of a model in memory, a folder, a hub id or `"demo"`.

    >>> import secateur
    >>> dense = secateur.dense_model("demo")
    >>> dense.shape.num_layers, dense.shape.decoder_parameters
    (12, 1329408)

    Args:
        model: In memory it stays as it is, and is given with its tokenizer.
        device: Of a model by name: `auto`, `cpu` or `cuda`.
        dtype: To compute in; `auto` is float32 on a CPU and as stored on a GPU.
        experts: Of a mixture: whether channels of all experts are cut, or whole experts.

    Raises:
        ModelError: It cannot be loaded, or its family is not known.
        ConfigError: A model in memory comes without its tokenizer.
    """
    if isinstance(model, str | Path):
        name = str(decoder_path()) if str(model) == "demo" else str(model)
        return load_dense(name, device, dtype, experts=experts)
    if tokenizer is None:
        raise ConfigError(NO_TOKENIZER)
    return live_dense(model, tokenizer, dtype, experts=experts)


def token_sets(
    dense: DenseModel,
    data: Text,
    *,
    sequence_length: int = DATA.sequence_length,
    calibration_tokens: int = DATA.calibration_tokens,
    selection_tokens: int = DATA.selection_tokens,
    evaluation_tokens: int = DATA.evaluation_tokens,
    text_field: str = DATA.text_field,
) -> dict[Role, TokenSet]:
    """Split text by document into a calibration, a selection and an evaluation set, and cut each into windows.

    >>> import secateur
    >>> dense = secateur.dense_model("demo")
    >>> sets = secateur.token_sets(dense, "demo", sequence_length=64, selection_tokens=1024)
    >>> sets[secateur.Role.SELECTION].tokens.shape
    torch.Size([16, 64])

    Args:
        data: As `secateur.prune` takes it.
        sequence_length: Tokens per window.
        calibration_tokens, selection_tokens, evaluation_tokens: At most.

    Raises:
        DataError: The text cannot be read, or is too short for a set.
    """
    sources = as_sources(data, text_field)
    documents = assign_documents(list(sources.names), {}, text_field, sources.texts)
    wanted = {
        Role.CALIBRATION: calibration_tokens,
        Role.SELECTION: selection_tokens,
        Role.EVALUATION: evaluation_tokens,
    }
    return build_token_sets(documents, dense.tokenizer, sequence_length, wanted)


def search_space(
    dense: DenseModel, *, config: Config | None = None, **limits: Unpack[Limits]
) -> tuple[SearchSpace, Budget]:
    """Give the widths that every module may take, and the budget.

    >>> import secateur
    >>> dense = secateur.dense_model("demo")
    >>> space, budget = secateur.search_space(dense, keep=0.8, config={"space": {"ffn_levels": 5}})
    >>> space.options[:2]  # KV heads of the first attention, channels of the first MLP
    ((0, 1, 2, 3, 4), (0, 64, 128, 192, 256))

    Args:
        config: Settings, of which `space`, `budget`, `export.target`, `latency` and `pruning.reconstruction` are read.
        limits: As `secateur.prune` takes them: `keep=0.8`, `max_params="1.2M"`, ... Blocks are timed where
            `max_latency_ms` limits them.

    Raises:
        BudgetError, ConfigError: No architecture meets the budget, or too few do to learn from.
    """
    settings = build_config([config_layer(config), {"budget": budget_layer(limits)}])
    latency = None
    if settings.budget.limits_latency:
        latency = time_blocks(settings, dense, walk_of(dense))
    return define_limits(settings, dense, latency)


def weight_bank(
    dense: DenseModel,
    calibration: TokenSet,
    space: SearchSpace,
    *,
    importance: str = PRUNING.importance,
    reconstruction: str = "least_squares",
    ridge: float = PRUNING.ridge,
    batch_tokens: int = EVALUATION.batch_tokens,
    seed: int = 0,
    folder: Path | None = None,
) -> WeightBank:
    """Calibrate, put every module's groups in order of importance, and refit its output for every width of the space.

    Any architecture of the space is then a choice of slices: measuring one copies nothing.

    Args:
        calibration: The calibration set; another role is refused.
        importance: What goes first inside a module: a name of `pruning.importance`.
        reconstruction: How what stays makes up for it: `least_squares`, `bias` or `none`.
        ridge: Damping of the Gram matrices, as a share of their mean diagonal.
        batch_tokens: Tokens per pass.
        folder: Where the bank is written, to be mapped from there; in memory if not given.

    Raises:
        ConfigError: Importance or reconstruction is unknown.
    """
    importance_order(importance)  # refused before the calibration, which takes long
    statistics = calibrate(
        dense,
        calibration.expect(Role.CALIBRATION),
        batch_tokens,
        derive_seed(seed, "calibrate"),
        fisher=importance in NEEDS_FISHER,
    )
    widths = [set(options) for options in space.options]
    return build_bank(
        dense, statistics, widths, importance, reconstruction, ridge, derive_seed(seed, "bank"), folder=folder
    )


def walk_of(dense: DenseModel) -> DecoderWalk:
    """Give a walk through the dense model."""
    return DecoderWalk(dense.model, dense.family, release=dense.release)
