"""What a comparison consists of: which cells, and with which configuration each."""

from dataclasses import dataclass

from pydantic import Field

from secateur.config import RunConfig, build_config
from secateur.errors import ConfigError
from secateur.presets import Preset, Settings, find_preset
from secateur.schema import Record
from secateur.search.ji2023 import PaperSizes
from secateur.search.methods import JI2023

# Texts beside the run's own evaluation set are scored under the protocol of published perplexities, ppl-128.
TEXT_LENGTH = 128


class ComparisonConfig(Record):
    """What is compared. `base` holds the settings that all cells share."""

    base: RunConfig
    methods: tuple[str, ...] = Field(description="presets")
    keeps: tuple[float, ...]
    seeds: tuple[int, ...]
    texts: dict[str, str] = Field(default_factory=dict, description="further evaluation texts, name -> source")
    text_tokens: int = Field(65_536, ge=TEXT_LENGTH, description="of each of them, at most this many")


@dataclass(frozen=True)
class Plan:
    """One cell to be made."""

    name: str
    config: RunConfig


def plan_cells(config: ComparisonConfig) -> tuple[list[Plan], dict[str, dict[str, str]]]:
    """Lay out the cells; methods that come to the same order, reconstruction and allocation share theirs.

    Returns:
        Plans, neighbours sharing a bank where they can; and per preset and variant what its cells' names begin with.

    Raises:
        ConfigError: A method is unknown, or something else than `keep` is limited.
    """
    if config.base.budget.ceilings:
        raise ConfigError(
            "methods are compared at one share of the decoder parameters; give --keep only, and no other limit of the "
            f"budget, got {', '.join(config.base.budget.ceilings)}"
        )
    if config.base.space.hidden:
        raise ConfigError("methods are compared at one hidden size; leave space.hidden out")
    plans: dict[str, Plan] = {}
    rows: dict[str, dict[str, str]] = {}
    for name in config.methods:
        for variant, settings in variants(find_preset(name), config.base).items():
            for seed in config.seeds:
                for keep in config.keeps:
                    cell = cell_config(config.base, settings, keep, seed)
                    pruning = cell.pruning
                    prefix = f"{cell.search.method}-{pruning.importance}-{pruning.reconstruction}"
                    rows.setdefault(name, {})[variant] = prefix
                    full = f"{prefix}-keep-{keep:g}-seed-{seed}"
                    plans.setdefault(full, Plan(full, cell))

    def place(plan: Plan) -> tuple[object, ...]:
        pruning = plan.config.pruning
        return (plan.config.seed, pruning.importance, pruning.reconstruction, plan.config.search.method, plan.name)

    return sorted(plans.values(), key=place), rows


def variants(preset: Preset, base: RunConfig) -> dict[str, Settings]:
    """Give a method as published, and twice more to tell allocation, order and reconstruction apart.

    A method about the order keeps its own and is run at a uniform ratio; one about the allocation takes the order of
    the base. Both are then run without reconstruction and with that of the base.
    """
    method = {"search": {"method": preset.settings.get("search", {}).get("method", base.search.method)}}
    own = preset.settings.get("pruning", {}).get("importance", base.pruning.importance)
    importance = own if preset.decides == "order" else base.pruning.importance

    def with_reconstruction(name: str) -> Settings:
        return method | {"pruning": {"importance": importance, "reconstruction": name}}

    published = {"published": preset.settings} if preset.published else {}
    others = {"none": with_reconstruction("none"), "default": with_reconstruction(base.pruning.reconstruction)}
    return published | others


def cell_config(base: RunConfig, settings: Settings, keep: float, seed: int) -> RunConfig:
    """Give the configuration of one cell.

    The paper's pipeline is scaled to as many measurements as others have, and no search ends before they are spent.
    """
    shared = {
        "seed": seed,
        "budget": {"keep": keep},
        "baselines": {"uniform": False},
        "search": {"least_improvement": 0.0, "alternative_measurements": 0},
    }
    config = build_config([base.model_dump(mode="json"), settings, shared])
    if config.search.method != JI2023:
        return config
    sizes = PaperSizes()
    scale = max(1, config.search.measurements - sizes.measured) / (sizes.tied + sizes.free)
    return config.model_copy(update={"paper": config.paper.model_copy(update={"scale": scale})})
