"""Every rule of NRP that can be known before submission, each with a study that keeps it and one that breaks it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.clusters import Cluster, Finding, check, load_cluster, parse_cluster
from shoal.clusters.commands import commands_of, ends_in_sleep, installs, sleeps
from shoal.clusters.peak import peak
from shoal.plan import build
from shoal.study import parse_study

MINE = """
extends: nautilus
namespace: lab
store: {claim: results}
volumes: [{claim: data, path: /data}]
"""
TRAIN: dict[str, Any] = {
    "run": "python train.py --lr {lr} --out {out}",
    "matrix": {"lr": [1, 2]},
    "image": "ghcr.io/example/train:1",
    "resources": {"gpu": 1, "gpu_type": ["rtx3090"], "cpu": 4, "memory": "24Gi", "shm": "8Gi"},
}


def findings(
    step: dict[str, Any] | None = None, *, cluster: str = "", study: dict[str, Any] | None = None, **more: Any
) -> dict[str, list[Finding]]:
    """What is said of a one-step study, by rule."""
    text = {"study": "s", "steps": {"train": {**TRAIN, **(step or {})}}, **(study or {})}
    plan = build(parse_study(json.dumps(text)))
    found: dict[str, list[Finding]] = {}
    for finding in check(plan, parse_cluster(MINE + cluster, "mine.yaml"), **more):
        found.setdefault(finding.rule, []).append(finding)
    return found


def resources(**more: Any) -> dict[str, Any]:
    """TRAIN's resources, changed."""
    return {"resources": {**TRAIN["resources"], **more}}


def test_a_good_study_is_all_ok() -> None:
    found = findings()
    assert {finding.level for rule in found.values() for finding in rule} == {"ok"}
    assert found["gpu-names"][0].text.endswith("nvidia.com/gpu")


def test_every_policy_of_nautilus_that_plan_checks_says_something() -> None:
    # Each rule speaks up where it applies: a rule that is never heard is not checked.
    said = {rule for rule, found in findings({"resources": {**TRAIN["resources"], "disk": "10Gi"}}).items() if found}
    planned = {name for name, policy in load_cluster("nautilus").policies.items() if policy.check != "people"}
    assert planned <= said


BROKEN = [
    ("no-sleep", {"run": "python x.py {lr}; sleep infinity"}, "", "error", "ends in sleep"),
    ("no-sleep", {"run": ["sh", "-c", "tail -f /dev/null {lr}"]}, "", "error", "ends in sleep"),
    ("no-sleep", {"run": "sleep 30 && python x.py {lr}"}, "", "warn", "sleeps"),
    ("gpus-on-a-node", resources(gpu=16), "", "error", "16 GPUs on one node"),
    ("announce-many-gpus", {"matrix": {"lr": list(range(60))}}, "", "note", "60 GPUs at once"),
    ("no-job-storm", {"matrix": {"lr": list(range(101))}}, "", "note", "101 pods at once"),
    ("gpu-names", resources(gpu_type=["a40", "rtx3090"]), "", "note", "one resource only"),
    ("gpu-quota", resources(gpu_type=["a100"]), "", "error", "a100 needs a reservation"),
    ("gpu-quota", resources(gpu_type=["a100", "a40"]), "", "warn", "a100 needs a reservation"),
    ("gpu-quota", resources(gpu_type=["h100"]), "", "note", "h100 runs as opportunistic"),
    ("gpu-quota", resources(gpu_type=["h100"]), "defaults: {priority_class: opportunistic2}", "error", "opportunistic only"),
    ("priority-classes", {}, "defaults: {priority_class: high}", "error", "high is rejected"),
    ("tolerations", {}, "defaults: {tolerations: [{key: nautilus.io/system}]}", "error", "never allowed"),
    ("tolerations", {}, "defaults: {tolerations: [{key: nautilus.io/issue}]}", "error", "never allowed"),
    ("tolerations", {}, "defaults: {tolerations: [{key: nautilus.io/reservation}]}", "warn", "after approval"),
    ("tolerations", {}, "defaults: {tolerations: [{effect: NoSchedule}]}", "error", "every taint"),
    ("tolerations", {}, "defaults: {tolerations: [{key: nautilus.io/harware}]}", "warn", "no such taint"),
    ("ephemeral-storage", resources(disk="51Gi"), "", "warn", "may be evicted"),
    ("shared-memory", resources(shm=None), "", "warn", "64 MB"),
    ("shared-memory", resources(shm="24Gi"), "", "warn", "counts as memory"),
    ("backoff-and-ttl", {}, "defaults: {ttl: 30d}", "warn", "30d"),
    ("limits-near-requests", {}, "limits: {memory: 2}", "error", "2 x the request"),
    ("limits-near-requests", {"matrix": {"lr": list(range(101))}}, "limits: {equal_above: 5000}", "error", "have to be equal"),
    ("no-environments-on-cephfs", {"run": "pip install x && python x.py {lr}"}, "", "warn", "anew in every task"),
    ("no-environments-on-cephfs", {"run": "conda create -p {out}/env; x {lr}"}, "", "error", "shared store"),
    ("no-environments-on-cephfs", {"run": "python3 -m venv /data/env; x {lr}"}, "", "error", "shared store"),
    ("image", {"image": None}, "", "error", "no image for train"),
    ("store", {}, "store: null", "note", "names no store"),
    ("store", {}, "store: {claim: results, shared: false}", "warn", "one node at a time"),
    ("gpu-types", resources(gpu_type=["rtx3091"]), "", "error", "no GPU is called rtx3091"),
    ("gpu-types", resources(gpu_type=["rtx3091", "a10"]), "", "warn", "no GPU is called rtx3091"),
    ("regions", {}, "defaults: {regions: [us-cental]}", "warn", "no region us-cental is known"),
    ("gpu-types", resources(gpu_type=["t4"], gpu_memory="24Gi"), "", "error", "t4 has 15Gi"),
    ("gpu-types", resources(gpu_type=[], gpu_memory="80Gi"), "", "error", "asked for as nvidia.com/gpu has 80Gi"),
    ("nodes", resources(nodes=2), "", "note", "each of its 2 nodes"),
    ("secrets", {"secrets": ["WANDB_API_KEY"]}, "", "note", "WANDB_API_KEY"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "step", "cluster", "level", "said"), BROKEN)
