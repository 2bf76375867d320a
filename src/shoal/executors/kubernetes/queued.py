"""Why a queue does not let Jobs go: the events of Kueue's Workloads, in plain words. Pure, but for `read_pending`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from shoal.executors.contract import AttemptKey, Failure
from shoal.executors.kubernetes.attempt import Attempt
from shoal.executors.kubernetes.client import EVENTS, Client
from shoal.failures import FailureClass

__all__ = ["in_plain_words", "pending", "read_pending", "reasons"]

_FIELDS = "involvedObject.kind=Workload,reason=Pending"
_NO_FLAVOR = re.compile(r"^couldn't assign flavors to pod set \S+: ")
_IN_USE = re.compile(r"insufficient unused quota for (\S+) in flavor \S+?, (\S+) more needed")
_TOO_MUCH = re.compile(r"insufficient quota for (\S+) in flavor .*?current podset request \((\S+?)\).*?\((\S+?)\)")
_PREEMPTS = re.compile(r"Pending the preemption of (\d+) workload")


def read_pending(client: Client) -> dict[str, str]:
    """What Kueue said last of each Workload of the namespace that it did not let go; one request."""
    return pending(client.list(EVENTS, fields=_FIELDS).items)


def pending(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Name of a Workload to the last of its events."""
    found: dict[str, tuple[str, str]] = {}
    for one in events:
        name, said = str((one.get("involvedObject") or {}).get("name")), str(one.get("message") or "")
        at = str(one.get("lastTimestamp") or one.get("eventTime") or "")
        if said and at >= found.get(name, ("", ""))[0]:
            found[name] = (at, said)
    return {name: said for name, (_, said) in found.items()}


def reasons(
    attempts: Iterable[tuple[AttemptKey, Attempt]], found: Mapping[str, str], queue: str | None
) -> Iterator[tuple[AttemptKey, Failure]]:
    """Why those of the attempts wait that a queue does not let go, as far as something is said of them."""
    # A Workload has the name of its Job, and five letters more.
    said = {name.removeprefix("job-").rpartition("-")[0]: text for name, text in found.items()}
    for key, attempt in attempts:
        job = attempt.view.job
        if job is not None and job.suspended and job.name in said:
            text = f"It waits in the queue {queue}: {in_plain_words(said[job.name])}."
            yield key, Failure(FailureClass.UNSCHEDULABLE, text)


def in_plain_words(said: str) -> str:
    """Say Kueue's reason without its terms; what is not known stays as it is."""
    if (match := _PREEMPTS.search(said)) is not None:
        return f"less urgent work ({match[1]}) is being taken away for it"
    if (match := _IN_USE.search(said)) is not None:
        return f"the queue's quota of {match[1]} is in use, and {match[2]} more would have to become free"
    if (match := _TOO_MUCH.search(said)) is not None:
        return f"it asks for {match[2]} {match[1]}, and the queue's quota is {match[3]}: it will never be let go"
    return " ".join(_NO_FLAVOR.sub("", said).split())[:300].rstrip(".")
