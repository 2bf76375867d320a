"""Rules of a platform on use, checked on what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import Small, attempt, stamp

from shoal.clusters import parse_cluster
from shoal.results import read_store, usage_summary
from shoal.results.platform import Used, check_use, read_rules, use_findings

H = 3600.0
GIB = 1 << 30
NAUTILUS = parse_cluster("extends: nautilus\n", "mine.yaml").policies["use-what-you-ask"]
RULES = {"use-what-you-ask": NAUTILUS.model_dump(mode="json")}


def used(**more: Any) -> Used:
    fine = {"gpus": 2, "gpu": 0.9, "cores": 4.0, "cpu": 3.0, "asked": 16 * GIB, "memory": 8.0 * GIB, "running": False}
    return Used("train", more.pop("task", "t"), **{**fine, **more})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, None),
        ({"gpu": 0.39}, "1 task of train uses less than 40 % of its GPUs: ask for one GPU, or a larger batch."),
        ({"gpu": 0.39, "gpus": 1}, "1 task of train uses less than 40 % of its GPU: ask for a smaller GPU"),
        ({"gpu": 0.0, "gpus": 0}, None),
        ({"gpu": None}, None),
        ({"cpu": 0.5}, "uses less than 20 % of the CPU it asks for: ask for 1."),
        ({"cpu": 9.0}, "uses more than 200 % of the CPU it asks for: ask for 12."),
        ({"memory": 2.0 * GIB}, "uses less than 20 % of the memory it asks for: ask for 3Gi."),
        ({"memory": 25.0 * GIB}, "uses more than 150 % of the memory it asks for: ask for 32Gi."),
        ({"gpus": 0, "cores": 1.0, "asked": 2 * 10**9, "cpu": 0.01, "memory": 1.0}, None),
        ({"gpus": 0, "cores": 2.0, "asked": 2 * 10**9, "cpu": 0.01, "memory": None}, "less than 20 % of the CPU"),
    ],
)
def test_bounds_of_nautilus(more: dict[str, Any], says: str | None) -> None:
    found = check_use([used(**more)], RULES)
    if says is None:
        assert not found
    else:
        (one,) = found
        assert says.replace(" %", "%") in one.text
        assert one.level == "note"
        assert "banned" in str(one.reason)


def test_more_pods_outside_than_the_platform_allows_are_a_warning() -> None:
    low = [used(task=str(number), gpu=0.1, running=True) for number in range(5)]
    (one,) = check_use(low, RULES)
    assert (one.level, one.tasks, one.running) == ("warn", 5, 5)
    assert "5 tasks run outside of the platform's bounds now, and 4 may" in one.text
    (one,) = check_use(low[:4], RULES)
    assert one.level == "note"
    assert check_use(low, {}) == []


@pytest.fixture
def study(tmp_path: Path) -> Path:
    small = Small(tmp_path)
    small.step("train", resources={"gpu": 2, "cpu": 4, "memory": "16Gi"})
    for number in range(12):
        ended = attempt(0, 0, H, gpus=2, gpu_mean=0.2, cpu_mean=3.0, memory_peak=8 * GIB)
        small.add("train", {"n": number}, {"m": 1.0}, attempts=[ended])
    for number in range(12, 14):
        small.add("train", {"n": number}, {"m": 1.0}, attempts=[attempt(0, 0, 20, gpus=2, gpu_mean=0.01)])
    folder = small.write()
    (folder / "policies.json").write_text(json.dumps({"cluster": "nautilus", "running": RULES}))
    return folder


def test_the_report_and_usage_have_the_platforms_word(study: Path) -> None:
    data = read_store(study)
    (one,) = use_findings(data)
    assert (one.tasks, one.running) == (12, 0), "twenty seconds are too short to judge by"
    advice = usage_summary(data).advice
    assert advice[0].startswith(
        "12 tasks of train use less than 40% of their GPUs: ask for one GPU, or a larger batch."
    )
    assert "The platform: what is asked for and not used is missing elsewhere" in advice[0]
    assert not any("in the median" in text for text in advice), "not said twice"
    (study / "policies.json").unlink()
    assert "12 tasks" not in usage_summary(read_store(study)).advice[0]


def test_what_runs_is_judged_by_its_samples(study: Path) -> None:
    data = read_store(study)
    task = data.tasks[f"{0:012x}"]
    running = task.attempts[0]
    running.state, running.outcome, running.ended, running.usage = "running", None, None, {}
    running.alive = (running.started or 0) + H
    task.state = "running"
    samples = [{"time": stamp(5.0 * n), "cpu": 0.1, "memory": 8 * GIB, "gpus": [{"use": 0.9}]} for n in range(50)]
    running.folder.mkdir(parents=True, exist_ok=True)
    (running.folder / "usage.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    found = {(one.tasks, one.running): one.text for one in use_findings(data)}
    assert "less than 20% of the CPU" in found[1, 1]
    assert (11, 0) in found


@pytest.mark.parametrize("text", ["", "{", "[]", '{"running": 3}', '{"running": {"x": 3}}'])
def test_a_damaged_file_counts_as_absent(tmp_path: Path, text: str) -> None:
    (tmp_path / "policies.json").write_text(text)
    assert read_rules(tmp_path) == {}
