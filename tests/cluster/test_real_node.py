"""Pods that truly run: the parts of a node that a fake one only claims."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from shoal.executors.kubernetes.client import PODS
from testbed.image import PYTHON

from .conftest import RealLab, until

ASKED = """
import signal, sys, time
def end(*_):
    open("/dev/termination-log", "w").write("asked to end")
    sys.exit(17)
signal.signal(signal.SIGTERM, end)
print("waits", flush=True)
time.sleep(600)
"""
INSIDE = """
import os, ssl, urllib.request
place = "/var/run/secrets/kubernetes.io/serviceaccount/"
context = ssl.create_default_context(cafile=place + "ca.crt")
url = "https://%s:%s/version" % (os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"])
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + open(place + "token").read()})
print(urllib.request.urlopen(request, context=context).status)
"""


def pod(name: str, program: str, **more: Any) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "task", "image": PYTHON, "command": ["python3", "-c", program], "securityContext": security}
    container["resources"] = {"limits": {"memory": "64Mi"}, "requests": {"cpu": "50m"}}
    safe = {"runAsUser": 1000, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"restartPolicy": "Never", "securityContext": safe, "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def phase(lab: RealLab, name: str) -> str:
    return str(lab.client.get(PODS, name)["status"].get("phase"))


def ended(lab: RealLab, name: str) -> dict[str, Any]:
    until(lambda: phase(lab, name) in ("Succeeded", "Failed"), 120)
    found: dict[str, Any] = lab.client.get(PODS, name)["status"]["containerStatuses"][0]["state"]["terminated"]
    return found


def test_pods_log_say_a_last_word_run_out_of_memory_and_reach_the_api_server(real_lab: RealLab) -> None:
    lab = real_lab
    lab.client.create(pod("speaks", "print('hello'); open('/dev/termination-log', 'w').write('word')"))
    lab.client.create(pod("large", "x = bytearray(1 << 30)"))
    lab.client.create(pod("inside", INSIDE))
    word = ended(lab, "speaks")
    assert (word["exitCode"], word["message"]) == (0, "word")
    assert b"".join(lab.client.logs("speaks")) == b"hello\n"
    assert (ended(lab, "large")["exitCode"], ended(lab, "large")["reason"]) == (137, "OOMKilled")
    assert ended(lab, "inside")["exitCode"] == 0
    assert b"".join(lab.client.logs("inside")) == b"200\n"


def test_a_pod_is_asked_to_end_when_it_is_evicted_and_commands_run_in_it(real_lab: RealLab) -> None:
    lab = real_lab
    lab.client.create(pod("waits", ASKED, terminationGracePeriodSeconds=20))
    until(lambda: phase(lab, "waits") == "Running" and b"waits" in b"".join(lab.client.logs("waits")), 120)
    with lab.client.execute("waits", ["python3", "-c", "print(6 * 7)"]) as running:
        assert b"".join(running.output()) == b"42\n"
    # A finalizer keeps it to be looked at.
    lab.client.patch(PODS, "waits", {"metadata": {"finalizers": ["test.testbed/kept"]}})
    path = f"/api/v1/namespaces/{lab.namespace}/pods/waits/eviction"
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "waits"}}
    lab.admin.request("POST", path, body).raise_for_status()
    assert (ended(lab, "waits")["exitCode"], ended(lab, "waits")["message"]) == (17, "asked to end")
    reasons = [one.get("reason") for one in lab.client.get(PODS, "waits")["status"]["conditions"]]
    assert "EvictionByEvictionAPI" in reasons
    lab.client.patch(PODS, "waits", {"metadata": {"finalizers": None}})


QUICKSTART_DATA = {"scene": "atlanta.tif", "houses": "buildings.geojson"}


def metrics(store: Path) -> dict[str, dict[str, float]]:
    """Step to metrics; without times and speeds, which are of the machine."""
    found = [json.loads(path.read_text()) for path in sorted(store.glob("**/result.json"))]
    return {
        one["step"]: {
            name: value
            for name, value in one["metrics"].items()
            if "seconds" not in name and not name.startswith("speed/")
        }
        for one in found
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quickstart_trains_on_real_pods_to_the_results_it_has_locally(real_lab: RealLab) -> None:
    lab = real_lab
    studies = Path(__file__).parents[2] / "studies"
    lab.study((studies / "quickstart.yaml").read_text())
    shutil.copytree(studies / "quickstart", lab.root / "quickstart")
    shutil.copytree(studies / "quickstart", lab.store / "scenes")
    there = [f"data.{name}=/shoal/scenes/{file}" for name, file in QUICKSTART_DATA.items()]
    sets = [word for one in there for word in ("--set", one)]
    lab.shoal("run", "s.yaml", "-p", "smoke", "--on", "lab", *sets, seconds=900)
    lab.shoal("run", "s.yaml", "-p", "smoke", "--store", "here", seconds=600)
    here, pods = metrics(lab.root / "here"), metrics(lab.root / "runs-lab")
    assert list(here) == ["chips", "test", "train"]
    assert here["test"]["test/iou"] > 0.05
    assert pods == {step: pytest.approx(found, rel=1e-6) for step, found in here.items()}
