"""A text with its name: turns positions into marks, and shows the line that a mark stands in."""

from __future__ import annotations

import re
from pathlib import Path

from shoal.errors import Mark, StudyError

__all__ = ["MAX_BYTES", "Source"]

MAX_BYTES = 1024 * 1024
"""The largest study file that is read. Long lists belong in files of data."""

# What YAML takes for the end of a line.
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# What YAML does not allow anywhere, and what would upset a terminal.
_ILLEGAL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LONGEST_SHOWN = 300


class Source:
    """The text of a study file, or of another origin such as a ``--set``.

    Args:
        name: what errors call it.
        text: its text; a byte order mark at the start is dropped.
        numbered: whether it has lines worth telling; a ``--set`` has not.
    """

    def __init__(self, name: str, text: str, *, numbered: bool = True) -> None:
        self.name = name
        self.text = text.removeprefix("\ufeff")
        self.numbered = numbered
        self._lines: list[str] | None = None

    @classmethod
    def read(cls, path: Path, name: str) -> Source:
        """Read a study file.

        Raises:
            StudyError: it is absent, not a file, too large or not UTF-8 text.
        """
        try:
            if path.exists() and not path.is_file():
                what = "is a folder, not a study file" if path.is_dir() else "is not a file"
                raise StudyError(f"{name}: {what}", hint=_yaml_files_in(path if path.is_dir() else path.parent))
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise StudyError(f"{name}: there is no such file", hint=_yaml_files_in(path.parent)) from None
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise StudyError(f"{name!s}: cannot be read: {reason}") from None
        if len(data) > MAX_BYTES:
            hint = "Put long lists into files of data, and give those to your command."
            raise StudyError(f"{name}: a study file may hold {MAX_BYTES // 1024} KiB, this one is larger", hint=hint)
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise StudyError("the file is UTF-16, not UTF-8", mark=Mark(name, 1, 1), hint="Save it as UTF-8.")
        try:
            return cls(name, data.decode("utf-8"))
        except UnicodeDecodeError as error:
            good = cls(name, data[: error.start].decode("utf-8"))
            bad = f"byte 0x{data[error.start]:02x} is not UTF-8 text"
            raise good.error(good.mark(len(good.text)), bad, hint="Save the file as UTF-8.") from None

    @property
    def lines(self) -> list[str]:
        """The text's lines, without their ends."""
        if self._lines is None:
            self._lines = _BREAK.split(self.text)
        return self._lines

    def mark(self, start: int, end: int | None = None) -> Mark:
        """The mark of the characters from ``start`` to before ``end``, no longer than the line."""
        before = _BREAK.split(self.text[:start])
        return self.at(len(before) - 1, len(before[-1]), (end or start) - start)

    def at(self, line: int, column: int, length: int = 1) -> Mark:
        """The mark at a line and column counted from 0, no longer than the line."""
        if not self.numbered:
            return Mark(self.name, 0, 0)
        here = self.lines[line] if line < len(self.lines) else ""
        return Mark(self.name, line + 1, column + 1, max(1, min(length, len(here.rstrip()) - column)))

    def check(self) -> None:
        """Refuse characters that YAML does not allow.

        Raises:
            StudyError: with the position of the first.
        """
        if (found := _ILLEGAL.search(self.text)) is not None:
            code = ord(found[0])
            name = {0: "a NUL character", 0xFEFF: "a second byte order mark"}.get(
                code, f"the control character U+{code:04X}"
            )
            hint = "Is this a text file?" if code == 0 else "Remove it."
            raise self.error(self.mark(found.start()), f"{name} cannot stand in a study file", hint=hint)

    def shown(self, mark: Mark) -> str | None:
        """The mark's line as it can be printed: one column for each character."""
        if not mark.line or mark.file != self.name or mark.line > len(self.lines):
            return None
        if mark.column + mark.length > _LONGEST_SHOWN:
            return None
        line = self.lines[mark.line - 1]
        if len(line) > _LONGEST_SHOWN:
            line = line[: _LONGEST_SHOWN - 1] + "…"
        return _ILLEGAL.sub("�", line.replace("\t", "→"))

    def error(self, mark: Mark, message: str, *, hint: str | None = None) -> StudyError:
        """An error at a mark in this text."""
        return StudyError(message, mark=mark, hint=hint, line_text=self.shown(mark))


def _yaml_files_in(folder: Path) -> str | None:
    try:
        found = sorted(path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    except (OSError, ValueError):
        return f"There is no folder {folder}." if not folder.exists() else None
    if not found:
        where = "in this folder" if folder == Path() else f"in {folder}"
        return (
            f"Nor is there another YAML file {where}. How to write a study: docs/tutorial.md; its words: shoal schema."
        )
    return f"YAML files there: {', '.join(found[:8])}{', …' if len(found) > 8 else ''}"
