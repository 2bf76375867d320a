"""YAML as a researcher means it, in a tree where every key and value knows where it was written.

The syntax is YAML's; what plain (unquoted) words mean is nearly YAML 1.2's core schema, without its surprises:

===========================  ==========================================================================
``true`` ``false``           the only booleans (also ``True``, ``TRUE``); ``yes no on off y n`` are text
``1e-3`` ``1E5`` ``.5`` ``5.``  numbers
``3`` ``-3`` ``0x1f`` ``0o17``  whole numbers; beyond 64 bits they stay text, so that an id keeps all its digits
``010`` ``007.5``            text: leading zeros say that it is a code, not a quantity
``1_000``                    text, as it stands
``12:30:45`` ``2019-06-01``  text: no times, no dates
``null`` ``~`` and nothing   null
``.inf`` ``.nan`` ``1e999``  refused: numbers are finite
===========================  ==========================================================================

Keys are text whatever they look like. Anchors, aliases and ``<<`` work, with bounds on what they may grow to.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from shoal.errors import Mark, StudyError
from shoal.study.source import Source
from shoal.study.syntax import syntax_error

__all__ = ["Mapping", "Node", "Scalar", "Sequence", "dump", "kind", "parse", "parse_value", "plain", "resolve"]

MAX_DEPTH = 32
MAX_NODES = 200_000

_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_BASED = re.compile(r"0x[0-9a-fA-F]+\Z|0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq", "merge")}


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """A single value. ``mark`` is where it was written; ``source[start:end]`` is how."""

    value: str | int | float | bool | None
    mark: Mark
    source: Source
    start: int
    end: int
    size: int = 1
    depth: int = 1

    def within(self, start: int, end: int) -> Mark:
        """Where the characters from ``start`` to before ``end`` of a text stand in the file; else the whole value's mark."""
        if not isinstance(self.value, str) or not self.source.numbered:
            return self.mark
        piece, raw = self.value[start:end], self.source.text[self.start : self.end]
        # Quotes, escapes, folding and indentation move characters, but seldom break up a {name}.
        places = [found.start() for found in re.finditer(re.escape(piece), raw)] if piece else []
        order = [found.start() for found in re.finditer(re.escape(piece), self.value)] if piece else []
        if len(places) != len(order) or start not in order:
            return self.mark
        at = self.start + places[order.index(start)]
        return self.source.mark(at, at + len(piece))


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark
    source: Source
    size: int
    depth: int


@dataclass(frozen=True, slots=True, eq=False)
class Mapping:
    """Keys with values, in order. ``keys`` tells where each key was written, and in which text."""

    items: dict[str, Node]
    keys: dict[str, tuple[Mark, Source]]
    mark: Mark
    source: Source
    size: int
    depth: int


Node: TypeAlias = Scalar | Sequence | Mapping


@dataclass(slots=True)
class _Open:
    """A list or mapping that the parser has not seen the end of."""

    mapping: bool
    event: Any  # PyYAML's start event
    values: list[Node] = field(default_factory=list)
    keys: list[Scalar] = field(default_factory=list)
    waiting: Scalar | None = None
    end: int = 0


def parse(source: Source) -> Node | None:
    """The tree of one YAML document; None when the text holds nothing.

    Raises:
        StudyError: with the position, for anything that is not one sound document of bounded size.
    """
    source.check()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(source).build(yaml.parse(source.text, Loader=loader))
    except yaml.YAMLError as error:
        raise syntax_error(source, error) from None


def resolve(text: str) -> str | int | float | bool | None:
    """What a plain (unquoted) word means; see the table at the top.

    Raises:
        ValueError: for a number that is not finite.
    """
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    if text[0] not in "+-.0123456789":
        return text
    if _INT.match(text):
        number = int(text) if len(text) < 21 else 2**64
        return number if -(2**63) <= number < 2**63 else text
    if _BASED.match(text):
        number = int(text, 0) if len(text) < 40 else 2**64
        return number if number < 2**63 else text
    if _FLOAT.match(text) and math.isfinite(value := float(text)):
        return value
    if _FLOAT.match(text) or _NOT_FINITE.match(text):
        raise ValueError(f"{text} is not a finite number")
    return text


