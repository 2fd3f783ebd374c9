"""YAML without its surprises: `1:30` is no number, `no` no boolean, a date a text; no key twice, no tag, no alias, little depth.

Plain words mean what they mean in JSON and YAML 1.2; all else is text.
"""

import re
from typing import Any, ClassVar

import yaml

MAX_DEPTH, MAX_DIGITS = 20, 30
_KIND = "tag:yaml.org,2002:"
_INTEGER = r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_WORDS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (_INTEGER, list("-+0123456789")),
    "float": (
        rf"(?:[-+]?\.[0-9]+|{_INTEGER}(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
}


class Unclear(yaml.YAMLError):
    """Report YAML whose meaning would surprise, with its line."""

    def __init__(self, place: yaml.Event | yaml.Node, problem: str) -> None:
        line = f"line {place.start_mark.line + 1}: " if place.start_mark else ""
        super().__init__(line + problem)


def parse(text: str) -> Any:
    """Return what a text says, in the types of JSON. Raises `yaml.YAMLError`, of which `Unclear` is one."""
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise Unclear(event, f"alias *{event.anchor}; write out what it stands for")
        if getattr(event, "tag", None) is not None:
            raise Unclear(event, f"tag {event.tag!r}; write plain values")
        if self.depth == MAX_DEPTH:
            raise Unclear(event, f"nested deeper than {MAX_DEPTH} levels")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise Unclear(key, "a key is one word")
            if key.value in mapping:
                raise Unclear(key, f"{key.value!r} stands there twice; keep one")
            mapping[key.value] = self.construct_object(value, deep=deep)
        return mapping

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise Unclear(node, f"an integer of {len(node.value):,} digits")
        return int(node.value)


for _kind, (_pattern, _first) in _WORDS.items():
    _Loader.add_implicit_resolver(_KIND + _kind, re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor(_KIND + "int", _Loader.construct_integer)
