"""The configuration of a run: one section per room, strict about keys, the same in YAML and on the command line."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from secateur.budget import BudgetConfig
from secateur.errors import ConfigError, suggestion
from secateur.plain_yaml import load_plain
from secateur.recipe import Recipe
from secateur.schema import Record

SOURCE_FIELDS = ("sources", "calibration", "selection", "evaluation", "recovery")
DEMO, DEMO_RECOVERY = "demo", "demo:recovery"


class ModelConfig(Record):
    """Which model, and how it is computed with."""

    name: str = Field("demo", description="local Hugging Face folder, hub id, or `demo`")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto = a GPU where there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="computing type; auto = float32 on a CPU, as stored on a GPU"
    )
    device_map: str | dict[str, int | str] | None = Field(
        None, description="instead of a device, as accelerate takes it: auto, balanced, or devices by module"
    )
    revision: str | None = Field(None, description="revision of a hub model")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    in_memory: bool = Field(False, description="it was handed over in Python; `name` is what it is called")


class DataConfig(Record):
    """Which text, for which role."""

    sources: tuple[str, ...] = Field((), description="split by document hash into the sets not named below")
    calibration: tuple[str, ...] = Field((), description="own sources of the calibration set")
    selection: tuple[str, ...] = Field((), description="own sources of the selection set")
    evaluation: tuple[str, ...] = Field((), description="own sources of the evaluation set")
    recovery: tuple[str, ...] = Field(
        (), description="own sources of the recovery set; default: those of calibration, all of their text"
    )
    text_field: str = Field("text", description="field of .jsonl files and hub data sets")
    sequence_length: int = Field(256, ge=8, description="tokens per window")
    calibration_tokens: int = Field(65_536, ge=1, description="at most this many")
    selection_tokens: int = Field(8_192, ge=1, description="at most this many")
    evaluation_tokens: int = Field(32_768, ge=1, description="at most this many")
    groups: dict[str, str] = Field(
        default_factory=dict, description="texts by group (languages, domains), whose losses should be alike"
    )
    group_tokens: int = Field(8_192, ge=1, description="selection tokens of each group, at most this many")


class DropConfig(Record):
    """How it is made sure that a drop holds; only with `budget.max_drop`."""

    verifications: int = Field(6, ge=1, le=6, description="models cut as the result would be, and measured; at most")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="with which the drop holds on text like the selection's")
    multiple_choice: str | None = Field(None, description="of accuracy: folder with dev/ and test/ in MMLU's format")
    questions: int = Field(114, ge=2, description="of it, to select by, spread over its subjects; as many to evaluate")
    shots: int = Field(5, ge=0, description="solved examples before each question")


class LatencyConfig(Record):
    """How the table of layer shapes is timed; only where the budget limits latency."""

    prompt_tokens: int = Field(512, ge=2, description="of a prefill, and cached while one is decoded; at most")
    batch: int = Field(1, ge=1, description="sequences at once")
    repeats: int = Field(15, ge=1, description="timings of each shape, of which the median is taken")


class PruningConfig(Record):
    """What goes first inside a module, and how the rest makes up for it."""

    importance: str = Field(
        "obs",
        description="obs, obs_plain, taylor, taylor_second, taylor_vector, wanda, wifv, l1, l2 or random",
    )
    reconstruction: Literal["none", "bias", "least_squares", "sequential"] = Field(
        "sequential", description="what the rest does about what is gone; sequential = again on its own activations"
    )
    ridge: float = Field(1e-2, gt=0, description="damping of the Gram matrices, share of their mean diagonal")
    sequential_ridge: float = Field(1e-1, gt=0, description="pull of the sequential solve towards the bank's solution")


class SpaceConfig(Record):
    """What may be cut."""

    ffn_levels: int = Field(17, ge=2, description="FFN widths per layer, 0 and the dense one among them")
    kv_levels: int = Field(9, ge=2, description="at most this many KV-head counts per layer")
    multiple_of: int | None = Field(
        None, ge=1, description="of FFN widths; default 64 (256 for GGUF) above 1,024 wide, finer for small models"
    )
    tensor_parallel: int = Field(1, ge=1, description="devices that heads and FFN widths can be divided among")
    hidden: bool = Field(False, description="let channels of the residual stream go too, the same in every layer")
    hidden_levels: int = Field(4, ge=2, description="hidden sizes that are tried, the dense one among them")
    protect_first: int = Field(0, ge=0, description="layers at the start that stay dense")
    protect_last: int = Field(0, ge=0, description="layers at the end that stay dense")
    experts: Literal["widths", "whole"] = Field(
        "widths", description="of a mixture: cut all experts of a layer to one width, or cut whole experts"
    )


class EvaluationConfig(Record):
    """How measuring is done; results do not depend on it beyond rounding, but for `dtype` and `top_k`."""

    batch_tokens: int = Field(4_096, ge=1, description="tokens per forward pass")
    max_memory: int = Field(
        4 << 30, ge=1, description="bytes of hidden states while candidates are measured; fewer go together if need be"
    )
    cache_bytes: int = Field(1 << 30, ge=0, description="of them, kept for candidates to come; at most half")
    candidates: int = Field(16, ge=1, description="that go through the model together; lost if the run is killed")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of candidates' matrix products; auto = bfloat16 where the processor multiplies it fast"
    )
    top_k: int | None = Field(
        1_024, ge=1, description="dense probabilities kept per token where all take more than 1 GiB; null = all, slower"
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="of reported intervals")
    speed: bool = Field(True, description="time the dense model and the result by turns at the end, unless large")
    speed_prompt_tokens: int = Field(64, ge=1, description="of that, at most; fewer where a model has fewer positions")
    speed_new_tokens: int = Field(8, ge=2, description="of that, generated after the prompt, at most")
    speed_repeats: int = Field(9, ge=2, description="of that, timings of each model")


class SearchConfig(Record):
    """How it is decided how much of every layer goes."""

    method: Literal[
        "secateur",
        "random",
        "evolutionary",
        "additive",
        "ji2023",
        "uniform",
        "uniform_middle",
        "global_threshold",
        "block_influence",
    ] = Field("secateur", description="how to search; the last four measure nothing, `paper` has settings of ji2023")
    measurements: int = Field(160, ge=25, description="architectures measured in all")
    predictor: Literal["auto", "blend", "gaussian_process", "trees", "additive", "ridge", "computation_aware"] = Field(
        "auto", description="auto = the one that ranks best in cross-validation, each round"
    )
    acquisition: Literal["improvement", "bound", "mean"] = Field(
        "bound", description="what is measured next: lowest bound, most expected improvement or best predicted"
    )
    least_improvement: float = Field(
        0.0005,
        ge=0,
        description="the search ends when no proposal's expected improvement of the KL is this share of it",
    )
    sensitivity_share: float = Field(
        0.0,
        ge=0,
        le=0.6,
        description="share of the measurements spent on single changes to the heuristics' architectures",
    )
    second_opinion: bool = Field(False, description="let trees that learned to rank reorder the best predicted")
    wait_for: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of a round that has to be measured before the next; below 1 not reproducible",
    )
    shrink: bool = Field(False, description="let choices that harm at the budget leave the space (SHAP), each round")
    rounds: int = Field(8, ge=1, description="fits of the predictor, each followed by a batch that it proposes")
    initial_share: float = Field(0.35, gt=0, lt=1, description="share of the measurements made before the first fit")
    reconstructed_share: float = Field(
        0.6,
        ge=0,
        le=0.9,
        description="method secateur with sequential reconstruction: share of the measurements that is made after it",
    )
    reconstructed_tokens: int = Field(32_768, ge=1, description="calibration tokens of that reconstruction, at most")
    alternative_measurements: int = Field(
        30,
        ge=0,
        description="method secateur: spent to say what layers alike cost: on them where layers may differ, on layers "
        "that differ where they may not; below 25 it is not asked",
    )
    halving: bool = Field(
        False, description="method evolutionary: many offspring on few tokens, the best of them on more"
    )
    finalists: int = Field(4, ge=1, description="of the best measured, how many are reconstructed on the whole set")
    objectives: tuple[str, ...] = Field(
        (),
        description="method secateur: quality, disparity (of data.groups) and costs such as kv_cache_bytes_per_token; "
        "default: quality, and disparity where there are groups",
    )
    smallest_keep: float | None = Field(
        None, gt=0, lt=1, description="with a cost among the objectives: least share that may stay; default: keep / 2"
    )
    choose: Literal["auto", "best_quality", "knee", "least_disparity"] = Field(
        "auto",
        description="of the front; auto = best_quality for one objective, least_disparity with groups, else knee",
    )
    within: float = Field(
        0.02, ge=0, description="least_disparity: how much worse than the best the mean perplexity may be, as a share"
    )


class PaperConfig(Record):
    """Settings of `search.method=ji2023`, the paper's pipeline; `search.measurements` is not among them."""

    scale: float = Field(1.0, gt=0, le=10, description="of the 400 tied and 125 free architectures measured first")
    perplexity: tuple[str, ...] = Field((), description="texts whose ppl-128 are targets; default: the selection set")
    tokens: int = Field(16_384, ge=128, description="of each text, at most this many")
    multiple_choice: str | None = Field(None, description="folder with dev/ and test/ in MMLU's format, also a target")
    questions: int = Field(114, ge=1, description="of it, spread over its subjects")
    shots: int = Field(5, ge=0, description="solved examples before each question")


