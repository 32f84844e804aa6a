"""The configuration as a file to begin with: every setting with its default and what it means, and a JSON schema."""

import json
import textwrap
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from secateur.config import RunConfig

WIDTH = 118
DRAFT = "https://json-schema.org/draft/2020-12/schema"
HEADER = """\
# A run of Secateur: secateur prune --config THIS_FILE
# Every setting that there is, at its default; take the `# ` away from what you change, and from its section's name.
"""
# YAML ends a bare value with it.
END_OF_DOCUMENT = "\n..."
BOUNDS = {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}


def commented_yaml(given: Mapping[str, Mapping[str, Any]]) -> str:
    """Write every setting with its description; those given stand, the others are commented out at their defaults.

    Args:
        given: section -> setting -> value.
    """
    parts = [HEADER]
    for name, field in RunConfig.model_fields.items():
        if not is_section(field):
            parts.append("\n".join([*_comment(described(field), ""), f"# {_line(name, field.default)}"]) + "\n")
            continue
        section: Any = field.annotation
        values = given.get(name, {})
        lines = [*_comment((section.__doc__ or "").split("\n\n")[0], ""), f"{'' if values else '# '}{name}:"]
        for key, setting in section.model_fields.items():
            lines += _comment(described(setting), "  ")
            default = setting.get_default(call_default_factory=True)
            stands = key in values
            lines.append(f"{'' if stands else '# '}  {_line(key, values[key] if stands else default)}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def config_schema() -> str:
    """Give the configuration's JSON schema; descriptions are those of the settings."""
    schema = {"$schema": DRAFT} | RunConfig.model_json_schema()
    schema["title"] = "Configuration of a run of Secateur"
    return json.dumps(schema, indent=2, ensure_ascii=False)


def settings() -> dict[str, FieldInfo]:
    """Give every setting by its name, `section.field`."""
    sections: dict[str, Any] = {
        name: each.annotation for name, each in RunConfig.model_fields.items() if is_section(each)
    }
    return {f"{name}.{key}": field for name, section in sections.items() for key, field in section.model_fields.items()}


def is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def described(field: FieldInfo) -> str:
    """Say what a setting is, what it may be, and between which bounds."""
    choices = allowed(field.annotation)
    names = {type(bound): bound for bound in field.metadata}
    bounds = [f"{word} {getattr(names[kind], name):g}" for kind, (name, word) in BOUNDS.items() if kind in names]
    limits = "; ".join([f"one of {', '.join(choices)}"] * bool(choices) + bounds)
    return f"{field.description or ''}{f' ({limits})' if limits else ''}".strip()


def allowed(annotation: Any) -> list[str]:
    """List the values of a choice; empty where any value of the type will do."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    inner = [each for each in get_args(annotation) if each is not NoneType]
    return allowed(inner[0]) if len(inner) == 1 and NoneType in get_args(annotation) else []


def _comment(text: str, indent: str) -> list[str]:
    lines = textwrap.wrap(" ".join(text.split()), WIDTH - len(indent) - 3)
    return [f"## {indent}{line}" for line in lines]


def _line(key: str, value: Any) -> str:
    """Write `key: value` in one line, as YAML reads it back."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    plain = list(plain) if isinstance(plain, tuple) else plain
    written = yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True)
    return f"{key}: {written.split(END_OF_DOCUMENT)[0].strip()}"
