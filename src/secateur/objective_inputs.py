"""The objectives that a configuration asks for."""

from secateur.config import RunConfig
from secateur.errors import ConfigError, suggestion
from secateur.search.objectives import DISPARITY, OBJECTIVES, QUALITY


def named_objectives(config: RunConfig) -> tuple[str, ...]:
    """Give the names of the run's objectives: as configured, else quality, and disparity where there are groups.

    Methods other than Secateur's own have their own criterion; groups are then measured and reported only.
    """
    if config.search.objectives:
        return config.search.objectives
    return (QUALITY, DISPARITY) if config.data.groups and config.search.method == "secateur" else (QUALITY,)


def refuse_objectives(config: RunConfig) -> None:
    """Refuse objectives, a rule of choice and a way to measure that the run has nothing for.

    Raises:
        ConfigError: Says which, and what is missing.
    """
    search, groups = config.search, config.data.groups
    names = named_objectives(config)
    if len(groups) == 1:
        raise ConfigError(
            f"data.groups has one group, {next(iter(groups))!r}; disparity is a spread over two or more: add "
            "--groups NAME=PATH, or leave groups out"
        )
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(f"search.objectives: {name!r} is unknown; {suggestion(name, OBJECTIVES)}")
    if QUALITY not in names or len(set(names)) != len(names):
        raise ConfigError(f"search.objectives={list(names)} must have {QUALITY!r} and no name twice")
    if names != (QUALITY,) and search.method != "secateur":
        raise ConfigError(f"search.objectives={list(names)} needs search.method=secateur, got {search.method}")
    if search.halving and search.method != "evolutionary":
        raise ConfigError(f"search.halving=true needs search.method=evolutionary, got {search.method}; leave it out")
    if DISPARITY in names and not groups:
        raise ConfigError("search.objectives has 'disparity' but there are no groups; add --groups NAME=PATH, twice")
    if search.choose == "least_disparity" and DISPARITY not in names:
        raise ConfigError(
            f"search.choose=least_disparity needs 'disparity' among search.objectives, got {list(names)}; add "
            "--groups NAME=PATH, twice or more"
        )
