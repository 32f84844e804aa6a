"""What the command line writes as text: assignments to the configuration, lists, texts by name."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import yaml

from secateur.config import RunConfig, absolute_name
from secateur.errors import ConfigError

Item = TypeVar("Item")
# What a line longer than any terminal is for.
WIDEST = 1_000_000


def parse_assignment(text: str) -> dict[str, Any]:
    """Turn `section.field=value` into a nested mapping; the value is read as YAML.

    Raises:
        ConfigError: There is no `=`, or the value is not YAML.
    """
    path, separator, value = text.partition("=")
    parts = path.strip().split(".")
    if not separator or not all(parts) or len(parts) > 2:
        raise ConfigError(f"--set {text!r} is not of the form section.field=value")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML ({str(error).splitlines()[0]})") from error
    section = RunConfig.model_fields.get(parts[0])
    if len(parts) == 2 and section is not None and isinstance(section.annotation, type):
        field = getattr(section.annotation, "model_fields", {}).get(parts[1])
        kind = field.annotation if field is not None else None
        if kind == tuple[str, ...] and not isinstance(parsed, list):
            parsed = [value]
        elif kind in (str, str | None) and parsed is not None:
            parsed = value.strip()  # a revision of digits is a name, not a number
    return {parts[0]: parsed} if len(parts) == 1 else {parts[0]: {parts[1]: parsed}}


def written_command(config: RunConfig, out: str) -> str:
    """Write the command that makes a run with this configuration: the model, and what differs from the defaults.

    Args:
        out: The run folder.
    """
    given = RunConfig().model_dump(mode="json")
    demo = config.model.name == "demo" and config.data.sources == ("demo",)
    given["data"]["sources"] = ["demo"] if demo else []
    parts = ["secateur", "prune", config.model.name]
    for section, value in config.model_dump(mode="json").items():
        if not isinstance(value, dict):
            parts += ["--set", f"{section}={value}"] if value != given[section] else []
            continue
        for name, setting in value.items():
            if setting != given[section][name] and (section, name) != ("model", "name"):
                parts += ["--set", f"{section}.{name}={_written(setting)}"]
    return shlex.join([*parts, "--out", out])


def _written(setting: Any) -> str:
    """Write a value as `parse_assignment` reads it."""
    if isinstance(setting, str):
        return setting
    return yaml.safe_dump(setting, default_flow_style=True, width=WIDEST).removesuffix("...\n").strip()


def parse_list(option: str, text: str, kind: Callable[[str], Item]) -> tuple[Item, ...]:
    """Turn `a,b,c` into a tuple.

    Raises:
        ConfigError: An item is empty or not of the kind.
    """
    try:
        items = tuple(kind(item.strip()) for item in text.split(",") if item.strip())
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: {error}; expected values with commas between") from error
    if not items:
        raise ConfigError(f"{option} {text!r} names nothing; expected values with commas between")
    return tuple(dict.fromkeys(items))


def parse_texts(assignments: Sequence[str], option: str = "--text") -> dict[str, str]:
    """Turn `NAME=FILE` into a mapping with absolute paths.

    Args:
        option: Where they were given, for messages.

    Raises:
        ConfigError: There is no `=`, or a name is given twice.
    """
    texts: dict[str, str] = {}
    for assignment in assignments:
        name, separator, source = (part.strip() for part in assignment.partition("="))
        if not (separator and name and source):
            raise ConfigError(f"{option} {assignment!r} is not of the form NAME=FILE")
        if name in texts or name == "evaluation":
            raise ConfigError(f"{option} {assignment!r}: the name is taken; give every text a name of its own")
        texts[name] = absolute_name(source)
    return texts
