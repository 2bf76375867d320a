"""What has to work in any namespace whose pods truly run: the testbed's, or that of ``SHOAL_TEST_KUBECONFIG``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shoal.executors.kubernetes.client import CONFIG_MAPS, JOBS, PODS

from .conftest import Lab, until

STUDY = """
study: pond
steps:
  make:
    matrix: {n: [1, 2]}
    run:
      - python3
      - -c
      - "import json, sys; _, out, n = sys.argv; json.dump(dict(n=int(n)), open(out + '/metrics.json', 'w')); print('made', n)"
      - "{out}"
      - "{n}"
    resources: {cpu: 0.1, memory: 128Mi}
  add:
    needs: make
    run: "for one in {inputs.make}; do cat $one/metrics.json; done > {out}/sum"
    resources: {cpu: 0.1, memory: 128Mi}
  big:
    run: [python3, -c, "x = bytearray(1 << 30); print(len(x))"]
    resources: {cpu: 0.1, memory: 64Mi}
    canary: 0
"""
WAITS = """
study: pond
steps:
  wait:
    matrix: {n: [1, 2]}
    run: [python3, -c, "import time; print('waits', flush=True); time.sleep(600)", "{n}"]
    resources: {cpu: 0.1, memory: 64Mi}
"""


def results(store: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in store.glob("**/result.json")]
    return {one["task"]: {key: one[key] for key in ("metrics", "outputs", "inputs", "params")} for one in found}


@pytest.mark.timeout(600)
def test_a_study_has_the_results_that_it_has_locally(any_lab: Lab) -> None:
    lab = any_lab
    lab.study(STUDY)
    lab.shoal("run", "s.yaml", "--on", "lab", code=1, seconds=500)
    failures = {one["task"]: one["failure"] for one in lab.records("attempt.json").values() if one["failure"]}
    assert [one["class"] for one in failures.values()] == ["oom-host"]
    lab.shoal("run", "s.yaml", "--only", "add", "--store", "here")
    here = results(lab.root / "here")
    assert len(here) == 3
    assert results(lab.root / "runs-lab") == here
    # Of each attempt it is known what it waited for.
    waited = [one["cluster"] for one in lab.records("attempt.json").values()]
    assert all(one["submitted"] <= one["scheduled"] <= one["pulled"] for one in waited)
    assert "by step" in lab.shoal("usage", "runs-lab/pond").stdout
    # The outputs are in the namespace, and come from there, byte for byte as those that were made here.
    lab.shoal("pull", "s.yaml", "--on", "lab", "-o", "pulled")
    found = {
        path.relative_to(lab.root / "pulled"): path.read_bytes() for path in (lab.root / "pulled").glob("*/*/out/*")
    }
    made = lab.root / "here" / "pond"
    assert {path.name for path in found} == {"metrics.json", "sum"}
    assert {path: (made / path).read_bytes() for path in found} == found
    assert "made 2" in lab.shoal("logs", "s.yaml", next(key for key in here if here[key]["params"] == {"n": 2})).stdout
    lab.shoal("gc", "s.yaml", "--on", "lab", "--yes")
    labels = "shoal-ml.github.io/study=pond"
    kinds = (JOBS, PODS, CONFIG_MAPS)
    until(lambda: not any(lab.client.list(kind, selector=labels).items for kind in kinds), 120)


@pytest.mark.timeout(300)
def test_stop_ends_what_runs(any_lab: Lab) -> None:
    lab = any_lab
    lab.study(WAITS)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    until(lambda: lab.counts() == {"running": 2}, 200)
    lab.shoal("stop", "s.yaml")
    assert runner.wait(120) in (1, 130)
    assert {one["failure"]["class"] for one in lab.records("attempt.json").values()} == {"cancelled"}
