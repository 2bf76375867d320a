"""Large JSON files item by item, each with its line; memory holds one item, not the file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from shoal.errors import UsageError

__all__ = ["stream"]

_CHUNK = 2**20
# An error this far before the end of what was read is one of the file, not of having read too little of it.
_SURE = 2**22
_AFTER = tuple(",]}: \t\r\n")
# Longer than what of a number may be left over: a point, or an exponent's beginning.
_LONGEST = 8


def stream(path: Path, lists: Collection[str], met: set[str] | None = None) -> Iterator[tuple[str, int, Any]]:
    """The members of a file's top-level object: key, line and value.

    A member named in ``lists`` that is a list is given item by item, under its key; ``met`` takes in which there were, for empty
    ones give nothing. NaN and Infinity are read as such.

    Raises:
        UsageError: the file cannot be read or is no JSON object; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            yield from _Scanner(path, file, lists, met if met is not None else set()).members()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None


class _Scanner:
    def __init__(self, path: Path, file: IO[str], lists: Collection[str], met: set[str]) -> None:
        self.path, self.file, self.lists, self.met = path, file, lists, met
        self.decode = json.JSONDecoder().raw_decode
        self.text, self.at, self.line, self.counted, self.ended = "", 0, 1, 0, False

    def members(self) -> Iterator[tuple[str, int, Any]]:
        if self.peek() != "{":
            raise self.error("is no JSON object: it should begin with {")
        self.at += 1
        if self.peek() == "}":
            return
        while True:
            if self.peek() != '"':
                raise self.error("a name in quotes should be here")
            key = self.value()
            self.expect(":")
            if key in self.lists and self.peek() == "[":
                self.met.add(key)
                for line, item in self.items():
                    yield key, line, item
            else:
                self.peek()
                line = self.here()
                yield key, line, self.value()
            if self.peek() == "}":
                return
            self.expect(",")

    def items(self) -> Iterator[tuple[int, Any]]:
        self.at += 1
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            self.peek()
            line = self.here()
            yield line, self.value()
            if self.peek() == "]":
                self.at += 1
                return
            self.expect(",")

    def peek(self) -> str:
        """The next character that is no blank, read up to."""
        while True:
            while self.at < len(self.text):
                if not self.text[self.at].isspace():
                    return self.text[self.at]
                self.at += 1
            if not self.more():
                raise self.error("the file ends too early")

    def expect(self, character: str) -> None:
        if self.peek() != character:
            raise self.error(f'"{character}" should be here, not "{self.text[self.at]}"')
        self.at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                found, end = self.decode(self.text, self.at)
                # A number may go on in what is not read yet, such as 0. in 0.5.
                if self.text[end : end + 1] in _AFTER or len(self.text) - end > _LONGEST or not self.more():
                    self.at = end
                    return found
            except json.JSONDecodeError as error:
                if len(self.text) - error.pos > _SURE or not self.more():
                    self.at = error.pos
                    raise self.error(f"is not valid JSON: {error.msg}") from None
            except RecursionError:
                raise self.error("is nested too deeply") from None
            except ValueError as error:
                raise self.error(f"is not valid JSON: {error}") from None

    def more(self) -> bool:
        """Read on (twice as much if one value did not fit), and forget what was used."""
        if self.ended:
            return False
        self.here()
        kept = self.text[self.at :]
        read = self.file.read(max(_CHUNK, len(kept)))
        self.ended = not read
        self.text, self.at, self.counted = kept + read, 0, 0
        return not self.ended

    def here(self) -> int:
        """The line of the present place."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = max(self.counted, self.at)
        return self.line

    def error(self, what: str) -> UsageError:
        return UsageError(f"{self.path}:{self.here()}: {what}")
