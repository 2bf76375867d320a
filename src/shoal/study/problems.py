"""Several mistakes in one study file, told in one error; and the nearest valid name to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from shoal.errors import StudyError

__all__ = ["Problems", "StudyErrors", "did_you_mean", "nearest", "quoted"]

_SHOWN = 20


class StudyErrors(StudyError):
    """Several problems of one study. ``errors`` holds each; position, message and hint are those of the first."""

    def __init__(self, errors: Iterable[StudyError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.message, mark=first.mark, hint=first.hint, line_text=first.line_text)

    def __str__(self) -> str:
        shown = [str(error) for error in self.errors[:_SHOWN]]
        more = len(self.errors) - len(shown)
        count = f"{len(self.errors)} problems" + (f"; the first {_SHOWN} are shown." if more else ".")
        return "\n\n".join([*shown, count])


class Problems:
    """Collects errors, each said once, and raises them together in the order of the file."""

    def __init__(self) -> None:
        self._errors: list[StudyError] = []
        self._said: set[tuple[object, str]] = set()

    def add(self, error: StudyError, same: str | None = None) -> None:
        """Add one error, unless ``same`` (or else its message) has been said of the same place.

        What is wrong in `defaults` is wrong in every step, and is said once.
        """
        key = (error.mark, error.message if same is None else same)
        if key not in self._said:
            self._said.add(key)
            self._errors.append(error)

    def __bool__(self) -> bool:
        return bool(self._errors)

    def raise_any(self) -> None:
        """Raise what was collected: one error as it is, several as `StudyErrors`.

        Raises:
            StudyError: if anything was added.
        """
        if not self._errors:
            return
        files: dict[str, int] = {}
        for error in self._errors:
            files.setdefault(error.mark.file if error.mark else "", len(files))
        ordered = sorted(
            self._errors,
            key=lambda error: (files[error.mark.file], error.mark.line, error.mark.column) if error.mark else (0, 0, 0),
        )
        raise ordered[0] if len(ordered) == 1 else StudyErrors(ordered)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was most likely meant to be, or None."""
    names = list(dict.fromkeys(known))
    folded = {one.casefold().replace("-", "_"): one for one in reversed(names)}
    wanted = name.casefold().replace("-", "_")
    if wanted in folded:
        return folded[wanted]
    if len(name) > 64:  # comparing is quadratic, and nobody misspells that much
        return None
    if anagram := [said for one, said in folded.items() if sorted(one) == sorted(wanted)]:
        return anagram[0]  # two swapped letters, as in rl for lr
    if close := difflib.get_close_matches(wanted, folded, n=1, cutoff=0.6):
        return folded[close[0]]
    # Short for long and the other way round: lr for learning_rate, batch for batch_size.
    initials = {"".join(word[:1] for word in one.split("_")): said for one, said in folded.items()}
    wanted_initials = "".join(word[:1] for word in wanted.split("_"))
    if len(wanted) > 1 and wanted in initials:
        return initials[wanted]
    if len(wanted_initials) > 1 and wanted_initials in folded:
        return folded[wanted_initials]
    starts = [said for one, said in folded.items() if len(min(one, wanted, key=len)) > 2 and _part(one, wanted)]
    return starts[0] if len(starts) == 1 else None


def _part(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def did_you_mean(name: str, known: Iterable[str], says: str = "Known here", form: str = '"%s"') -> str:
    """A hint: the list of known names and, if there is one, the nearest to ``name``, written as ``form`` says."""
    names = list(dict.fromkeys(known))
    near = nearest(name, names)
    listed = f"{says}: {quoted(names)}." if names else ""
    said = f"Did you mean {form % near}?" if near else ""
    return "  ".join(part for part in (listed, said) if part)


def quoted(names: Iterable[object], limit: int = 30) -> str:
    """Names separated by commas, cut short when there are very many."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f", and {len(listed) - limit} more" if len(listed) > limit else "")
