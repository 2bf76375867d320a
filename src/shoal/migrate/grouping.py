"""Jobs that differ in a few values become one step: which texts differ, what to call that, and the shape that is exact."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.study.check_axes import RESERVED
from shoal.study.template import value_text
from shoal.study.yaml import resolve

__all__ = ["Axes", "axis_value", "common", "escape", "fold", "fold_words", "join", "shape", "shell_words"]

_INERT = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")
_NAME = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
_LITERAL = re.compile(rf"(?<!\$)\{{{_NAME}\}}")
_REFERENCE = re.compile(rf"((?<![{{$])\{{{_NAME}\}}(?!\}}))")
_BOUNDARY = re.compile(r"[=/:,]")


def common(texts: Sequence[str]) -> str:
    """What all texts start with."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, char in enumerate(low) if char != high[i]), len(low))]


def escape(text: str) -> str:
    """The text as it has to stand in a study so that it comes out as it is: ``{name}`` is a reference there."""
    return _LITERAL.sub(lambda found: "{" + found[0] + "}", text)


@dataclass
class Axes:
    """The axes of a group of jobs: name to one text for each job."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def add(self, wanted: str, column: Sequence[str]) -> str:
        """Make an axis, or take the one that has these very values; return its name."""
        for name, known in self.values.items():
            if known == list(column):
                return name
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", wanted).strip("_").lower() or "value"
        plain = plain if plain[0].isalpha() or plain[0] == "_" else f"v_{plain}"
        plain = f"{plain}_" if plain in RESERVED else plain
        name, number = plain, 2
        while name in self.values:
            name, number = f"{plain}_{number}", number + 1
        self.values[name] = list(column)
        return name


def fold(column: Sequence[str], wanted: str, axes: Axes, *, shell: bool = False) -> str | None:
    """One text for all jobs, with references where they differ; None where that cannot be exact.

    What all have in common at either end stays, cut at a ``=`` or ``/``: ``/output/DOTA/ssd`` and ``/output/xView/ssd``
    become ``/output/{name}/ssd``.
    """
    if len(set(column)) == 1:
        return escape(column[0])
    prefix = common(column)
    cuts = [found.end() for found in _BOUNDARY.finditer(prefix)]
    start = cuts[-1] if cuts else 0
    rest = [text[start:] for text in column]
    suffix = common([text[::-1] for text in rest])[::-1]
    cuts = [found.start() for found in _BOUNDARY.finditer(suffix)]
    end = len(suffix) - cuts[0] if cuts else 0
    inner = [text[: len(text) - end] for text in rest]
    if shell and not all(_INERT.match(text) for text in column):
        return None
    if prefix[:start].rstrip("=").lstrip("-"):
        flag = re.fullmatch(r"-{1,2}([A-Za-z][A-Za-z0-9_-]*)=", prefix[:start])
        wanted = flag[1] if flag else wanted
    pieces = [text.split("/") for text in inner]
    if len(pieces[0]) > 1 and len({len(one) for one in pieces}) == 1:
        # A path by its folders: datasets and models are often two of them, and then two axes.
        folded = [
            fold([one[i] for one in pieces], f"{wanted}_{i + 1}", axes, shell=shell) for i in range(len(pieces[0]))
        ]
        middle = "/".join(map(str, folded))
    else:
        middle = "{" + axes.add(wanted, inner) + "}"
    tail = rest[0][len(rest[0]) - end :] if end else ""
    return escape(prefix[:start]) + middle + escape(tail)


def fold_words(rows: Sequence[Sequence[str]], axes: Axes, *, shell: bool = False) -> list[str] | None:
    """Fold commands word by word; None where they have not the same number of words, or it cannot be exact."""
    if len({len(row) for row in rows}) != 1:
        return None
    folded = []
    for place in range(len(rows[0])):
        column = [row[place] for row in rows]
        before = rows[0][place - 1] if place else ""
        wanted = before.lstrip("-") if before.startswith("-") and "=" not in before else f"arg{place}"
        text = fold(column, wanted, axes, shell=shell)
        if text is None:
            return None
        folded.append(text)
    return folded


def shell_words(text: str) -> list[str]:
    """The text cut at blanks, blanks kept, so that joining gives it back."""
    return re.split(r"(\s+)", text)


def join(words: Iterable[str]) -> str:
    """Folded words as one shell command: what is written is quoted here, what is filled in by the study."""
    return " ".join(
        "".join(piece if place % 2 else _quoted(piece) for place, piece in enumerate(_REFERENCE.split(word))) or "''"
        for word in words
    )


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def axis_value(text: str) -> Any:
    """The text as a value of an axis: a number where that is written back as the same text."""
    try:
        value = resolve(text)
    except ValueError:
        return text
    if isinstance(value, int | float) and not isinstance(value, bool) and value_text(value) == text:
        return value
    return text


def shape(axes: Axes) -> dict[str, Any]:
    """The step's keys that make exactly the jobs' points: a matrix, with zip where axes move together, else a list."""
    columns = axes.values
    if not columns:
        return {}
    count = len(next(iter(columns.values())))
    groups: list[list[str]] = []
    for name, column in columns.items():
        for group in groups:
            if _together(columns[group[0]], column):
                group.append(name)
                break
        else:
            groups.append([name])
    distinct = [list(dict.fromkeys(zip(*(columns[name] for name in group), strict=True))) for group in groups]
    if math.prod(len(one) for one in distinct) == count:
        matrix: dict[str, Any] = {}
        zips = []
        for group, points in zip(groups, distinct, strict=True):
            if len(group) == 1:
                matrix[group[0]] = [axis_value(point[0]) for point in points]
            else:
                zips.append({name: [axis_value(point[i]) for point in points] for i, name in enumerate(group)})
        made: dict[str, Any] = {"matrix": matrix} if matrix else {}
        if zips:
            made["zip"] = zips[0] if len(zips) == 1 else zips
        return made
    rows = zip(*columns.values(), strict=True)
    return {"include": [dict(zip(columns, map(axis_value, row), strict=True)) for row in rows]}


def _together(one: Sequence[str], other: Sequence[str]) -> bool:
    pairs = set(zip(one, other, strict=True))
    return len(pairs) == len(set(one)) == len(set(other))
