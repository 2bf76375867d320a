"""What a run uses of the GPUs that it asks for, measured in pods that truly run, and what is said of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from nvml import stand_in
from testbed.real import NODE

from .conftest import RealLab, until

STUDY = """
study: pond
steps:
  train:
    matrix: {n: [1, 2]}
    run: "until test -e /shoal/go; do sleep 0.5; done; echo {n} > {out}/made"
    resources: {gpu: 2, cpu: 0.1, memory: 64Mi}
"""
RULE = """
policies:
  use-what-you-ask:
    text: use what you ask for
    reason: what is not used is missing elsewhere
    check: running
    parameters: {pods: 1, gpu: 0.4}
"""
SENTENCE = "2 tasks of train use less than 40% of their GPUs: ask for one GPU, or a larger batch."


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_gpus_that_idle_are_told_of_while_they_do_and_afterwards(real_lab: RealLab) -> None:
    lab = real_lab
    # The node's GPUs are a number to the scheduler, and a library that answers in the pods.
    path = f"/api/v1/nodes/{NODE}"
    lab.admin.patch(f"{path}/status", {"status": {"capacity": {"nvidia.com/gpu": "4"}}})
    until(lambda: lab.admin.get(path)["status"]["allocatable"].get("nvidia.com/gpu") == "4")
    (lab.store / "nvml").mkdir()
    stand_in(lab.store / "nvml")
    lab.cluster(RULE)
    file = lab.root / "clusters" / "lab.yaml"
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    config["defaults"]["env"] |= {"LD_LIBRARY_PATH": "/shoal/nvml", "STAND_IN_GPU_USE": "12"}
    file.write_text(yaml.safe_dump(config))
    lab.study(STUDY)
    runner = lab.begin("run", "s.yaml", "--on", "lab")
    # No store is at hand here: the runner looks into the pods, once they have run for minutes.
    until(lambda: lab.status()["policies"], 400)
    said = " ".join(lab.shoal("status", "s.yaml").stdout.split())
    assert f"warn: {SENTENCE} 2 tasks run outside of the platform's bounds now, and 1 may." in said
    assert "the platform: what is not used is missing elsewhere" in said
    (lab.store / "go").touch()
    assert runner.wait(60) == 0
    (one,) = lab.status()["policies"]
    assert (one["level"], one["tasks"], one["running"], one["text"]) == ("note", 2, 0, SENTENCE)
    assert SENTENCE in " ".join(lab.shoal("usage", "s.yaml").stdout.split())
    page = lab.root / lab.shoal("report", "s.yaml").stdout.strip()
    assert SENTENCE in re.sub(r"\s+", " ", page.read_text())
