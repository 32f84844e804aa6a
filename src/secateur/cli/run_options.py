"""What a run is asked for on the command line: the options that `prune` and `plan` share, and what they make."""

from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.completion import (
    complete_device,
    complete_dtype,
    complete_minimize,
    complete_preset,
    complete_recipe,
    complete_recover,
    complete_robust,
    complete_setting,
    complete_target,
)

KeepOption = Annotated[
    float | None,
    typer.Option(help="Share of the decoder-layer parameters that may stay; 0.75 if the budget has no limit."),
]
MaxParamsOption = Annotated[
    str | None, typer.Option(help="Parameters of the whole model, at most: 1.2B, 350M, 90k or a number.")
]
MaxFlopsOption = Annotated[str | None, typer.Option(help="FLOPs per token in the decoder layers' matrices, at most.")]
MaxCacheOption = Annotated[
    str | None, typer.Option(help="Bytes of KV cache per token of context, at 2 bytes an entry, at most.")
]
MaxLatencyOption = Annotated[
    list[str] | None,
    typer.Option(help="prefill=MS for a prompt, decode=MS or MS per generated token, on this device; twice."),
]
MaxDropOption = Annotated[
    str | None,
    typer.Option(help="As small as quality allows: 5% (perplexity may rise), kl=0.05 (nats) or accuracy=2%."),
]
MinimizeOption = Annotated[
    str | None,
    typer.Option(
        help="What --max-drop makes small: params, flops, kv-cache-bytes, prefill or decode.",
        autocompletion=complete_minimize,
    ),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        help="uniform, padded (whatever loads stock models), per-layer (transformers) or gguf (llama.cpp).",
        autocompletion=complete_target,
    ),
]
RecoverOption = Annotated[
    str | None,
    typer.Option(
        help="Train the result for a short while: lora, qlora (on 4-bit weights) or full (small models).",
        autocompletion=complete_recover,
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(help="A published recovery instead of the default: llm-pruner.", autocompletion=complete_recipe),
]
RobustOption = Annotated[
    str | None,
    typer.Option(
        help="Of the recovery, no losers: groups (of --groups), or without names ratio or p-dro.",
        autocompletion=complete_robust,
    ),
]
TensorParallelOption = Annotated[
    int | None, typer.Option(help="Devices that will share the model: heads and widths divide among them.")
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        help="A published method instead of the default, such as ji2023; see the README.",
        autocompletion=complete_preset,
    ),
]
ConfigOption = Annotated[Path | None, typer.Option(help="YAML file with any part of the configuration.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.field=value; may be given several times.", autocompletion=complete_setting),
]
RunDeviceOption = Annotated[
    str | None, typer.Option(help="auto, cpu or cuda; auto if not given.", autocompletion=complete_device)
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        help="To compute in: float32, bfloat16, float16, or auto (float32 on a CPU).", autocompletion=complete_dtype
    ),
]
SeedOption = Annotated[int | None, typer.Option(help="Every random choice derives from it; 0 if not given.")]


def run_layers(
    model: str | None = None,
    keep: float | None = None,
    max_params: str | None = None,
    max_flops: str | None = None,
    max_kv_cache_bytes: str | None = None,
    max_latency_ms: list[str] | None = None,
    max_drop: str | None = None,
    minimize: str | None = None,
    target: str | None = None,
    recover: str | None = None,
    recipe: str | None = None,
    robust: str | None = None,
    tensor_parallel: int | None = None,
    data: list[str] | None = None,
    groups: list[str] | None = None,
    preset: str | None = None,
    config: Path | None = None,
    assignments: list[str] | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: int | None = None,
) -> list[dict[str, Any]]:
    """Give the layers of a configuration, later ones winning: preset, file, flags, and what was assigned.

    Raises:
        ConfigError: One of them cannot be read, or no model was named.
    """
    from secateur.assignments import parse_assignment, parse_texts
    from secateur.budget import parse_latencies
    from secateur.config import read_yaml
    from secateur.errors import ConfigError
    from secateur.presets import find_preset
    from secateur.recipe import find_recipe

    layers: list[dict[str, Any]] = [dict(find_preset(preset).settings)] if preset else []
    layers += [find_recipe(recipe)] if recipe else []
    layers += [read_yaml(config)] if config else []
    if model is not None:
        layers.append({"model": {"name": model}})
    elif not any(layer.get("model", {}).get("name") for layer in layers):
        raise ConfigError("no model was given; name one: secateur prune MODEL, or model.name in the --config file")
    if data:
        layers.append({"data": {"sources": data}})
    if groups:
        layers.append({"data": {"groups": parse_texts(groups, "--groups")}})
    limits = {
        "keep": keep,
        "max_params": max_params,
        "max_flops": max_flops,
        "max_kv_cache_bytes": max_kv_cache_bytes,
        "max_drop": max_drop,
        "minimize": minimize,
    }
    limits |= parse_latencies(max_latency_ms or [])
    layers.append({"budget": {name: limit for name, limit in limits.items() if limit is not None}})
    layers += [{"model": {key: value}} for key, value in {"device": device, "dtype": dtype}.items() if value]
    if seed is not None:
        layers.append({"seed": seed})
    if target is not None:
        layers.append({"export": {"target": target}})
    if recover is not None:
        layers.append({"recovery": {"method": recover}})
    if robust is not None:
        layers.append({"recovery": {"robust": robust}})
    if tensor_parallel is not None:
        layers.append({"space": {"tensor_parallel": tensor_parallel}})
    layers += [parse_assignment(assignment) for assignment in assignments or []]
    return layers
