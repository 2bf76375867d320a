"""Hours, added up by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from small import Small, attempt

from shoal.report.summary import cost_line
from shoal.results import ResultError, load, read_store, usage_summary

H = 3600.0


@pytest.fixture
def study(tmp_path: Path) -> Path:
    small = Small(tmp_path, tables=[{"rows": ["model"]}])
    small.step("train", resources={"gpu": 2, "cpu": 4})
    small.step("test", for_each="train", resources={"cpu": 2})
    # Model a: waited 1 h, was preempted after 2 h of which half an hour is lost, waited 0.5 h, then ran 3 h.
    a = small.add(
        "train",
        {"model": "a"},
        {"m": 1.0},
        attempts=[
            attempt(0, H, 3 * H, outcome="failed", failure="preempted", lost=0.5 * H, gpus=2, gpu_mean=0.2),
            attempt(3 * H, 3.5 * H, 6.5 * H, gpus=2, device="NVIDIA L4", gpu_mean=0.8, memory_peak=2**30),
        ],
    )
    # Model b: failed by itself after 1 h, all of it for nothing (the agent wrote no lost_seconds).
    small.add(
        "train",
        {"model": "b"},
        attempts=[attempt(0, 0, H, outcome="failed", failure="user", lost=None, gpus=2, gpu_mean=0.9)],
    )
    # The test ran on a CPU, after a night without anything.
    small.add("test", {"model": "a"}, {"m": 1.0}, needs=[a], attempts=[attempt(20 * H, 20 * H, 20.5 * H, cpu_mean=1.0)])
    # Never started: waited 0.25 h.
    small.add(
        "test",
        {"model": "b"},
        attempts=[attempt(20 * H, None, 20.25 * H, outcome="failed", failure="image-pull", lost=0)],
    )
    return small.write()


def test_sums(study: Path) -> None:
    usage = usage_summary(read_store(study))
    total = usage.total
    assert total.attempts == 5
    assert total.tasks == 4
    assert total.queue == pytest.approx(1 + 0.5 + 0.25)
    assert total.run == pytest.approx(2 + 3 + 1 + 0.5)
    assert total.wasted == pytest.approx(0.5 + 1)
    assert total.gpu == pytest.approx(2 * 6)
    assert total.gpu_wasted == pytest.approx(2 * 1.5)
    assert total.cpu == pytest.approx(4 * 6 + 2 * 0.5)
    assert total.memory_peak == 2**30
    assert total.gpu_use == pytest.approx(0.8)
    # 0 to 6.5 h, then 20 to 20.5 h; the night between does not count.
    assert usage.wall == pytest.approx(7.0)
    assert usage.speedup == pytest.approx(6.5 / 7.0)
    assert usage.recovered == {"preempted": 1}


def test_groups(study: Path) -> None:
    usage = usage_summary(read_store(study))
    assert {h.name: h.run for h in usage.by["step"]} == pytest.approx({"train": 6.0, "test": 0.5})
    assert {h.name: h.gpu for h in usage.by["model"]} == pytest.approx({"a": 10.0, "b": 2.0})
    assert {h.name: h.run for h in usage.by["device"]} == pytest.approx(
        {"NVIDIA A10": 3.0, "NVIDIA L4": 3.0, "CPU": 0.5}
    )
    for groups in (usage.by["step"], usage.by["model"]):
        assert sum(h.queue for h in groups) == pytest.approx(usage.total.queue)
        assert sum(h.wasted for h in groups) == pytest.approx(usage.total.wasted)


def test_text_and_json(study: Path) -> None:
    usage = load(study).usage("model")
    text = usage.render()
    assert "12.0 GPU-hours in 7.0 h of wall-clock" in text
    assert "3.0 GPU-h wasted" in text
    assert "by device" in text
    assert json.loads(json.dumps(usage.to_json()))["total"]["gpu"] == pytest.approx(12)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_gets_more_tables_and_every_number_whole(study: Path, width: int) -> None:
    text = load(study).usage("model").render(width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("\n train ") == {40: 3, 60: 2, 80: 2, 120: 1}[width]
    cells = [cell for line in re.findall(r"^ train +(.+)$", text, re.MULTILINE) for cell in re.split(" {2,}", line)]
    assert cells == ["2", "3", "1.5 h", "6.0 h", "1.5 h", "12.0", "80%", "24.0", "1Gi"]


def test_on_a_cluster_the_wait_is_for_a_place_then_for_the_image_then_for_inputs(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.step("train", resources={"gpu": 1})
    ways = [
        attempt(0, 13 * 60, 2 * H, scheduled=10 * 60, pulled=12 * 60, gpus=1),
        # No node took it; a node did, and never had its image; a clock that is ahead; what no cluster knows of.
        attempt(0, None, 300, outcome="failed", failure="unschedulable"),
        attempt(0, None, 300, scheduled=60, outcome="failed", failure="image-pull"),
        attempt(0, 30, 60, scheduled=40, pulled=50, gpus=1),
        attempt(0, 30, 60, scheduled=-20, pulled=-10, gpus=1),
        attempt(0, 30, 60, gpus=1),
    ]
    for number, way in enumerate(ways):
        small.add("train", {"n": number}, attempts=[way])
    found = load(small.write())
    frame = found.attempts()
    assert list(frame.queue_seconds) == [600, 300, 60, 30, 0, 30]
    assert list(frame.pull_seconds) == [120, 0, 240, 0, 10, 0]
    assert list(frame.prepare_seconds) == [60, 0, 0, 0, 20, 0]
    usage = found.usage()
    assert usage.total.pull == pytest.approx(370 / 3600)
    text = " ".join(usage.render().split())
    assert "waited 25 min: 17 min for a GPU, 6.2 min for the image, 1.3 min for inputs" in text
    assert "queued image run" in text
    assert cost_line(usage).endswith("waited 25 min: 17 min for a GPU, 6.2 min for the image, 1.3 min for inputs.")


def test_slow_images_are_advice_and_where_there_is_no_cluster_nothing_is_said(study: Path, tmp_path: Path) -> None:
    assert "image" not in load(study).usage().render()
    small = Small(tmp_path / "cluster")
    for seed in range(3):
        small.add("train", {"seed": seed}, {"m": 1.0}, attempts=[attempt(0, 900, H, scheduled=0, pulled=900)])
    (said,) = [text for text in load(small.write()).usage().advice if "image" in text]
    assert said.startswith("Tasks waited 33% of the run time for their image")


def test_unknown_axis(study: Path) -> None:
    with pytest.raises(ResultError, match="no step has an axis 'modell'") as caught:
        load(study).usage("modell")
    assert "Did you mean model?" in str(caught.value)


def test_nothing_has_run(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.add("s", {"x": 1})
    usage = usage_summary(read_store(small.write()))
    assert usage.total.run == 0
    assert usage.speedup is None
    assert "Nothing has run yet." in usage.render()


def _advised(
    tmp_path: Path, resources: dict[str, object], samples: list[float] | None = None, **usage: float
) -> list[str]:
    small = Small(tmp_path)
    small.step("train", resources=resources)
    gpus = int(str(resources.get("gpu", 0)))
    for seed in range(4):
        key = small.add("train", {"seed": seed}, {"m": 1.0}, attempts=[attempt(0, 0, H, gpus=gpus, **usage)])
        if samples:
            line = json.dumps({"gpus": [{"index": i, "use": use} for i, use in enumerate(samples)]})
            (small.root / "train" / key / "attempts" / "1" / "usage.jsonl").write_text(f"{line}\n{line}\n{{cut")
    return usage_summary(read_store(small.write())).advice


def test_advice_on_idle_gpus(tmp_path: Path) -> None:
    assert "used its GPUs at 25%" in _advised(tmp_path / "a", {"gpu": 1}, gpu_mean=0.25)[0]
    assert "does not use it" in _advised(tmp_path / "b", {"gpu": 1}, gpu_mean=0.0)[0]
    assert "holds 2 GPUs and uses 1" in _advised(tmp_path / "c", {"gpu": 2}, [0.9, 0.0], gpu_mean=0.45)[0]
    assert _advised(tmp_path / "d", {"gpu": 2}, [0.9, 0.8], gpu_mean=0.85) == []


def test_advice_on_requests(tmp_path: Path) -> None:
    (memory,) = _advised(tmp_path / "a", {"memory": "24Gi"}, memory_peak=5 * 2**30)
    assert memory == "train asks for 24Gi of memory and used at most 5Gi: 7Gi would do."
    (cores,) = _advised(tmp_path / "b", {"cpu": 8}, cpu_mean=1.5)
    assert cores == "train asks for 8 cores and used 1.5 at most: 2 would do."
    assert _advised(tmp_path / "c", {"memory": "8Gi", "cpu": 2}, memory_peak=6 * 2**30, cpu_mean=1.9) == []


def test_advice_on_what_was_lost(tmp_path: Path) -> None:
    small = Small(tmp_path)
    gone = attempt(0, 0, H, outcome="failed", failure="preempted", lost=H)
    small.add("s", {}, {"m": 1.0}, attempts=[gone, attempt(H, H, 2 * H)])
    (text,) = usage_summary(read_store(small.write())).advice
    assert text.startswith("50% of the run time was lost when machines were taken away")