class _Builder:
    """Makes the tree from the parser's events, without recursion, so that depth costs no stack."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stack: list[_Open] = []
        self.anchors: dict[str, Node | None] = {}
        self.root: Node | None = None

    def build(self, events: Iterator[Any]) -> Node | None:
        documents = 0
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                self._put(self._scalar(event), event.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._put(self._alias(event), None)
            elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
                self._open(event)
            elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                frame = self.stack.pop()
                frame.end = event.end_mark.index if event.end_mark is not None else 0
                self._put(self._mapping(frame) if frame.mapping else self._sequence(frame), frame.event.anchor)
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._error(
                        event, "a second document starts here", "One file holds one study: remove this ---"
                    )
        return self.root

    def _open(self, event: Any) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        self._tag(event, ("map",) if mapping else ("seq",))
        if self.stack and self.stack[-1].mapping and self.stack[-1].waiting is None:
            raise self._error(
                event,
                "a key must be a plain word, not a list or a mapping",
                """A text that starts with { or [ must be in quotes: "{name}".""",
            )
        if len(self.stack) >= MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} deep")
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        self.stack.append(_Open(mapping, event))

    def _put(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        if not frame.mapping:
            frame.values.append(node)
        elif frame.waiting is None:
            frame.waiting = self._key(node)
        else:
            frame.keys.append(frame.waiting)
            frame.values.append(node)
            frame.waiting = None

    def _key(self, node: Node) -> Scalar:
        if not isinstance(node, Scalar):
            raise self.source.error(node.mark, "a key must be a plain word, not a list or a mapping")
        written = self.source.text[node.start : node.end]
        if node.value is None and not written:
            raise self.source.error(node.mark, "a key is missing before this", hint="Write key: value.")
        if isinstance(node.value, str):
            return node
        # Keys are names: `1:` is "1", `true:` is "true".
        return Scalar(written.strip(), node.mark, node.source, node.start, node.end)

    def _scalar(self, event: Any) -> Scalar:
        start, end = event.start_mark, event.end_mark
        text: str = event.value
        mark = self.source.at(start.line, start.column, end.index - start.index)
        tag = self._tag(event, ("str", "int", "float", "bool", "null", "merge"))
        value: str | int | float | bool | None = text
        if (event.implicit[0] and event.tag is None) or tag not in (None, "str"):
            try:
                value = resolve(text)
            except ValueError as error:
                hint = f'Put it in quotes to hand it to your program as text: "{text}"'
                raise self.source.error(mark, str(error), hint=hint) from None
        if tag == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if tag not in (None, "str", "merge") and kind(value) != tag:
            raise self.source.error(mark, f'"{text}" is not of the type !!{tag}')
        return Scalar(value, mark, self.source, start.index, end.index)

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self.anchors:
            hint = "If the * is part of a text, put it in quotes."
            raise self._error(event, f"*{event.anchor} stands for nothing: no &{event.anchor} comes before it", hint)
        node = self.anchors[event.anchor]
        if node is None:
            raise self._error(event, f"*{event.anchor} stands inside of what it stands for")
        if len(self.stack) + node.depth > MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} deep, aliases followed")
        return node

    def _tag(self, event: Any, allowed: tuple[str, ...]) -> str | None:
        if event.tag is None or event.tag == "!":
            return None
        name = _TAGS.get(event.tag)
        if name not in allowed:
            written = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._error(
                event, f"the tag {written} means nothing here", "Remove it; a text that starts with ! needs quotes."
            )
        return name

    def _sequence(self, frame: _Open) -> Sequence:
        start = frame.event.start_mark
        mark = self.source.at(start.line, start.column, self._length(frame))
        size, depth = self._bounds(frame.values, mark)
        return Sequence(tuple(frame.values), mark, self.source, size, depth)

    def _mapping(self, frame: _Open) -> Mapping:
        start = frame.event.start_mark
        mark = self.source.at(start.line, start.column, self._length(frame))
        items: dict[str, Node] = {}
        keys: dict[str, tuple[Mark, Source]] = {}
        merged: list[Mapping] = []
        merge_at: Mark | None = None
        for key, value in zip(frame.keys, frame.values, strict=True):
            name = str(key.value)
            if name == "<<" and self.source.text[key.start : key.end] == "<<":
                if merge_at is not None:
                    raise self._twice(key, merge_at)
                merge_at, merged = key.mark, self._merged(value)
                continue
            if name in items:
                raise self._twice(key, keys[name][0])
            items[name], keys[name] = value, (key.mark, key.source)
        for other in merged:
            for name, value in other.items.items():
                if name not in items:
                    items[name], keys[name] = value, other.keys[name]
        size, depth = self._bounds(list(items.values()), mark)
        return Mapping(items, keys, mark, self.source, size, depth)

    def _merged(self, value: Node) -> list[Mapping]:
        found = list(value.items) if isinstance(value, Sequence) else [value]
        mappings = [one for one in found if isinstance(one, Mapping)]
        if len(mappings) != len(found):
            raise self.source.error(
                value.mark, "<< takes a mapping, or a list of mappings", hint="For example <<: *common"
            )
        return mappings

    def _twice(self, key: Scalar, first: Mark) -> StudyError:
        where = f"first in line {first.line}" if first.line else "twice"
        hint = f"The other is at {first}. Keep one of them."
        return self.source.error(key.mark, f'key "{key.value}" is written twice, {where}', hint=hint)

    def _bounds(self, values: list[Node], mark: Mark) -> tuple[int, int]:
        size = 1 + sum(node.size for node in values)
        if size > MAX_NODES:
            raise self.source.error(mark, f"more than {MAX_NODES:,} values, aliases followed")
        return size, 1 + max((node.depth for node in values), default=0)

    def _length(self, frame: _Open) -> int:
        # A block's end is only seen at the next token: point at its first key (or, for a list, the rest of the line).
        if frame.event.flow_style is False and frame.keys:
            return frame.keys[0].mark.length
        start: int = frame.event.start_mark.index
        return frame.end - start

    def _error(self, event: Any, message: str, hint: str | None = None) -> StudyError:
        start, end = event.start_mark, event.end_mark
        return self.source.error(self.source.at(start.line, start.column, end.index - start.index), message, hint=hint)


def plain(node: Node) -> Any:
    """The tree as plain dictionaries, lists and values."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.items.items()}


def parse_value(text: str, name: str | None = None) -> Any:
    """What a text means as a value in a study file: ``1e-3`` is a number, ``[a, b]`` a list, nothing is None.

    Args:
        text: the value, as it was typed on a command line.
        name: what errors call it; by default the text itself.

    Raises:
        StudyError: the text is not sound YAML.
    """
    node = parse(Source(text if name is None else name, text, numbered=False))
    return None if node is None else plain(node)


def kind(value: object) -> str:
    """The name of a value's type, as YAML's tags have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    for python, name in ((int, "int"), (float, "float"), (str, "str"), (dict, "map")):
        if isinstance(value, python):
            return name
    return "seq"


def dump(data: Any) -> str:
    """Plain data as YAML that reads back as the same data, here and by readers of YAML 1.1."""
    return str(yaml.dump(data, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=110))


@functools.cache
def _dumper() -> Any:
    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        """Quotes whatever is not text to either reading of YAML, and writes no aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    # The dumper quotes a text that any resolver would take for something else.
    for pattern, first in ((_INT, "-+0123456789"), (_FLOAT, "-+.0123456789"), (_BASED, "0"), (_NOT_FINITE, "-+.")):
        Dumper.add_implicit_resolver("tag:yaml.org,2002:shoal", pattern, list(first))
    return Dumper
