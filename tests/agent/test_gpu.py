"""GPUs by NVML. Where there is none, a small library with NVML's interface stands in, so that the calls are real."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from nvml import stand_in
from shoal.agent import agent

from .conftest import TaskFolder


@pytest.fixture(scope="session")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the loader finds the stand-in."""
    return {"LD_LIBRARY_PATH": str(stand_in(tmp_path_factory.mktemp("nvml")))}


@pytest.mark.parametrize(
    ("changes", "visible", "indices"),
    [
        ({"gpus": [1, 2]}, None, [1, 2]),
        ({}, "2", [2]),
        ({}, "GPU-abc", [2]),
        ({"resources": {"gpu": 3}}, None, [0, 1, 2]),
        ({}, None, []),
        ({"resources": {"gpu": 1}}, "", []),
    ],
)
def test_the_gpus_of_a_task_are_sampled(
    folder: TaskFolder, nvml: dict[str, str], changes: dict[str, object], visible: str | None, indices: list[int]
) -> None:
    env = {**nvml, **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})}
    assert folder.run("sleep 0.6", env=env, **changes) == 0
    record = folder.record()
    sample = json.loads((folder.attempt() / "usage.jsonl").read_text().splitlines()[0])
    assert [gpu["index"] for gpu in sample["gpus"]] == indices
    assert [gpu["use"] for gpu in sample["gpus"]] == [None if index == 0 else 0.71 for index in indices]
    assert record["devices"] == [{"index": i, "name": "NVIDIA Pond 9000", "memory": 24 << 30} for i in indices]
    assert record["usage"]["gpu_mean"] == (0.71 if indices else None)
    assert record["usage"]["gpu_memory_peak"] == (9000000000 if indices else None)


def test_without_the_library_there_are_no_gpus() -> None:
    script = f"import sys; sys.path.insert(0, {str(Path(agent.__file__).parent)!r}); import agent; print(agent.Gpus().devices())"
    env = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": "/nowhere"}
    if "libnvidia-ml.so.1" in subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout:
        pytest.skip("this machine has NVML")
    import sys

    said = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, env=env, check=True)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize(
    ("listed", "names"),
    [("0,1", ["0", "1"]), ("", []), ("-1", []), ("NoDevFiles", []), ("1,-1,2", ["1"]), (" 3 , GPU-x", ["3", "GPU-x"])],
)
def test_visible_devices_as_cuda_reads_them(listed: str, names: list[str]) -> None:
    assert agent.visible_gpus({"env": {"CUDA_VISIBLE_DEVICES": listed}, "resources": {"gpu": 1}}) == names