def test_what_breaks_a_rule_is_found(rule: str, step: dict[str, Any], cluster: str, level: str, said: str) -> None:
    if cluster.startswith("store"):
        cluster_text = MINE.replace("store: {claim: results}\n", "") + cluster
        plan = build(parse_study(json.dumps({"study": "s", "steps": {"train": TRAIN}})))
        found = [one for one in check(plan, parse_cluster(cluster_text)) if one.rule == rule]
    else:
        found = findings(step, cluster=cluster)[rule]
    worst = found[-1]
    assert worst.level == level
    assert said in worst.text
    policies = load_cluster("nautilus").policies
    if level in ("warn", "error") and rule in policies:
        assert worst.reason == policies[rule].reason


def test_max_parallel_that_keeps_below_is_named_and_does_keep_below() -> None:
    step = {"matrix": {"lr": list(range(60))}, **resources(gpu=4)}
    note = findings(step)["announce-many-gpus"][0]
    assert note.hint == "--max-parallel 12 keeps below"
    assert findings(step, parallel=12)["announce-many-gpus"][0].level == "ok"


def test_reserved_types_are_no_error() -> None:
    found = findings(resources(gpu_type=["a100"]), cluster="reserved: [a100]")
    assert [one.level for one in found["gpu-quota"]] == ["ok"]


def test_scripts_are_looked_into() -> None:
    found = findings(scripts={"train": {"run.sh": "#!/bin/sh\npython x.py\nsleep 3600\n"}})
    assert "run.sh ends in sleep" in found["no-sleep"][0].text


def test_small_pods_are_exempt_from_the_rule_on_use() -> None:
    small = {"run": "true {lr}", "resources": {"cpu": 1, "memory": "2G"}}
    assert "step train is exempt" in findings(small)["use-what-you-ask"][0].text
    assert "exempt" not in findings()["use-what-you-ask"][0].text


@pytest.mark.parametrize(
    ("place", "level"),
    [("../data", "error"), ("/elsewhere", "warn"), ("/data/canada", None), ("s3://b/x", None), ("/database", "warn")],
)
def test_data_has_to_be_where_pods_see_it(place: str, level: str | None) -> None:
    found = findings({"run": "x {data} {lr}"}, study={"data": place})
    assert [one.level for one in found.get("data", [])] == ([level] if level else [])


def test_findings_are_for_programs_too() -> None:
    finding = findings({"run": "x {lr}; sleep 9"})["no-sleep"][0]
    assert json.loads(json.dumps(finding.to_json()))["rule"] == "no-sleep"
    assert finding.link


@pytest.mark.parametrize(
    ("command", "sleeping", "ending"),
    [
        ("sleep 5", True, True),
        ("python train.py && sleep infinity", True, True),
        ("for i in 1 2; do sleep 1; x; done", True, False),
        ("(sleep 5 &) ; python x.py", True, False),
        ("X=1 timeout 5 sleep 9", True, True),
        ("exec /bin/sleep 9", True, True),
        ("python -c 'import time; time.sleep(5)'", False, False),
        ("echo sleep", False, False),
        ("echo 'a; sleep 5'", False, False),
        ("x # don't; sleep 5", False, False),
        ("# first\nsleep 5 # wait", True, True),
        ("echo 'it # is'\nsleep 5", True, True),
        ("python sleep.py", False, False),
        ("broken 'quote", False, False),
        ("", False, False),
    ],
)
def test_sleep_is_seen_where_the_shell_would_run_it(command: str, sleeping: bool, ending: bool) -> None:
    assert sleeps(command) is sleeping
    assert ends_in_sleep(command) is ending


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("pip3 install -q torch", True),
        ("python3.11 -m pip install x", True),
        ("uv pip install x", True),
        ("uv run train.py", False),
        ("pip list", False),
        ("mamba env create -f e.yaml", True),
        ("echo pip install", False),
        ("virtualenv env", True),
    ],
)
def test_installations_are_seen(command: str, found: bool) -> None:
    assert bool(installs(command)) is found


