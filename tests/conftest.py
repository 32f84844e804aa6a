"""Tiny decoders built from transformers' config classes, one per family, with random weights. No network, ever."""

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

# Libraries read these when they are imported; the second keeps exported modelling files out of the user's cache.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="secateur-test-modules-")
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# No remarks of torchao on kernels that it does not find, nor of torch on torchao's enums.
os.environ["TORCHAO_FORCE_SKIP_LOADING_SO_FILES"] = "1"
os.environ["TORCH_LOGS"] = "-torch.utils._pytree"
# One core per worker, and per process that a test starts: libraries that each take all cores wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, PreTrainedModel, PreTrainedTokenizerFast

import checked_shapes  # noqa: F401 - before anything of what it checks
from secateur.data import Role, TokenSet
from secateur.model.families import find_family, with_experts
from secateur.model.loading import DenseModel
from secateur.model.separate import separate
from secateur.model.shape import read_shape
from secateur.model.walk import DecoderWalk
from secateur.pruning.bank import WeightBank, build_bank
from secateur.pruning.calibration import Statistics, calibrate
from secateur.space.architecture import Architecture
from secateur.space.search_space import SearchSpace

VOCABULARY = 96
NUM_LAYERS = 3
KV_HEADS = 4
FFN_WIDTH = 48
WIDTHS = ((0, 1, 2, 3, 4), (0, 8, 16, 24, 32, 40, 48)) * NUM_LAYERS

MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": FFN_WIDTH}
# What a tiny model of a family is given besides: sizes under other names, and what its config would refuse.
FAMILY_SETTINGS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "opt": {"ffn_dim": FFN_WIDTH, "word_embed_proj_dim": 32, "pad_token_id": 2, "dropout": 0.0},
    "gpt2": {"n_inner": FFN_WIDTH},
    "phi3": {"pad_token_id": 2},
    "smollm3": {"pad_token_id": 2},
    # Six experts of which a token goes to two; a shared one is narrower.
    "mixtral": {"num_local_experts": 6, "num_experts_per_tok": 2},
    "qwen2_moe": MIXTURE | {"shared_expert_intermediate_size": 24},
    "qwen3_moe": MIXTURE | {"norm_topk_prob": True},
}
ARCHITECTURES = {
    "dense": (4, 48, 4, 48, 4, 48),
    "uniform": (3, 40, 3, 40, 3, 40),
    "one-head": (1, 16, 1, 16, 1, 16),
    "uniform-without-layer": (2, 32, 0, 0, 2, 32),
    "varied": (3, 32, 1, 48, 4, 16),
    "attention-gone": (4, 48, 0, 24, 2, 40),
    "mlp-gone": (2, 0, 4, 48, 3, 16),
    "layer-gone": (3, 32, 0, 0, 2, 48),
    "first-attention-gone": (0, 40, 2, 16, 4, 0),
    "first-layer-gone": (0, 0, 3, 32, 1, 48),
    "no-attention-at-all": (0, 48, 0, 8, 0, 48),
}

torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@dataclass(frozen=True)
class Prepared:
    """A dense model with all that is made from it once. Shared between tests, so none may change it."""

    dense: DenseModel
    walk: DecoderWalk
    calibration: TokenSet
    selection: TokenSet
    statistics: list[Statistics]
    bank: WeightBank
    space: SearchSpace


@cache
def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word w3, w4, ..., and <s>, </s>, <unk> as the first three."""
    words = ["<s>", "</s>", "<unk>", *(f"w{number}" for number in range(3, VOCABULARY))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def build_model(
    family: str = "llama", queries_per_group: int = 2, tied: bool = False, seed: int = 0, **overrides: Any
) -> PreTrainedModel:
    """A decoder with random weights, large enough that its logits are far from uniform.

    A family without grouped queries has one query head per KV head, whatever is asked for.
    """
    entry = find_family(family)
    if entry.stock_heads == "dense":
        queries_per_group = 1
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": KV_HEADS * queries_per_group,
        "num_key_value_heads": KV_HEADS,
        "head_dim": 8,
        "intermediate_size": FFN_WIDTH,
        "max_position_embeddings": 64,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    settings |= FAMILY_SETTINGS.get(family, {})
    config = CONFIG_MAPPING[family](**(settings | overrides))
    torch.manual_seed(seed)
    model = getattr(transformers, entry.class_name)(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:  # norms begin at one and biases at zero, where a mistake would not show
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name == f"{entry.final_norm}.weight":
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


def build_dense(
    *args: Any, stored_dtype: str = "float32", experts: Literal["widths", "whole"] = "widths", **kwargs: Any
) -> DenseModel:
    model = build_model(*args, **kwargs)
    family = with_experts(find_family(model.config.model_type), experts)
    separate(model, family)
    return DenseModel("tiny", model, build_tokenizer(), family, read_shape(model, family), stored_dtype)


def build_tokens(role: Role = Role.SELECTION, num_windows: int = 4, length: int = 12, seed: int = 0) -> TokenSet:
    generator = torch.Generator().manual_seed(1_000 * list(Role).index(role) + seed)
    return TokenSet(role, torch.randint(VOCABULARY, (num_windows, length), generator=generator))


@cache
def prepare_dense(
    family: str = "llama",
    queries_per_group: int = 2,
    tied: bool = False,
    reconstruction: str = "least_squares",
    window: int | None = None,
    experts: Literal["widths", "whole"] = "widths",
) -> Prepared:
    overrides: dict[str, Any] = {} if window is None else {"sliding_window": window}
    dense = build_dense(family, queries_per_group, tied, experts=experts, **overrides)
    widths = WIDTHS if experts == "widths" else (WIDTHS[0], tuple(range(dense.shape.ffn_width + 1))) * NUM_LAYERS
    calibration = build_tokens(Role.CALIBRATION, num_windows=16)
    statistics = calibrate(dense, calibration, batch_tokens=96, seed=0, fisher=True)
    shape = dense.shape.with_output_bias() if reconstruction == "bias" else dense.shape
    return Prepared(
        dense=dense,
        walk=DecoderWalk(dense.model, dense.family),
        calibration=calibration,
        selection=build_tokens(Role.SELECTION),
        statistics=statistics,
        bank=build_bank(dense, statistics, widths, reconstruction=reconstruction),
        space=SearchSpace(shape=shape, options=widths),
    )


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_dense() -> Callable[..., DenseModel]:
    """Make a fresh dense model; arguments as `build_model`."""
    return build_dense


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    """Make a fresh model as transformers loads it; arguments as `build_model`."""
    return build_model


@pytest.fixture(scope="session")
def make_tokens() -> Callable[..., TokenSet]:
    """Make a set of random tokens for a role."""
    return build_tokens


@pytest.fixture(scope="session")
def prepare() -> Callable[..., Prepared]:
    """Give a calibrated dense model with its weight bank, made once per choice of arguments."""
    return prepare_dense


@pytest.fixture(scope="session")
def prepared() -> Prepared:
    """A Llama with two query heads per KV head."""
    return prepare_dense()


@pytest.fixture(params=ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return Architecture.from_widths(request.param)


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load exports from their folder alone, as where nobody has imported Secateur."""
    for name in [name for name in CONFIG_MAPPING if name.startswith("secateur_")]:
        monkeypatch.delitem(CONFIG_MAPPING._extra_content, name)


@pytest.fixture(scope="session")
def save_model() -> Callable[..., Path]:
    """Write a tiny model with its tokenizer into a folder, as anybody's checkpoint."""

    def save(folder: Path, *args: Any, **kwargs: Any) -> Path:
        build_model(*args, **kwargs).save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)
        return folder

    return save
