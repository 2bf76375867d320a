"""``{name}`` in commands and other strings: plain dotted look-up, and quoting that a value cannot escape from.

``{name}`` is a reference, ``{{name}}`` is the text ``{name}``, and every other brace stands for itself, so that JSON, ``awk``
and ``${SHELL_VARIABLES}`` need no care.
"""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["PLACES", "Reference", "Scalar", "Template", "TemplateError", "Value", "value_text"]

Scalar: TypeAlias = str | int | float | bool | None
Value: TypeAlias = "Scalar | list[Scalar] | tuple[Scalar, ...]"

PLACES = ("out", "checkpoints", "task", "study", "step")
"""Names that every command knows; their values are there when a task starts."""

_NAME = r"[A-Za-z_][A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+)*"
_TOKEN = re.compile(rf"\{{\{{(?P<literal>{_NAME})\}}\}}|(?<!\$)\{{(?P<name>{_NAME})\}}")
_GITHUB = re.compile(r"\$\{\{.*?\}\}")
# Text of these characters means the same to a shell whatever quotes or construct it stands in.
_INERT = re.compile(r"[A-Za-z0-9_@%+=:,./-]*\Z")


class TemplateError(ValueError):
    """A template cannot be read, or a value cannot stand where it is referred to.

    ``offset`` counts characters from the start of the template's text.
    """

    def __init__(self, message: str, offset: int = 0, length: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.length = length


@dataclass(frozen=True, slots=True)
class Reference:
    """One ``{name}`` in a template, from character ``start`` to before ``end``.

    ``inside`` is None where a shell reads plain words, else it says what the reference stands in ("double quotes").
    """

    name: str
    start: int
    end: int
    inside: str | None = None


def value_text(value: Scalar) -> str:
    """The text of one value as a command sees it: ``true``/``false``, ``null``, the shortest exact form of a number."""
    if value is None:
        return "null"
    if value is True:
        return "true"
    if value is False:
        return "false"
    return str(value)


@dataclass(frozen=True, slots=True)
class Template:
    """A string with references, parsed once and rendered for many tasks."""

    text: str
    parts: tuple[str | Reference, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Split a text into literals and references.

        Raises:
            TemplateError: for an expression in the style of GitHub Actions, which Shoal does not have.
        """
        if (github := _GITHUB.search(text)) is not None:
            raise TemplateError("${{ }} is not read here: write {name}", github.start(), github.end() - github.start())
        parts: list[str | Reference] = []
        contexts = None
        position = 0
        for token in _TOKEN.finditer(text):
            if token.start() > position:
                parts.append(text[position : token.start()])
            if token["literal"] is not None:
                parts.append("{" + token["literal"] + "}")
            else:
                if contexts is None:
                    contexts = _shell_contexts(text)
                inside = contexts(token.start())
                parts.append(Reference(token["name"], token.start(), token.end(), inside))
            position = token.end()
        if position < len(text):
            parts.append(text[position:])
        return cls(text, tuple(parts))

    @property
    def names(self) -> tuple[Reference, ...]:
        """The references, in order of appearance."""
        return tuple(part for part in self.parts if isinstance(part, Reference))

    def render(self, values: Mapping[str, Value], *, shell: bool, keep: Callable[[str], bool] | None = None) -> str:
        """Put values in the place of the references.

        Args:
            values: by dotted name.
            shell: quote every value as one word of a POSIX shell (a list as several words).
            keep: names for which the reference itself stays in the text, to be rendered later.

        Raises:
            TemplateError: a name is unknown, or a value needs quotes where quotes cannot protect it.
        """
        out: list[str] = []
        for part in self.parts:
            if isinstance(part, str):
                out.append(part)
            elif part.name in values:
                out.append(_place(values[part.name], part, shell))
            elif keep is not None and keep(part.name):
                out.append("{" + part.name + "}")
            else:
                raise TemplateError(f"unknown name {{{part.name}}}", part.start, part.end - part.start)
        return "".join(out)

    def words(self, values: Mapping[str, Value], keep: Callable[[str], bool] | None = None) -> list[str]:
        """Render one item of an exact argument list: several words if the item is nothing but a list's name."""
        if len(self.parts) == 1 and isinstance(part := self.parts[0], Reference):
            value = values.get(part.name)
            if isinstance(value, list | tuple):
                return [value_text(item) for item in value]
        return [self.render(values, shell=False, keep=keep)]


def _place(value: Value, reference: Reference, shell: bool) -> str:
    items = value if isinstance(value, list | tuple) else (value,)
    texts = [value_text(item) for item in items]
    if not shell:
        return " ".join(texts)
    if reference.inside is None:
        return " ".join(shlex.quote(text) for text in texts)
    for text in texts:
        if not _INERT.match(text):
            raise TemplateError(
                f"the value {text!r} of {{{reference.name}}} cannot be made safe inside {reference.inside}: "
                f"take {{{reference.name}}} out of there (Shoal quotes values itself), or use a list command",
                reference.start,
                reference.end - reference.start,
            )
    return " ".join(texts)


def _shell_contexts(text: str) -> Callable[[int], str | None]:
    """Tell for a position in a shell command what construct it stands in; None where words are plain.

    It need not understand the whole shell language, only never call a place plain that is not. What it does not follow to
    its end (here-documents, ``$'...'``, backticks, expansions within quotes) it takes to last until the end of the text.
    """
    changes: list[tuple[int, str | None]] = [(0, None)]
    stack: list[str] = []
    sticky: str | None = None
    i, n = 0, len(text)

    def now() -> str | None:
        if sticky:
            return sticky
        return next((entry for entry in stack if entry != "$("), None)

    while i < n:
        before = now()
        char = text[i]
        top = stack[-1] if stack else None
        step = 1
        after_backslash = False
        if top == "single quotes":
            if char == "'":
                stack.pop()
        elif top == "a comment":
            if char == "\n":
                stack.pop()
        elif char == "\\":
            step = 2
            after_backslash = True
        elif char == '"':
            if top == "double quotes":
                stack.pop()
            else:
                stack.append("double quotes")
        elif char == "`":
            sticky = "backticks"
        elif "double quotes" in stack and text.startswith(("$(", "${"), i):
            sticky = "an expansion in double quotes"
            step = 2
        elif text.startswith("$((", i):
            stack.append("arithmetic")
            step = 3
        elif top == "arithmetic" and text.startswith("))", i):
            stack.pop()
            step = 2
        elif text.startswith("$(", i):
            stack.append("$(")
            step = 2
        elif text.startswith("${", i):
            stack.append("${ }")
            step = 2
        elif (char == "}" and top == "${ }") or (char == ")" and top == "$("):
            stack.pop()
        elif top != "double quotes":
            if text.startswith("$'", i):
                sticky = "$'...' quotes"
                step = 2
            elif char == "'":
                stack.append("single quotes")
            elif text.startswith("<<<", i):
                step = 3
            elif text.startswith("<<", i):
                sticky = "a here-document"
                step = 2
            elif char == "#" and (i == 0 or text[i - 1] in " \t\n;&|()"):
                stack.append("a comment")
        if after_backslash and i + 1 < n:
            # The character after a backslash belongs to it: a reference there would be cut in two.
            changes.append((i + 1, "a backslash's reach"))
            changes.append((i + 2, now()))
        elif now() != before:
            # An opening sign is not itself inside; a closing one still is.
            changes.append((i + step, now()))
        i += step
    starts = [start for start, _ in changes]

    def context(position: int) -> str | None:
        return changes[bisect_right(starts, position) - 1][1]

    return context
