"""Names and labels of everything that Shoal makes in a namespace: deterministic, valid, and never another study's."""

from __future__ import annotations

import hashlib
import re

__all__ = [
    "ATTEMPT", "MANAGED_BY", "POINT", "PREFIX", "ROLE", "SCOPE", "SPEC", "STEP", "STUDY", "TASK", "config_name", "job_name",
    "label_value", "labels", "scope_of", "selector",
]  # fmt: skip

PREFIX = "shoal-ml.github.io"
MANAGED_BY = "app.kubernetes.io/managed-by"
STUDY = f"{PREFIX}/study"
STEP = f"{PREFIX}/step"
TASK = f"{PREFIX}/task"
ATTEMPT = f"{PREFIX}/attempt"
SCOPE = f"{PREFIX}/scope"
ROLE = f"{PREFIX}/role"
SPEC = f"{PREFIX}/spec"
POINT = f"{PREFIX}/point"

# A Job's name is a label of its pods (63 characters), and with "-INDEX" the host name of each pod of an indexed Job.
_LONGEST = 57
_LONGEST_LABEL = 63
_LABEL = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z")


def scope_of(study: str, claim: str, root: str) -> str:
    """What tells a study from all others in a namespace: a short digest of its name and of where its store is.

    Two people may run studies of one name in one namespace, each with a store of their own.

    Args:
        study: name of the study.
        claim: the store's claim, or its bucket.
        root: the store's folder.
    """
    return _digest(f"{study}\0{claim}\0{root}")[:8]


def job_name(study: str, step: str, task: str, attempt: int, scope: str) -> str:
    """The name of an attempt's Job, and of its Service: at most 57 characters, a DNS label that starts with a letter.

    Task, scope and attempt make it unique; study and step are for people, and cut where they are long.
    """
    tail = f"-{task}-{scope}-{attempt}"
    return _stem(f"{study}-{step}", _LONGEST - len(tail)) + tail


def config_name(kind: str, digest: str, scope: str, number: int | None = None) -> str:
    """The name of a ConfigMap, by what is in it: the same content never gets a second object in a study."""
    piece = "" if number is None else f"-{number}"
    return f"shoal-{kind}-{digest[:12]}-{scope}{piece}"


def label_value(text: str) -> str:
    """The text as the value of a label: as it is where that is valid, else cut, with a digest that keeps it apart."""
    if len(text) <= _LONGEST_LABEL and _LABEL.match(text):
        return text
    tail = "-" + _digest(text)[:8]
    stem = re.sub(r"[^-A-Za-z0-9_.]+", "-", text)[: _LONGEST_LABEL - len(tail)].strip("-_.")
    return (stem or "x") + tail


def labels(
    study: str, scope: str, *, step: str | None = None, task: str | None = None, attempt: int | None = None
) -> dict[str, str]:
    """The labels that every object has."""
    made = {MANAGED_BY: "shoal", STUDY: label_value(study), SCOPE: scope}
    if step is not None:
        made[STEP] = label_value(step)
    if task is not None:
        made[TASK] = task
    if attempt is not None:
        made[ATTEMPT] = str(attempt)
    return made


def selector(scope: str, **more: str) -> str:
    """The label selector of all objects of a study; ``more`` narrows it (``task``, ``step``)."""
    parts = [f"{MANAGED_BY}=shoal", f"{SCOPE}={scope}"]
    parts += [f"{PREFIX}/{name}={label_value(value)}" for name, value in sorted(more.items())]
    return ",".join(parts)


def _stem(text: str, longest: int) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not plain[:1].isalpha():  # a Service's name starts with a letter
        plain = f"s-{plain}".rstrip("-")
    return plain[:longest].rstrip("-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
