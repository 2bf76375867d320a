"""A run on a cluster as a person at a terminal sees it."""

from __future__ import annotations

import re
import threading

from testbed.nodes import KINDS

from .conftest import Lab
from .terminal import at_a_terminal

STUDY = """
study: pond
steps:
  few:
    run: train {{n}} {{fake_end}}
    matrix: {{n: [1, 2], fake_end: [never]}}
    resources: {{gpu: 4, gpu_type: [a40], shm: 64Mi}}
  many:
    run: train {{n}} {{fake_end}}
    matrix: {{n: {{from: 1, to: {many}}}, fake_end: [never]}}
    resources: {{gpu: 4, gpu_type: [l4], shm: 64Mi}}
"""
GPUS = """
gpus:
  l4: {products: [NVIDIA-L4]}
  a40: {resource: nvidia.com/a40, products: [NVIDIA-A40]}
"""


def test_run_and_status_show_what_is_queued_and_the_gpus_in_use(lab: Lab) -> None:
    lab.bed.add_nodes(4, kinds=[kind for kind in KINDS if kind.product in ("NVIDIA-L4", "NVIDIA-A40")])
    room = 2 * sum(
        one["metadata"]["labels"].get("nvidia.com/gpu.product") == "NVIDIA-L4"
        for one in lab.bed.api().get("/api/v1/nodes")["items"]
    )
    in_use = f"GPUs in use: {4 * room} l4, 8 a40"
    lab.study(STUDY.format(many=room + 1))
    lab.cluster(GPUS)
    found: dict[str, tuple[int, str]] = {}
    seen = {"run": threading.Event(), "status": threading.Event()}

    def watch(verb: str, *more: str) -> threading.Thread:
        def looked(said: str) -> None:
            if in_use in said:
                seen[verb].set()

        def look() -> None:
            found[verb] = at_a_terminal(*lab.command(verb, "s.yaml", *more), answer=looked)

        thread = threading.Thread(target=look)
        thread.start()
        return thread

    run = watch("run", "--on", "lab")
    assert seen["run"].wait(90)
    assert lab.status()["gpus"] == {"l4": 4 * room, "a40": 8}
    status = watch("status", "--watch")
    assert seen["status"].wait(90)
    lab.shoal("stop", "s.yaml")
    for thread in (run, status):
        thread.join(90)
    code, said = found["run"]
    assert code in (1, 130)
    assert re.search(rf"few\s+▒+\s+2 running\s+many\s+▒+░+\s+{room} running.*1 queued\s+{in_use}", said), said
    assert "GPUs" not in said.rpartition("many ")[2]
    code, said = found["status"]
    assert code == 0
    assert "no runner" in said.rpartition("pond ")[2], said
    assert "GPUs" not in said.rpartition("pond ")[2], said
    assert "--watch draws on a terminal" in lab.shoal("status", "s.yaml", "--watch", code=2).stderr
