"""What pods and Jobs say of themselves, in the shapes that Kubernetes gives, as failures."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.agent.agent import EXIT_CODES
from shoal.executors.kubernetes import pod as inside
from shoal.executors.kubernetes.status import decode_message, failure_of_job, failure_of_pod, waiting_for
from shoal.failures import FailureClass


def ended(code: int, reason: str = "Error", message: str = "", **status: Any) -> dict[str, Any]:
    """A failed pod whose container ended."""
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"status": {"phase": "Failed", "containerStatuses": [{"name": "task", "state": state}], **status}}


def disrupted(reason: str, code: int = 17) -> dict[str, Any]:
    message = inside.encode({"v": 1, "failure": {"class": "preempted", "message": "SIGTERM", "lines": []}}).decode()
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "node-3: preempting"}
    return ended(code, message=message, conditions=[condition])


def pending(reason: str, message: str = "") -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"status": {"phase": "Pending", "containerStatuses": [{"name": "task", "image": "x/y:1", "state": state}]}}


@pytest.mark.parametrize(("name", "code"), EXIT_CODES.items())
def test_the_agents_exit_status_tells_the_class_even_without_a_message(name: str, code: int) -> None:
    found = failure_of_pod(ended(code))
    assert found is not None
    assert found.kind.value == name


def test_the_agents_own_words_come_first() -> None:
    said = {"v": 1, "failure": {"class": "oom-gpu", "message": "Out of memory on a 24 GB GPU.", "lines": ["CUDA oom"]}}
    found = failure_of_pod(ended(13, message=inside.encode(said).decode()))
    assert found is not None
    assert (found.kind, found.message, found.lines) == (
        FailureClass.OOM_GPU, "Out of memory on a 24 GB GPU.", ("CUDA oom",),
    )  # fmt: skip
    problem = {"v": 1, "problem": "an input is not in the store: x"}
    found = failure_of_pod(ended(18, message=inside.encode(problem).decode()))
    assert found is not None
    assert (found.kind, found.message) == (FailureClass.STORE, "an input is not in the store: x")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("PreemptionByScheduler", FailureClass.PREEMPTED),
        ("EvictionByEvictionAPI", FailureClass.PREEMPTED),
        ("TerminationByKubelet", FailureClass.PREEMPTED),
        ("DeletionByTaintManager", FailureClass.NODE_LOST),
        ("DeletionByPodGC", FailureClass.NODE_LOST),
        ("SomethingNew", FailureClass.PREEMPTED),
    ],
)
def test_disruptions_are_the_platforms(reason: str, kind: FailureClass) -> None:
    found = failure_of_pod(disrupted(reason))
    assert found is not None
    assert found.kind is kind
    assert found.kind.platform


def test_a_task_that_failed_by_itself_while_it_was_disrupted_failed_by_itself() -> None:
    pod = disrupted("PreemptionByScheduler", code=1)
    said = {"v": 1, "failure": {"class": "user", "message": "KeyError", "lines": []}}
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = inside.encode(said).decode()
    found = failure_of_pod(pod)
    assert found is not None
    assert found.kind is FailureClass.USER


PODS = [
    (ended(137, "OOMKilled"), FailureClass.OOM_HOST, "more memory than its limit"),
    (ended(137), FailureClass.NODE_LOST, "signal 9"),
    (ended(128, "StartError", 'exec: "python3": executable file not found in $PATH'), FailureClass.USER, "Python 3 is missing"),
    (ended(128, "ContainerCannotRun", "permission denied"), FailureClass.USER, "permission denied"),
    (ended(20), FailureClass.NODE_LOST, "Another pod"),
    ({"status": {**ended(143)["status"], "reason": "DeadlineExceeded"}}, FailureClass.TIMEOUT, "deadline"),
    (
        {"status": {**ended(137)["status"], "reason": "Evicted",
                    "message": "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi."}},
        FailureClass.USER, "resources.disk",
    ),
    (
        {"status": {**ended(137)["status"], "reason": "Evicted", "message": "The node was low on resource: memory."}},
        FailureClass.PREEMPTED, "low on resource",
    ),
    (
        {"status": {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: no GPU"}},
        FailureClass.NODE_LOST, "UnexpectedAdmissionError",
    ),
    ({"status": {"phase": "Failed", "reason": "OutOfnvidia.com/gpu"}}, FailureClass.NODE_LOST, "OutOfnvidia.com/gpu"),
    ({"status": {"phase": "Failed"}}, FailureClass.NODE_LOST, "left no word"),
]  # fmt: skip


@pytest.mark.parametrize(("pod", "kind", "said"), PODS)
def test_what_nodes_say(pod: dict[str, Any], kind: FailureClass, said: str) -> None:
    found = failure_of_pod(pod)
    assert found is not None
    assert found.kind is kind
    assert said in found.message


def test_pods_that_have_not_failed() -> None:
    assert failure_of_pod({}) is None
    assert failure_of_pod({"status": {"phase": "Running"}}) is None
    assert failure_of_pod({"status": {"phase": "Succeeded"}}) is None
    assert failure_of_pod(ended(0, "Completed")) is None
    assert waiting_for({"status": {"phase": "Running"}}) is None
    assert waiting_for({"status": {"phase": "Pending"}}) is None
    assert waiting_for(pending("ContainerCreating")) is None


@pytest.mark.parametrize(
    ("pod", "kind", "said"),
    [
        (pending("ImagePullBackOff", "not found"), FailureClass.IMAGE_PULL, "x/y:1 cannot be fetched: not found"),
        (pending("InvalidImageName"), FailureClass.IMAGE_PULL, "InvalidImageName"),
        (pending("CreateContainerConfigError", 'secret "shoal-secrets" not found'), FailureClass.USER, "shoal-secrets"),
        (pending("CreateContainerError", "device busy"), FailureClass.NODE_LOST, "device busy"),
    ],
)
def test_what_keeps_a_pod_from_starting(pod: dict[str, Any], kind: FailureClass, said: str) -> None:
    found = waiting_for(pod)
    assert found is not None
    assert (found.kind, said in found.message) == (kind, True)


def test_the_scheduler_in_plain_words() -> None:
    message = (
        "0/214 nodes are available: 3 Insufficient memory, 120 Insufficient nvidia.com/gpu, 80 node(s) didn't match Pod's node "
        "affinity/selector, 7 node(s) had untolerated taint {nautilus.io/issue: 12}, 4 node(s) had untolerated taint "
        "{nautilus.io/issue: 9}. preemption: 0/214 nodes are available: 94 Preemption is not helpful for scheduling."
    )
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    found = waiting_for({"status": {"phase": "Pending", "conditions": [condition]}})
    assert found is not None
    assert found.kind is FailureClass.UNSCHEDULABLE
    assert found.message == (
        "No node has room: of 214 nodes 120 have too little free nvidia.com/gpu, 80 are not of the GPU type or place asked for, "
        "11 are tainted nautilus.io/issue, 3 have too little free memory."
    )
    unbound = "pod has unbound immediate PersistentVolumeClaims"
    for message, said in (
        ('persistentvolumeclaim "results" not found', "The claim results is not there."),
        (f"0/9 nodes are available: {unbound}. not found", "A claim that it mounts is not bound to a volume"),
        ("no luck", "It cannot be placed: no luck"),
    ):
        condition["message"] = message
        found = waiting_for({"status": {"phase": "Pending", "conditions": [condition]}})
        assert found is not None
        assert found.message.startswith(said)


@pytest.mark.parametrize(
    ("reason", "message", "kind"),
    [
        (
            "PodFailurePolicy",
            "Pod lab/a-b has condition DisruptionTarget matching FailJob rule at index 0",
            FailureClass.PREEMPTED,
        ),
        (
            "PodFailurePolicy",
            "Container task for pod lab/a-b failed with exit code 13 matching FailJob rule at index 1",
            FailureClass.OOM_GPU,
        ),
        (
            "PodFailurePolicy",
            "Container task for pod lab/a-b failed with exit code 137 matching FailJob rule at index 2",
            FailureClass.NODE_LOST,
        ),
        ("BackoffLimitExceeded", "Job has reached the specified backoff limit", FailureClass.NODE_LOST),
        ("DeadlineExceeded", "Job was active longer than specified deadline", FailureClass.TIMEOUT),
    ],
)
def test_a_job_tells_when_its_pod_is_gone(reason: str, message: str, kind: FailureClass) -> None:
    job = {"status": {"conditions": [{"type": "Failed", "status": "True", "reason": reason, "message": message}]}}
    found = failure_of_job(job)
    assert found is not None
    assert found.kind is kind
    assert failure_of_job({"status": {"conditions": [{"type": "Complete", "status": "True"}]}}) is None
    assert failure_of_job({}) is None


metrics = st.dictionaries(st.text(max_size=12), st.floats(allow_nan=False, allow_infinity=False), max_size=400)


@given(metrics)
def test_messages_come_back_as_they_were(values: dict[str, float]) -> None:
    said = {"v": 1, "task": "x", "metrics": values}
    found = decode_message(inside.encode(said).decode())
    assert found == said or found["left_out"] == ["metrics"]


@given(st.text(max_size=80))
def test_other_texts_are_no_messages(text: str) -> None:
    assert decode_message(text) == {}
    assert decode_message(f"gz:{text}") == {}
    assert decode_message(None) == {}
    assert decode_message("[" * 4096) == {}
