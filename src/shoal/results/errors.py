"""The error of a question that the results cannot answer honestly."""

from __future__ import annotations

from collections.abc import Iterable

from shoal.errors import UsageError
from shoal.study import problems

__all__ = ["ResultError", "did_you_mean"]


class ResultError(UsageError):
    """A table, metric or axis was asked for that does not exist or would mislead.

    Raised for an unknown or ambiguous metric, an unknown axis, and a mean over an axis that nobody named.
    """


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """Return a hint that names the nearest known name, or all of them when there are few.

    Args:
        name: what was asked for.
        known: the names that exist.
        what: plural noun for them, such as ``"axes"``.
    """
    return problems.did_you_mean(name, known, f"Known {what}", "%s") or f"There are no {what} yet."
