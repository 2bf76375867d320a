"""The runner inside of the cluster: its objects, and the least rights that it works with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.testing import CliRunner

from shoal.cli import app, detached, inpod
from shoal.cli.on_cluster import running_jobs
from shoal.errors import UsageError
from shoal.executors.kubernetes import detach
from shoal.executors.kubernetes.preflight import NEEDED
from shoal.store import StudyStore

from .demo import FULL, PLAIN, cluster, objects
from .test_s3 import BUCKETED

RUNNER = "runner: {image: 'ghcr.io/example/shoal:1'}\n"
FILES = {"study.yaml": (b"study: s\n", False), "train.py": (b"1", True)}


def made(text: str = PLAIN, **more: Any) -> list[dict[str, Any]]:
    return detach.runner_objects("burned-area", cluster(text + RUNNER), FILES, ["run", "study.yaml"], **more)


@pytest.mark.parametrize("text", [PLAIN, FULL, BUCKETED])
def test_kubernetes_own_types_accept_the_objects(text: str) -> None:
    objects = [*made(text), *detach.account_objects(cluster(text))]
    assert {one["kind"] for one in objects} == {"ConfigMap", "Job", "ServiceAccount", "Role", "RoleBinding"}
    for one in objects:
        kubernetes_validate.validate(one, "1.34", strict=True)


def test_a_runner_that_is_evicted_comes_back_and_one_that_has_ended_does_not() -> None:
    spec = made()[-1]["spec"]
    disruption, final = spec["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert final["action"] == "FailJob"
    assert inpod._ENDED not in final["onExitCodes"]["values"]
    assert {1, 2, 3, inpod._STOPPED} == set(final["onExitCodes"]["values"])
    assert spec["backoffLimit"] > 0


def test_the_name_is_one_for_each_study_and_store() -> None:
    assert made()[-1]["metadata"]["name"] == made()[-1]["metadata"]["name"]
    elsewhere = PLAIN.replace("{claim: results}", "{claim: results, folder: other}")
    assert made(elsewhere)[-1]["metadata"]["name"] != made()[-1]["metadata"]["name"]


def test_the_runner_can_do_little() -> None:
    pod = made()[-1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert pod["serviceAccountName"] == "shoal-runner"
    requests = container["resources"]["requests"]
    assert requests == container["resources"]["limits"]
    assert (requests["cpu"], int(requests["memory"]) <= 2_000_000_000) == ("1", True), "exempt from the rule on use"


def test_the_runner_keeps_to_the_cluster_file_as_tasks_do() -> None:
    *maps, job = made(FULL)
    template = job["spec"]["template"]
    for meta in (job["metadata"], template["metadata"], maps[0]["metadata"]):
        assert meta["labels"]["team"] == "vision"
        assert meta["annotations"] == {"example.org/cost-centre": "1e5"}
    pod, task = template["spec"], objects(at=cluster(FULL))
    (of_task,) = (
        one for name, found in task.items() if name.startswith("chips/") for one in found if one["kind"] == "Job"
    )
    for key in ("affinity", "tolerations", "imagePullSecrets", "securityContext"):
        assert pod[key] == of_task["spec"]["template"]["spec"][key], key


def test_the_role_has_what_a_run_needs_and_nothing_of_secrets_or_of_the_cluster() -> None:
    rules = detach.role(cluster())["rules"]

    def grants(verb: str, group: str, resource: str) -> bool:
        return any(
            verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"] for rule in rules
        )

    for verb, resource, sub in NEEDED:
        assert grants(verb, resource.group, resource.plural + (f"/{sub}" if sub else "")), (verb, resource, sub)
    named = {resource for rule in rules for resource in rule["resources"]}
    assert not named & {"secrets", "nodes", "*", "roles", "pods/exec", "serviceaccounts"}
    assert not [rule for rule in rules if "*" in rule["verbs"] or "*" in rule["apiGroups"]]
    assert not grants("create", "", "pods")


def test_an_account_of_ones_own_is_used_and_nothing_made() -> None:
    own = cluster(PLAIN + "runner: {image: i, service_account: mine}\n")
    assert detach.account_objects(own) == []
    job = detach.runner_objects("s", own, FILES, ["run"])[-1]
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "mine"


def test_the_keys_of_a_bucket_come_by_secret_only() -> None:
    pod = made(BUCKETED)[-1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one for one in container["env"]}
    for key, inside in (("SHOAL_S3_KEY", "AWS_ACCESS_KEY_ID"), ("SHOAL_S3_SECRET", "AWS_SECRET_ACCESS_KEY")):
        assert env[key] == {"name": key, "valueFrom": {"secretKeyRef": {"name": "keys", "key": inside}}}
    assert not [one for one in pod["volumes"] if "persistentVolumeClaim" in one]


@pytest.mark.parametrize(
    ("text", "says"), [(PLAIN, "no image for the runner"), ("namespace: lab\n" + RUNNER, "has no store")]
)
def test_what_cannot_work_is_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        detach.runner_objects("s", cluster(text), FILES, ["run"])


def test_the_role_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "s.yaml").write_text("study: s\nsteps: {a: {run: 'true'}}\n")
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "lab.yaml").write_text("namespace: lab\nstore: {claim: results}\n" + RUNNER)
    done = CliRunner().invoke(app, ["run", str(tmp_path / "s.yaml"), "--on", "lab", "--print-role"])
    assert done.exit_code == 0, done.output
    kinds = [one["kind"] for one in yaml.safe_load_all(done.stdout)]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding"]
    assert not (tmp_path / "runs-lab").exists()
    # Where the cluster file names no namespace, it is the login's.
    (tmp_path / "clusters" / "lab.yaml").write_text("store: {claim: results}\n" + RUNNER)
    (tmp_path / "kubeconfig").write_text(
        "{current-context: a, contexts: [{name: a, context: {cluster: b, namespace: pond}}], "
        "clusters: [{name: b, cluster: {server: 'https://127.0.0.1:9'}}]}"
    )
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    done = CliRunner().invoke(app, ["run", str(tmp_path / "s.yaml"), "--on", "lab", "--print-role"])
    *_, binding = yaml.safe_load_all(done.stdout)
    assert (binding["metadata"]["namespace"], binding["subjects"][0]["namespace"]) == ("pond", "pond")


def ended(code: int, said: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "reason": "Error", "message": said}}
    status = {"phase": "Failed", "containerStatuses": [{"name": detach.CONTAINER, "state": state}]}
    return {"metadata": {"name": "shoal-run-5c0pe-x"}, "status": status}


def test_why_a_runner_ended_is_said_where_it_could_not_run_at_all(tmp_path: Path) -> None:
    store = StudyStore(tmp_path)
    missing = ended(1, "python3: Error (ModuleNotFoundError: No module named 'shoal')")
    assert "its image has no Shoal" in str(detached._last_words([missing], store))
    assert "exit code 2:\n  a word" in str(detached._last_words([ended(2, "a word")], store))
    # With a record of its own it has told already what failed.
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "1.json").write_text('{"host": "shoal-run-5c0pe-x"}')
    assert detached._last_words([ended(1, "1 failed")], store) is None
    assert detached._last_words([ended(0)], store) is None
    assert detached._last_words([], store) is None
    assert detached._why_no_pod([ended(130)]) is None, "its Job will say so"
    another = detached._why_no_pod([ended(128, 'exec: "python9": not found')])
    assert another == 'its pod ended with exit code 128, and another one follows: exec: "python9": not found'
    assert detached._why_no_pod([]) == "it waits for its pod"


def test_a_job_whose_pods_have_ended_does_not_run_whatever_it_says() -> None:
    jobs = [{"name": name, "active": active} for name, active in (("a", 1), ("b", 1), ("c", 1), ("d", None))]
    pods = [{"job": "a", "phase": "Succeeded"}, {"job": "b", "phase": "Failed"}, {"job": "b", "phase": "Pending"}]
    assert running_jobs(jobs, pods) == 2, "b, and c, which has no pod yet"


def test_passed_gates_are_taken_where_there_are_none(tmp_path: Path) -> None:
    study, store = tmp_path / "study", tmp_path / "store"
    gate = study / inpod.APPROVED / "look" / "aaaaaaaaaaaa"
    (gate / "out").mkdir(parents=True)
    (gate / "out" / "chosen.txt").write_text("7")
    (gate / "result.json").write_text('{"task": "aaaaaaaaaaaa"}')
    inpod.take_approvals(str(study), store)
    assert (store / "look" / "aaaaaaaaaaaa" / "out" / "chosen.txt").read_text() == "7"
    (store / "look" / "aaaaaaaaaaaa" / "result.json").write_text("{}")
    inpod.take_approvals(str(study), store)
    assert (store / "look" / "aaaaaaaaaaaa" / "result.json").read_text() == "{}"
