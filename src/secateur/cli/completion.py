"""What a shell completes after an option: names that Secateur knows."""

from collections.abc import Iterator


def complete_preset(incomplete: str) -> Iterator[tuple[str, str]]:
    """Give presets with what they are."""
    from secateur.presets import PRESETS

    return ((name, preset.title) for name, preset in PRESETS.items() if name.startswith(incomplete))


def complete_target(incomplete: str) -> Iterator[str]:
    return _choices("export", "target", incomplete)


def complete_recover(incomplete: str) -> Iterator[str]:
    return (each for each in _choices("recovery", "method", incomplete) if each != "none")


def complete_recipe(incomplete: str) -> Iterator[str]:
    from secateur.recipe import RECIPES

    return (name for name in RECIPES if name.startswith(incomplete))


def complete_robust(incomplete: str) -> Iterator[str]:
    return (each for each in _choices("recovery", "robust", incomplete) if each != "none")


def complete_executor(incomplete: str) -> Iterator[str]:
    return (each for each in ("local", "processes", "ray") if each.startswith(incomplete))


def complete_minimize(incomplete: str) -> Iterator[str]:
    return _choices("budget", "minimize", incomplete)


def complete_device(incomplete: str) -> Iterator[str]:
    return _choices("model", "device", incomplete)


def complete_dtype(incomplete: str) -> Iterator[str]:
    return _choices("model", "dtype", incomplete)


def complete_setting(incomplete: str) -> Iterator[tuple[str, str]]:
    """Give `section.field=` with what it means, for `--set`."""
    from secateur.config_file import described, settings

    return ((f"{name}=", described(field)) for name, field in settings().items() if name.startswith(incomplete))


def _choices(section: str, setting: str, incomplete: str) -> Iterator[str]:
    from secateur.config_file import allowed, settings

    return (each for each in allowed(settings()[f"{section}.{setting}"].annotation) if each.startswith(incomplete))