class BaselinesConfig(Record):
    """What is run beside the search, on the same data."""

    uniform: bool = Field(True, description="LLM-Pruner: one ratio for all layers, Taylor order, no reconstruction")


class ExportConfig(Record):
    """How the result is written."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="auto = as the dense model")
    target: Literal["uniform", "per-layer", "padded", "gguf"] = Field(
        "per-layer",
        description="uniform: layers alike, for all that load stock models; per-layer: transformers; padded: layers "
        "filled up with zeros, for all; gguf: llama.cpp",
    )
    shard_size: str = Field("5GB", pattern=r"^\d+(\.\d+)?[KMG]B$", description="of a file of weights, at most")


class RunConfig(Record):
    """Everything that a run depends on."""

    seed: int = Field(0, ge=0, description="every random choice derives from it")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    budget: BudgetConfig = BudgetConfig()
    drop: DropConfig = DropConfig()
    latency: LatencyConfig = LatencyConfig()
    pruning: PruningConfig = PruningConfig()
    space: SpaceConfig = SpaceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    search: SearchConfig = SearchConfig()
    paper: PaperConfig = PaperConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    recovery: Recipe = Recipe()
    export: ExportConfig = ExportConfig()


def build_config(layers: Sequence[Mapping[str, Any]]) -> RunConfig:
    """Merge nested mappings, later ones winning, into a configuration.

    Raises:
        ConfigError: A key is unknown (suggests the nearest) or a value is not allowed.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for section, value in layer.items():
            if isinstance(value, Mapping) and isinstance(merged.get(section), dict):
                merged[section] = merged[section] | dict(value)
            else:
                merged[section] = dict(value) if isinstance(value, Mapping) else value
    _check_keys(merged)
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where}={first['input']!r} is not allowed: {first['msg']}") from error


