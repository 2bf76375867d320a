"""A run on a cluster as a person at a terminal sees it."""

from __future__ import annotations

import re
import threading

from .conftest import Lab, until
from .terminal import at_a_terminal

STUDY = """
study: pond
steps:
  few:
    run: train {n} {fake_seconds}
    matrix: {n: [1, 2], fake_seconds: [10]}
    resources: {gpu: 4, gpu_type: [a40], shm: 64Mi}
  many:
    run: train {n} {fake_seconds}
    matrix: {n: [1, 2, 3], fake_seconds: [10]}
    resources: {gpu: 4, gpu_type: [l4], shm: 64Mi}
"""
GPUS = """
gpus:
  l4: {products: [NVIDIA-L4]}
  a40: {resource: nvidia.com/a40, products: [NVIDIA-A40]}
"""


def test_run_and_status_show_what_is_queued_and_the_gpus_in_use(lab: Lab) -> None:
    lab.study(STUDY)
    lab.cluster(GPUS)
    drawn: list[tuple[int, str]] = []
    watched = threading.Thread(target=lambda: drawn.append(at_a_terminal(*lab.command("run", "s.yaml", "--on", "lab"))))
    watched.start()
    until(lambda: lab.status()["gpus"] == {"l4": 12, "a40": 8}, 90)
    code, status = at_a_terminal(*lab.command("status", "s.yaml", "--watch"))
    watched.join(90)
    assert code == 0
    assert "GPUs in use: 12 l4, 8 a40" in status
    assert re.search(r"no runner\s+few\s+2  2 done\s+many\s+3  3 done\s*\Z", status), status
    ((code, run),) = drawn
    assert code == 0, run
    assert re.search(r"░+\s+\d queued", run), run
    assert re.search(r"few\s+▒+\s+2 running\s+many\s+▒+\s+3 running\s+GPUs in use: 12 l4, 8 a40", run), run
    assert "GPUs" not in run.rpartition("many ")[2]
    assert "--watch draws on a terminal" in lab.shoal("status", "s.yaml", "--watch", code=2).stderr
