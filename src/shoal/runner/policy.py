"""What follows a failure: try again, give up, or stop the whole step. Decisions only, no effects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from shoal.failures import FailureClass, signature

__all__ = ["Canary", "Retry", "decide"]

PLATFORM_TRIES = 8
"""How often a task may be hit by faults of the platform in one run before it is given up."""

_LONGEST_DELAY = 60.0


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again, not before ``delay`` seconds from now."""

    delay: float


def decide(failures: Iterable[FailureClass], retries: int) -> Retry | None:
    """Whether a task that just failed is tried again.

    A failure of the user's code spends one of the step's ``retries``. A fault of the platform does not; it has a bound of its
    own, and each one in a row waits twice as long. Cancelling is final.

    Args:
        failures: classes of the task's failures in this run, oldest first.
        retries: how many failures of its own the step forgives.

    Returns:
        When to try again; None to give up.
    """
    seen = list(failures)
    last = seen[-1]
    if last is FailureClass.CANCELLED:
        return None
    counts = Counter(kind.platform for kind in seen)
    if not last.platform:
        return Retry(0.0) if counts[False] <= retries else None
    if counts[True] > PLATFORM_TRIES:
        return None
    return Retry(min(_LONGEST_DELAY, 0.5 * 2 ** (counts[True] - 1)))


@dataclass(slots=True)
class Canary:
    """Stops a step whose first tasks all fail alike.

    Attributes:
        size: how many tasks must fail before any has succeeded; 0 never stops.
        proven: a task of the step has succeeded, in this run or before.
    """

    size: int
    proven: bool = False
    _failed: dict[str, tuple[FailureClass, str]] = field(default_factory=dict)

    def succeeded(self) -> None:
        """A task of the step ended well: the step works."""
        self.proven = True

    def failed(self, task: str, kind: FailureClass, message: str) -> bool:
        """A task failed. Returns whether the step is to be stopped."""
        if self.proven or not self.size or kind is FailureClass.CANCELLED or kind.platform:
            return False
        self._failed.setdefault(task, (kind, signature(message)))
        return len(self._failed) >= self.size and len(set(self._failed.values())) == 1
