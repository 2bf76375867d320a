"""Why attempts do not start yet, for how long that is put up with, and what the server's refusals mean for an attempt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from shoal.errors import ShoalError, StoreError
from shoal.executors.contract import AttemptKey, Failure
from shoal.executors.kubernetes.client import (
    EVENTS,
    AlreadyExists,
    Busy,
    Client,
    Conflict,
    Denied,
    Forbidden,
    Invalid,
    NotFound,
    QuotaExceeded,
    ServerFault,
    Unauthorized,
    Unreachable,
)
from shoal.executors.kubernetes.login import LoginError
from shoal.executors.kubernetes.seen import View
from shoal.failures import FailureClass

__all__ = ["Patience", "refusal"]

_QUIET = 3.0
_CURIOUS_EVERY = 10.0
_NOTE_EVERY = 60.0
_NOTE_AFTER = 10.0
_FORBIDDEN_TRIES = 5
"""About a minute."""


def refusal(error: ShoalError, tries: int) -> tuple[Failure | None, float]:
    """What a refused submission means: the attempt's end, or None and the seconds after which to try again.

    Args:
        error: what the server, or the way to it, said.
        tries: how often it was tried before.
    """
    pause = min(60.0, 2.0 * 2**tries)
    if isinstance(error, QuotaExceeded):
        return None, max(5.0, pause)
    if isinstance(error, Unreachable | Busy | ServerFault | Unauthorized | LoginError | Conflict | AlreadyExists):
        # None of these says anything of the attempt: it waits.
        return None, pause
    if isinstance(error, Forbidden) and tries < _FORBIDDEN_TRIES:
        # Rights were looked at before the run. A server that has just started does not know them all yet.
        return None, pause
    if isinstance(error, NotFound | Forbidden):
        return Failure(FailureClass.UNSCHEDULABLE, _sentence(error)), 0.0
    if isinstance(error, Denied | Invalid):
        return Failure(FailureClass.USER, _sentence(error)), 0.0
    kind = FailureClass.STORE if isinstance(error, StoreError) else FailureClass.USER
    return Failure(kind, _sentence(error)), 0.0


def _sentence(error: ShoalError) -> str:
    text = error.message
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


@dataclass(slots=True)
class Patience:
    """Keeps why each attempt waits.

    Attributes:
        pull: seconds until an image that cannot be fetched is a failure.
        start: seconds until a container that cannot be made is one.
    """

    pull: float = 180.0
    start: float = 60.0
    _why: dict[AttemptKey, Failure] = field(default_factory=dict)
    _since: dict[AttemptKey, tuple[FailureClass, float]] = field(default_factory=dict)
    _changed: set[AttemptKey] = field(default_factory=set)
    _next_question: float = 0.0
    _last_note: tuple[str, float] = ("", 0.0)
    _first: float = 0.0

    def say(self, key: AttemptKey, why: Failure) -> None:
        """An attempt waits for a reason."""
        before = self._why.get(key)
        if before is None or before.message != why.message:
            self._why[key] = why
            self._changed.add(key)

    def forget(self, key: AttemptKey) -> None:
        """It waits no more."""
        self._why.pop(key, None)
        self._since.pop(key, None)
        self._changed.discard(key)

    def changed(self) -> list[tuple[AttemptKey, Failure]]:
        """The attempts whose reason has changed since this was asked last."""
        found = [(key, self._why[key]) for key in self._changed if key in self._why]
        self._changed.clear()
        return found

    def look(self, key: AttemptKey, view: View, now: float, age: float, queue: str | None) -> Failure | None:
        """Look at an attempt that has not started; return why it is to be given up, or None."""
        why: Failure | None = None
        for pod in view.mine():
            why = pod.waiting or why
        if why is None:
            if view.job is not None and view.job.suspended and age > _QUIET:
                said = f"It waits in the queue {queue}" if queue else "It waits because its Job is suspended"
                if key not in self._why or not self._why[key].message.startswith(said):
                    self.say(key, Failure(FailureClass.UNSCHEDULABLE, f"{said}."))
            self._since.pop(key, None)
            return None
        if age > _QUIET:
            self.say(key, why)
        kind, since = self._since.setdefault(key, (why.kind, now))
        if kind is not why.kind:
            since = now
            self._since[key] = (why.kind, now)
        if why.kind is FailureClass.UNSCHEDULABLE:
            return None
        hopeless = "InvalidImageName" in why.message or "couldn't parse image" in why.message
        most = self.pull if why.kind is FailureClass.IMAGE_PULL else self.start
        return why if hopeless or now - since >= most else None

    def curious(self, now: float) -> bool:
        """Whether it is time to ask again why a Job has no pod."""
        if now < self._next_question:
            return False
        self._next_question = now + _CURIOUS_EVERY
        return True

    def why_no_pod(self, job: str) -> Callable[[Client], str | None]:
        """Read the last event of a Job that tells why it could not make its pod."""

        def read(client: Client) -> str | None:
            fields = f"involvedObject.kind=Job,involvedObject.name={job},reason=FailedCreate"
            events = client.list(EVENTS, fields=fields).items
            if not events:
                return None
            last = max(events, key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
            said = " ".join(str(last.get("message") or "").split())
            if "exceeded quota" in said:
                return f"No quota is left for its pod: {said[said.index('exceeded quota') :][:300]}"
            return f"Its pod cannot be made: {said[:300]}"

        return read

    def note(self, now: float) -> str | None:
        """What a person should hear about what waits; None while there is nothing new."""
        if not self._why:
            self._first = 0.0
            return None
        self._first = self._first or now
        message, count = Counter(one.message for one in self._why.values()).most_common(1)[0]
        said, at = self._last_note
        if now - self._first < _NOTE_AFTER or message == said or now - at < _NOTE_EVERY:
            return None
        self._last_note = (message, now)
        return f"{count} {'task waits' if count == 1 else 'tasks wait'}: {message}"
