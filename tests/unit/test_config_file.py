"""The configuration as a file: whole, commented, and what it says is what it means."""

import json
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from secateur.config import RunConfig, build_config
from secateur.config_file import commented_yaml, config_schema, described, settings


@pytest.mark.parametrize("name", settings())
def test_every_setting_is_described_where_it_is_declared(name: str) -> None:
    assert settings()[name].description, f"{name} has no description"


def test_a_file_to_begin_with_means_what_was_asked_for() -> None:
    given: dict[str, Any] = {"model": {"name": "mine"}, "budget": {"keep": 0.6}, "data": {"sources": ["a: b.txt"]}}
    assert build_config([yaml.safe_load(commented_yaml(given))]) == build_config([given])


def test_without_its_comment_marks_the_file_is_the_whole_default_configuration() -> None:
    lines = commented_yaml({}).split("\n\n", 1)[1].splitlines()
    bare = "\n".join(line.removeprefix("# ") for line in lines if not line.startswith("##"))
    read = yaml.safe_load(bare)
    assert build_config([read]) == RunConfig()
    assert {f"{section}.{key}" for section, own in read.items() if section != "seed" for key in own} == set(settings())


def test_a_description_says_choices_and_bounds() -> None:
    assert described(settings()["model.device"]).endswith("(one of auto, cpu, cuda)")
    assert described(settings()["search.reconstructed_share"]).endswith("(at least 0; at most 0.9)")
    assert described(FieldInfo(annotation=int, description="tokens")) == "tokens"


def test_the_schema_names_every_setting_with_its_description() -> None:
    schema = json.loads(config_schema())
    for name, field in settings().items():
        section, key = name.split(".")
        definition = schema["$defs"][schema["properties"][section]["$ref"].rsplit("/", 1)[1]]
        assert definition["properties"][key]["description"] == field.description
