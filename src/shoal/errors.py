"""Every error that Shoal raises on purpose: one base class, each with what to do next.

The command line prints such an error as one message and exits with its ``exit_code``; no traceback is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "HeldError",
    "Mark",
    "ShoalError",
    "StoreError",
    "StudyError",
    "TaskError",
    "UsageError",
]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text: file (or another origin such as ``--set``), line and column, both counted from 1."""

    file: str
    line: int
    column: int
    length: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class ShoalError(Exception):
    """Base of all of Shoal's errors.

    Args:
        message: one sentence that says where and what.
        hint: what to do next, if there is something to do.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ShoalError):
    """The command line or an argument asks for something that cannot be done."""

    exit_code = 2


class StudyError(UsageError):
    """A study file cannot be read, checked or planned.

    Its text starts with ``file:line:column`` and shows the line with the culprit underlined, where they are known.
    """

    def __init__(
        self, message: str, *, mark: Mark | None = None, hint: str | None = None, line_text: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.mark = mark
        self.line_text = line_text

    def __str__(self) -> str:
        head = f"{self.mark}: {self.message}" if self.mark else self.message
        parts = [head]
        if self.mark is not None and self.mark.line and self.line_text is not None:
            number = f"{self.mark.line:>5}"
            parts.append(f"{number} | {self.line_text}")
            underline = " " * (self.mark.column - 1) + "^" * max(1, self.mark.length)
            parts.append(f"{' ' * len(number)} | {underline}")
        if self.hint:
            parts.append(self.hint)
        return "\n".join(parts)


class StoreError(ShoalError):
    """The store cannot be read or written, or holds something that Shoal did not write."""

    def __init__(self, message: str, *, path: Path | None = None, hint: str | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}", hint=hint)
        self.path = path


class HeldError(ShoalError):
    """Another runner holds the study."""

    exit_code = 4


class TaskError(ShoalError):
    """``shoal.task()`` was used outside a task, or with something it cannot record."""
