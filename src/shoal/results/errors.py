"""The error of a question that the results cannot answer honestly."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from shoal.errors import UsageError

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
    names = list(dict.fromkeys(known))
    if not names:
        return f"There are no {what} yet."
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    hint = f"Known {what}: {listed}."
    return f"{hint} Did you mean {near[0]}?" if near else hint
