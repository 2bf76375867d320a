"""What a pod's or a Job's status says: how an attempt ended or what it waits for, in the words of failures. Pure."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

from shoal.agent.agent import EXIT_CLAIMED, EXIT_CODES, EXIT_SPEC
from shoal.executors.contract import Failure
from shoal.executors.kubernetes.podspec import CONTAINER
from shoal.failures import FailureClass

__all__ = ["decode_message", "failure_of_job", "failure_of_pod", "waiting_for"]

_CLASS = {code: FailureClass(name) for name, code in EXIT_CODES.items()}
_DISRUPTIONS = {
    "PreemptionByScheduler": (FailureClass.PREEMPTED, "Preempted by a pod of higher priority."),
    "DeletionByTaintManager": (FailureClass.NODE_LOST, "Its node went away or was tainted."),
    "EvictionByEvictionAPI": (FailureClass.PREEMPTED, "Evicted, as when a node is drained for maintenance."),
    "DeletionByPodGC": (FailureClass.NODE_LOST, "Its node is gone."),
    "TerminationByKubelet": (FailureClass.PREEMPTED, "Ended by its node, which ran low on something or was shut down."),
}
_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"})
_LONGEST = 300


def decode_message(text: str | None) -> dict[str, Any]:
    """What a pod left as its termination message; empty where that is none of ours (a log's tail, or nothing)."""
    if not text:
        return {}
    try:
        if text.startswith("gz:"):
            text = gzip.decompress(base64.b64decode(text[3:], validate=True)).decode()
        found = json.loads(text)
    except (ValueError, binascii.Error, OSError, EOFError, zlib.error, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("v") == 1 else {}


def failure_of_pod(pod: Mapping[str, Any]) -> Failure | None:
    """Why a pod has failed; None while it has not (it waits, runs or has succeeded)."""
    status = pod.get("status") or {}
    ended = _terminated(status)
    if status.get("phase") == "Succeeded" or (ended is not None and ended.get("exitCode") == 0):
        return None
    if status.get("phase") != "Failed" and ended is None:
        return None
    own = _own_word(ended)
    # An agent that was asked to end says "preempted"; Kubernetes knows better by whom.
    if own is not None and own.kind is not FailureClass.PREEMPTED:
        return own
    return _disruption(status) or _by_node(status) or own or _by_exit(ended)


def failure_of_job(job: Mapping[str, Any]) -> Failure | None:
    """Why a Job has failed, from its own condition, for when its pod is gone; None while it has not."""
    conditions = (job.get("status") or {}).get("conditions") or []
    failed = next((one for one in conditions if one.get("type") == "Failed" and one.get("status") == "True"), None)
    if failed is None:
        return None
    message = str(failed.get("message") or "")
    if failed.get("reason") == "PodFailurePolicy":
        if "DisruptionTarget" in message:
            return Failure(FailureClass.PREEMPTED, "The platform took the machine back.")
        if (code := re.search(r"exit code (\d+)", message)) is not None:
            return _by_exit({"exitCode": int(code[1])})
    if failed.get("reason") == "DeadlineExceeded":
        return Failure(FailureClass.TIMEOUT, "It ran longer than its deadline.")
    return Failure(FailureClass.NODE_LOST, f"No node could start it: {_short(message) or 'the pod is gone'}")


def waiting_for(pod: Mapping[str, Any], container: str = CONTAINER) -> Failure | None:
    """What keeps a pod from starting, if that is something that may not go away by itself; None otherwise.

    How long to be patient is the caller's to decide.

    Args:
        pod: the pod.
        container: name of the one that counts.
    """
    status = pod.get("status") or {}
    if status.get("phase") != "Pending":
        return None
    waiting = (_container(status, container).get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason"), _short(str(waiting.get("message") or ""))
    if reason in _PULL:
        image = _container(status, container).get("image") or "the image"
        return Failure(FailureClass.IMAGE_PULL, f"{image} cannot be fetched: {message or reason}")
    if reason == "CreateContainerConfigError":
        return Failure(FailureClass.USER, f"The container cannot be configured: {message}")
    if reason in ("CreateContainerError", "RunContainerError"):
        return Failure(FailureClass.NODE_LOST, f"The node cannot start the container: {message}")
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False" and one.get("reason") == "Unschedulable":
            return Failure(FailureClass.UNSCHEDULABLE, _plain(str(one.get("message") or "")))
    return None


def _container(status: Mapping[str, Any], name: str = CONTAINER) -> Mapping[str, Any]:
    found = [one for one in status.get("containerStatuses") or [] if one.get("name") == name]
    return found[0] if found else {}


def _terminated(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    ended = (_container(status).get("state") or {}).get("terminated")
    return ended if isinstance(ended, dict) else None


def _own_word(ended: Mapping[str, Any] | None) -> Failure | None:
    said = decode_message((ended or {}).get("message"))
    try:
        return Failure.from_json(said["failure"])
    except (KeyError, TypeError, ValueError):
        pass
    if ended is not None and "problem" in said:
        kind = _CLASS.get(int(ended.get("exitCode") or 0), FailureClass.STORE)
        return Failure(kind, str(said["problem"]))
    return None


def _disruption(status: Mapping[str, Any]) -> Failure | None:
    for one in status.get("conditions") or []:
        if one.get("type") == "DisruptionTarget" and one.get("status") == "True":
            kind, sentence = _DISRUPTIONS.get(
                str(one.get("reason")), (FailureClass.PREEMPTED, "The platform took the machine back.")
            )
            return Failure(kind, sentence, tuple(filter(None, [_short(str(one.get("message") or ""))])))
    return None


def _by_node(status: Mapping[str, Any]) -> Failure | None:
    """The node's own words, where it ended or refused the pod."""
    reason, message = status.get("reason"), _short(str(status.get("message") or ""))
    if reason == "DeadlineExceeded":
        return Failure(FailureClass.TIMEOUT, "It ran longer than its deadline, and its agent did not end it.")
    if reason == "Evicted":
        if re.search(r"exceeds|exceeded", message):
            # Its own doing: a node that runs low marks the pod as disrupted.
            return Failure(
                FailureClass.USER, f"Evicted for using more disk than it asked for (resources.disk): {message}"
            )
        return Failure(FailureClass.PREEMPTED, f"Evicted: {message}")
    if reason is not None and not _container(status):
        return Failure(FailureClass.NODE_LOST, f"The node refused it ({reason}): {message}")
    if reason in ("NodeLost", "Shutdown", "Terminated", "NodeShutdown"):
        return Failure(FailureClass.NODE_LOST, f"Its node went down ({reason}).")
    return None


def _by_exit(ended: Mapping[str, Any] | None) -> Failure:
    if ended is None:
        return Failure(FailureClass.NODE_LOST, "The pod has failed and left no word.")
    code, reason = int(ended.get("exitCode") or 0), ended.get("reason")
    message = str(ended.get("message") or "")
    if reason == "OOMKilled":
        return Failure(FailureClass.OOM_HOST, "The container used more memory than its limit and was killed.")
    if reason in ("StartError", "ContainerCannotRun") or code in (126, 127, 128):
        python = "Python 3 is missing in the image" if "not found" in message or "no such file" in message else None
        return Failure(
            FailureClass.USER, f"The container cannot start: {python or _short(message) or f'exit code {code}'}"
        )
    if code in _CLASS:
        kind = _CLASS[code]
        return Failure(kind, kind.sentence)
    if code == EXIT_SPEC:
        return Failure(FailureClass.STORE, "The agent could not read its specification.")
    if code == EXIT_CLAIMED:
        return Failure(FailureClass.NODE_LOST, "Another pod had begun this attempt.")
    signal = f" by signal {code - 128}" if 128 < code < 160 else ""
    return Failure(FailureClass.NODE_LOST, f"The container was ended{signal} (exit code {code}) and left no word.")


_WHY = (
    (re.compile(r"(\d+) Insufficient (\S+)"), "{0} have too little free {1}"),
    (
        re.compile(r"(\d+) node\(s\) didn't match Pod's node affinity/selector"),
        "{0} are not of the GPU type or place asked for",
    ),
    (re.compile(r"(\d+) node\(s\) didn't match node selector"), "{0} are not of the GPU type or place asked for"),
    (re.compile(r"(\d+) node\(s\) had untolerated taint \{([^:}]*)[^}]*\}"), "{0} are tainted {1}"),
    (re.compile(r"(\d+) node\(s\) had volume node affinity conflict"), "{0} cannot reach the claim"),
    (re.compile(r"(\d+) node\(s\) were unschedulable"), "{0} are closed for maintenance"),
    (re.compile(r"(\d+) Too many pods"), "{0} are full of pods"),
)


def _plain(message: str) -> str:
    """The scheduler's message in plain words; as it is where it says something else."""
    if (claim := re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)', message)) is not None:
        return f"The claim {claim[1]} {'is not there' if claim[2] == 'not found' else claim[2]}."
    if "unbound immediate PersistentVolumeClaims" in message:
        return "A claim that it mounts is not bound to a volume: kubectl describe pvc shows why."
    head = re.match(r"0/(\d+) nodes are available: (.*)", message, re.S)
    if head is None:
        return f"It cannot be placed: {_short(message)}" if message else "It cannot be placed."
    text = re.split(r"\. ?(?:preemption|no new claims)", head[2])[0]
    counts: dict[str, int] = {}
    for pattern, words in _WHY:
        for found in pattern.findall(text):
            count, *rest = (found,) if isinstance(found, str) else found
            said = words.format("{0}", *(part.rstrip(",.") for part in rest))
            counts[said] = counts.get(said, 0) + int(count)
    why = [words.format(count) for words, count in sorted(counts.items(), key=lambda item: -item[1])]
    return f"No node has room: of {head[1]} nodes {', '.join(why) if why else _short(text)}."


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