@given(st.text(max_size=60))
def test_no_command_upsets_the_reader(text: str) -> None:
    assert isinstance(commands_of(text), list)


CHAIN = """
study: s
steps:
  a: {run: "a {x}", matrix: {x: [1, 2, 3, 4]}}
  b: {run: "b {y} {inputs.a}", for_each: a, matrix: {y: [1, 2]}}
  c: {run: "c {inputs.b}", needs: b}
"""


def test_what_waits_for_one_another_is_not_counted_together() -> None:
    plan = build(parse_study(CHAIN))
    todo = set(plan.tasks)

    def weigh(cost: dict[str, int]) -> int:
        return peak(plan, todo, lambda task: cost[task.step])

    assert weigh({"a": 1, "b": 1, "c": 1}) == 8
    assert weigh({"a": 3, "b": 1, "c": 0}) == 12
    # A bound, not the exact figure, where a task waits for several.
    assert 100 <= weigh({"a": 2, "b": 1, "c": 100}) <= 107
    assert peak(plan, todo, lambda task: 1, parallel=3) == 3
    assert peak(plan, {task.id for task in plan.of_step("b")}, lambda task: 1) == 8
    assert peak(plan, set(), lambda task: 1) == 0


def test_a_steps_own_bound_counts() -> None:
    plan = build(parse_study(CHAIN.replace("matrix: {y: [1, 2]}", "matrix: {y: [1, 2]}, max_parallel: 5")))
    assert peak(plan, {task.id for task in plan.of_step("b")}, lambda task: 2) == 10


def test_a_cluster_without_rules_only_says_what_shoal_knows() -> None:
    plan = build(parse_study(json.dumps({"study": "s", "steps": {"train": TRAIN}})))
    found = check(plan, parse_cluster("store: {claim: x}\nsecurity: {user: 1000}\n"))
    assert {one.rule for one in found} == {"gpu-types"}
    assert isinstance(parse_cluster("store: {claim: x}"), Cluster)


BUCKET = "store: {s3: 's3://lake/x', secret: keys, endpoint: %s}\n"


@pytest.mark.parametrize(
    ("endpoint", "level", "says"),
    [
        ("http://rook-ceph-rgw-centrals3.rook-central", None, ""),
        ("https://s3-central.nrp-nautilus.io/", "note", "public network"),
        ("https://rook-ceph-rgw-centrals3.rook-central", "error", "http://rook-ceph-rgw-centrals3.rook-central"),
        ("https://elsewhere.example", None, ""),
    ],
)
def test_the_platforms_object_stores_are_reached_from_inside(endpoint: str, level: str | None, says: str) -> None:
    plan = build(parse_study(json.dumps({"study": "s", "steps": {"train": {**TRAIN, **resources(disk="50Gi")}}})))
    at = parse_cluster("extends: nautilus\nnamespace: lab\n" + BUCKET % endpoint, "mine.yaml")
    found = [finding for finding in check(plan, at) if finding.rule == "store"]
    assert [finding.level for finding in found] == ([level] if level else [])
    assert all(says in f"{finding.text} {finding.hint}" for finding in found)


def test_a_bucket_needs_room_on_the_pods_disk() -> None:
    plan = build(parse_study(json.dumps({"study": "s", "steps": {"train": TRAIN}})))
    at = parse_cluster("extends: nautilus\nnamespace: lab\n" + BUCKET % "https://elsewhere.example", "mine.yaml")
    (one,) = [finding for finding in check(plan, at) if finding.rule == "store"]
    assert (one.level, "no disk is asked for" in one.text) == ("note", True)


@pytest.mark.parametrize("where", ["run", "env", "data"])
def test_nodes_without_internet_are_nothing_for_who_fetches(where: str) -> None:
    dmz = "defaults: {tolerations: [{key: nautilus.io/science-dmz}]}\n"
    far = "https://example.org/scenes"
    step, study = {
        "run": ({"run": f"python train.py --lr {{lr}} --from {far}"}, {}),
        "env": ({"env": {"FROM": far}}, {}),
        "data": ({"run": "python train.py --lr {lr} {data}"}, {"data": far}),
    }[where]
    assert "public Internet" in findings(step, study=study, cluster=dmz)["tolerations"][0].text
    assert findings(cluster=dmz)["tolerations"][0].level == "ok"
    assert findings(step, study=study)["tolerations"][0].level == "ok"
