"""Values of axes: how they compare, and how they are shown."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from shoal.study.template import Value

__all__ = ["same_value", "show", "value_key"]


def value_key(value: Value) -> Hashable:
    """What two equal values share: 1 and 1.0 are equal, 1 and true are not, nor are 1 and "1"."""
    if isinstance(value, list | tuple):
        return tuple(value_key(item) for item in value)
    if isinstance(value, bool):
        return ("bool", value)
    return value


def same_value(one: Value, other: Value) -> bool:
    """Whether two values of an axis are the same point of it."""
    return value_key(one) == value_key(other)


def show(value: Any) -> str:
    """A value as one would write it in a study file, for messages; long ones are cut."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if not isinstance(value, str):
        return str(value)
    text = value if len(value) <= 60 else value[:59] + "…"
    return '"' + text.replace("\n", "\\n") + '"'
