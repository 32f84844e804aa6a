"""Arguments of a call in Python, as the configuration that the command line would make of its flags."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from transformers import PreTrainedModel

from secateur.api.texts import Sources, Text, as_sources
from secateur.budget import PHASES, Drop
from secateur.config import RunConfig, build_config, read_yaml, resolve
from secateur.errors import ConfigError, suggestion
from secateur.presets import find_preset

Config = RunConfig | Mapping[str, Any] | str | Path


class Limits(TypedDict, total=False):
    """The budget: any combination of limits, which the pruned model meets all.

    As the flags of the same names: `keep` is the share of the decoder parameters that may stay (0.75 where nothing is
    limited); counts may be written as `"1.2B"`; `max_latency_ms` is a number (per generated token) or
    `{"prefill": ms, "decode": ms}`; `max_drop` is `"5%"` (of perplexity), `"kl=0.05"` (nats per token) or
    `"accuracy=2%"`, and `minimize` what it makes small.
    """

    keep: int | float | None
    max_params: int | str | None
    max_flops: int | str | None
    max_kv_cache_bytes: int | str | None
    max_latency_ms: int | float | Mapping[str, int | float] | None
    max_drop: str | Drop | None
    minimize: str | None


def run_settings(
    model: PreTrainedModel | str | Path,
    data: Text | None,
    groups: Mapping[str, Text] | None,
    limits: Limits,
    *,
    preset: str | None = None,
    config: Config | None = None,
    others: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int | None = None,
) -> tuple[RunConfig, dict[str, tuple[str, ...]]]:
    """Merge what was asked for, as the command line does: preset, configuration, then the arguments themselves.

    Args:
        others: Further settings by section; those that are None are left out.

    Returns:
        The configuration, and the documents in memory by the name of their source.

    Raises:
        ConfigError, DataError: As their names say.
    """
    layers: list[Mapping[str, Any]] = [find_preset(preset).settings] if preset else []
    given = config_layer(config)
    layers.append(given)
    text_field = str((given.get("data") or {}).get("text_field", "text"))
    texts: dict[str, tuple[str, ...]] = {}
    layers.append({"model": model_layer(model)})
    if data is not None:
        sources = as_sources(data, text_field)
        texts |= sources.texts
        layers.append({"data": {"sources": sources.names}})
    if groups is not None:
        of_groups = {name: _one_source(name, text, text_field) for name, text in groups.items()}
        texts |= {source: each for group in of_groups.values() for source, each in group.texts.items()}
        layers.append({"data": {"groups": {name: group.names[0] for name, group in of_groups.items()}}})
    layers.append({"budget": budget_layer(limits)})
    for section, values in (others or {}).items():
        layers.append({section: {name: value for name, value in values.items() if value is not None}})
    if seed is not None:
        layers.append({"seed": seed})
    built = build_config(layers)
    if not (built.data.sources or built.data.calibration or built.model.name == "demo"):
        raise ConfigError("no text was given to measure on; pass data=, a file, a hub id, or a list of documents")
    return resolve(built), texts


def config_layer(config: Config | None) -> Mapping[str, Any]:
    """Read a configuration as sections with fields: of a record only what was set, so that arguments can add to it."""
    if config is None:
        return {}
    if isinstance(config, RunConfig):
        return config.model_dump(exclude_unset=True)
    if isinstance(config, Mapping):
        return config
    return read_yaml(Path(config))


def model_layer(model: PreTrainedModel | str | Path) -> dict[str, Any]:
    """Say which model: by name, or what the one in memory is called."""
    if isinstance(model, str | Path):
        return {"name": str(model)}
    called = str(getattr(model, "name_or_path", None) or type(model).__name__)
    # The same wherever the call is made from.
    return {"name": Path(called).name if Path(called).exists() else called, "in_memory": True}


def budget_layer(limits: Limits) -> dict[str, Any]:
    """Turn limits into fields of the budget.

    Raises:
        ConfigError: A limit or a phase of latency is unknown.
    """
    for name in limits:
        if name not in Limits.__annotations__:
            raise ConfigError(f"limit {name!r} is unknown; {suggestion(name, Limits.__annotations__)}")
    budget: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    latency = budget.pop("max_latency_ms", {})
    for phase, milliseconds in (latency if isinstance(latency, Mapping) else {"decode": latency}).items():
        if phase not in PHASES:
            raise ConfigError(f"max_latency_ms limits {phase!r}; {suggestion(str(phase), PHASES)}")
        budget[PHASES[phase]] = milliseconds
    return budget


def _one_source(name: str, text: Text, text_field: str) -> Sources:
    sources = as_sources(text, text_field)
    if len(sources.names) != 1:
        raise ConfigError(f"group {name!r} has {len(sources.names)} files; give one, or its documents as a list")
    return sources
