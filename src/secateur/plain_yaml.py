"""YAML as data: without Python's tags, and without aliases, by which a few lines can stand for any amount of it."""

from typing import Any

import yaml


class PlainLoader(yaml.SafeLoader):
    """Reads YAML that a stranger may have written."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"an alias (*{event.anchor}) in line {event.start_mark.line + 1}; write it out")
        return super().compose_node(parent, index)


def load_plain(text: str) -> Any:
    """Read a YAML text.

    Raises:
        yaml.YAMLError: It is none, or holds an alias or a tag.
        RecursionError, ValueError: It nests without end, or holds numbers or characters that cannot be.
    """
    return yaml.load(text, PlainLoader)  # noqa: S506  a SafeLoader