def resolve(config: RunConfig) -> RunConfig:
    """Make a configuration independent of the current directory, and give the demo model its text.

    Raises:
        ConfigError: A set has no text to come from.
    """
    data = config.data
    if not data.sources and config.model.name == DEMO:
        data = data.model_copy(update={"sources": (DEMO,)})
    if DEMO in data.sources and config.recovery.method != "none" and not data.recovery:
        # A training takes more text than measuring, and there is any amount of it.
        data = data.model_copy(update={"recovery": (DEMO_RECOVERY,)})
    if not data.sources and not (data.calibration and data.selection and data.evaluation):
        raise ConfigError(
            "no text was given; add --data PATH, or name data.calibration, data.selection and data.evaluation by --set"
        )
    data = _renamed_data(data, absolute_name)
    name = config.model.name if config.model.in_memory else absolute_name(config.model.name)
    model = config.model.model_copy(update={"name": name})
    questions = _renamed_questions(config, absolute_name)
    return config.model_copy(update={"data": data, "model": model} | questions)


def _renamed_data(data: DataConfig, rename: Callable[[str], str]) -> DataConfig:
    names: dict[str, Any] = {name: tuple(map(rename, getattr(data, name))) for name in SOURCE_FIELDS}
    return data.model_copy(update=names | {"groups": {name: rename(source) for name, source in data.groups.items()}})


