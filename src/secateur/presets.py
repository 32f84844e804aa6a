"""Published methods as settings: what `--preset` and `secateur compare` know.

A preset is a method as published: its own allocation, its own order, and no more than its own reconstruction.
"""

from dataclasses import dataclass
from typing import Any

from secateur.errors import ConfigError, suggestion

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """One method.

    Attributes:
        source: Where it was published, and how far ours departs from it.
        decides: `order` for methods about which groups go (compared at a uniform ratio), `allocation` for methods
            about how many go where (compared in one common order).
        published: False for a baseline that nobody published by itself.
    """

    name: str
    title: str
    source: str
    decides: str
    settings: Settings
    published: bool = True


def _preset(
    name: str,
    title: str,
    source: str,
    decides: str,
    method: str,
    importance: str,
    reconstruction: str,
    published: bool = True,
) -> Preset:
    settings: Settings = {
        "search": {"method": method},
        "pruning": {"importance": importance, "reconstruction": reconstruction},
    }
    return Preset(name, title, source, decides, settings, published)


LLM_PRUNER = "arXiv 2305.11627; statistics of the whole calibration set instead of 10 texts of 64 tokens"
LEAST_SQUARES = "least squares per block stands for its own way to make up for a cut"

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _preset("llm-pruner", "LLM-Pruner, Element1", LLM_PRUNER, "order", "uniform", "taylor", "none"),
        _preset("llm-pruner-element2", "LLM-Pruner, Element2", LLM_PRUNER, "order", "uniform", "taylor_second", "none"),
        _preset("llm-pruner-vector", "LLM-Pruner, Vector", LLM_PRUNER, "order", "uniform", "taylor_vector", "none"),
        _preset("l1", "L1 magnitude", LLM_PRUNER, "order", "uniform", "l1", "none"),
        _preset("l2", "L2 magnitude", LLM_PRUNER, "order", "uniform", "l2", "none"),
        _preset("random-order", "random order", LLM_PRUNER, "order", "uniform", "random", "none"),
        _preset("wanda-sp", "Wanda-sp", "arXiv 2306.11695, structured as in FLAP", "order", "uniform", "wanda", "none"),
        _preset(
            "osscar",
            "OSSCAR / ZipLM",
            "arXiv 2403.12983, 2302.04089: greedy elimination with least squares, one ratio for all layers",
            "order",
            "uniform",
            "obs_plain",
            "least_squares",
        ),
        _preset("flap-uniform", "WIFV, uniform", "arXiv 2312.11983, its UL-UM", "order", "uniform", "wifv", "bias"),
        _preset(
            "uniform",
            "uniform ratio",
            "one ratio for all layers, ZipLM's order",
            "allocation",
            "uniform",
            "obs_plain",
            "least_squares",
            published=False,
        ),
        _preset(
            "llm-pruner-middle",
            "LLM-Pruner, middle layers",
            f"{LLM_PRUNER}; layers 4 to 29 of 32, the same share of other depths",
            "allocation",
            "uniform_middle",
            "taylor",
            "none",
        ),
        _preset("flap", "FLAP", "arXiv 2312.11983", "allocation", "global_threshold", "wifv", "bias"),
        _preset(
            "shortgpt",
            "ShortGPT",
            "arXiv 2403.03853; the layer at the margin is narrowed to meet the parameter count",
            "allocation",
            "block_influence",
            "taylor",
            "none",
        ),
        _preset(
            "random-search",
            "random search",
            "the best of as many random architectures",
            "allocation",
            "random",
            "obs_plain",
            "least_squares",
            published=False,
        ),
        _preset(
            "evopress",
            "EvoPress",
            f"arXiv 2410.14649; {LEAST_SQUARES}, ZipLM's order",
            "allocation",
            "evolutionary",
            "obs_plain",
            "least_squares",
        ),
        _preset(
            "puzzle",
            "Puzzle",
            f"arXiv 2411.19146; {LEAST_SQUARES} (there, distilled blocks), ZipLM's order",
            "allocation",
            "additive",
            "obs_plain",
            "least_squares",
        ),
        _preset(
            "ji2023",
            "Ji et al. 2023",
            "arXiv 2309.09507; docs/ji2023.md has the departures",
            "allocation",
            "ji2023",
            "taylor",
            "none",
        ),
        Preset("secateur", "Secateur", "the default of this tool", "allocation", {}),
    )
}


def find_preset(name: str) -> Preset:
    """Look a preset up by name.

    Raises:
        ConfigError: There is none of that name; the message lists those that there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown; {suggestion(name, PRESETS)}")
    return PRESETS[name]