def _renamed_questions(config: RunConfig, rename: Callable[[str], str]) -> dict[str, Any]:
    """Rename the texts and folders of questions that `paper` and `drop` name; give both sections."""
    paper, drop = config.paper, config.drop
    texts = {"perplexity": tuple(map(rename, paper.perplexity))}

    def folder(name: str | None) -> dict[str, str | None]:
        return {"multiple_choice": rename(name) if name else None}

    return {
        "paper": paper.model_copy(update=texts | folder(paper.multiple_choice)),
        "drop": drop.model_copy(update=folder(drop.multiple_choice)),
    }


def absolute_name(name: str) -> str:
    """Make the name of an existing file or folder absolute; hub ids and `demo` stay."""
    return str(Path(name).resolve()) if name != "demo" and Path(name).exists() else name


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises:
        ConfigError: The file is missing or is not a YAML mapping.
    """
    try:
        loaded = load_plain(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"configuration {str(path)!r} cannot be read: {reason}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"configuration {str(path)!r} is a {type(loaded).__name__}, expected sections with fields")
    return loaded


def to_yaml(config: RunConfig) -> str:
    """Write every field, defaults included."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def without_folders(config: RunConfig) -> RunConfig:
    """Shorten local paths to their last part: what is published must not tell how somebody's disk is laid out."""
    data = _renamed_data(config.data, _last_part)
    model = config.model.model_copy(update={"name": _last_part(config.model.name)})
    questions = _renamed_questions(config, _last_part)
    return config.model_copy(update={"data": data, "model": model} | questions)


def _last_part(name: str) -> str:
    return Path(name).name if Path(name).is_absolute() else name


def differing_fields(one: RunConfig, other: RunConfig) -> list[str]:
    """Name the fields in which two configurations differ, as `section.field: a != b`."""
    return list(differences(one.model_dump(mode="json"), other.model_dump(mode="json")).values())


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """Give what differs between two configurations in plain values: `section.field` -> `section.field: a != b`."""
    left, right = _flat(one), _flat(other)
    names = [name for name in left | right if left.get(name) != right.get(name)]
    return {name: f"{name}: {left.get(name)!r} != {right.get(name)!r}" for name in names}


def flat_text(config: RunConfig) -> dict[str, str]:
    """Give every setting as text: `search.rounds` -> `8`."""
    return {name: str(value) for name, value in _flat(config.model_dump(mode="json")).items()}


def _check_keys(merged: Mapping[str, Any]) -> None:
    for section, value in merged.items():
        field = RunConfig.model_fields.get(str(section))
        if field is None:
            raise ConfigError(f"unknown config section {section!r}; {suggestion(str(section), RunConfig.model_fields)}")
        known = getattr(field.annotation, "model_fields", None)
        if known is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"config section {section!r} is {value!r}, expected fields: {', '.join(known)}")
        for name in value:
            if name not in known:
                raise ConfigError(f"unknown config key '{section}.{name}'; {suggestion(str(name), known)}")


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in nested.items():
        if isinstance(value, Mapping):
            flat |= {f"{section}.{name}": inner for name, inner in value.items()}
        else:
            flat[section] = value
    return flat
