"""The deforestation study: 108 trials as published, and a smoke run in which every value of every axis occurs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "deforestation.yaml"
AXES = {
    "size": {256, 512},
    "bands": {"ngb", "ndvi", "evi"},
    "lr": {1e-3, 1e-4, 1e-5},
    "loss": {"miou", "ce"},
    "optimizer": {"adamw", "adam", "sgd"},
}


def shoal(*arguments: object) -> str:
    command = [sys.executable, "-m", "shoal", *map(str, arguments)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
    return made.stdout


def test_the_study_has_108_trials_each_tested_twice_and_its_gpus_go_with_the_size() -> None:
    plan = json.loads(shoal("plan", STUDY, "--json"))
    tasks = plan["tasks"]
    trials = [task for task in tasks if task["step"] == "train"]
    assert len(trials) == len({json.dumps(task["params"], sort_keys=True) for task in trials}) == 108
    for axis, values in AXES.items():
        assert {task["params"][axis] for task in trials} == values
    assert {(task["params"]["size"], task["params"]["gpus"]) for task in trials} == {(256, 1), (512, 4)}
    assert sum(task["step"] == "test" for task in tasks) == 216
    assert [task["step"] for task in tasks if task["state"] == "gate"] == ["choose"]


@pytest.mark.slow
@pytest.mark.timeout(1600)
def test_the_smoke_run_goes_through_every_step_and_models_beat_constant_answers(tmp_path: Path) -> None:
    shoal("run", STUDY, "--profile", "smoke", "--store", tmp_path)
    done = [json.loads(path.read_text()) for path in (tmp_path / "deforestation").glob("*/*/result.json")]
    assert len(done) == 29
    trials = {task["task"]: task for task in done if task["step"] == "train"}
    for axis, values in AXES.items():
        assert {task["params"][axis] for task in trials.values()} == values

    def last(task: dict, name: str) -> float:
        value = task["metrics"][name]
        return float(value["last"] if isinstance(value, dict) else value)

    # On tiles that neither training nor validation saw, each trial, in its last state and in that which validation chose.
    tests = [task for task in done if task["step"] == "test"]
    assert len(tests) == 10
    for test in tests:
        # A hundredth of the rate learns slowly: it finds the clearings, and still much beside them.
        for name, margin in (("miou", 0.02), ("iou", 0.1), ("f1", 0.1), ("kappa", 0.2)):
            assert last(test, f"test/{name}") > last(test, f"test/trivial/{name}") + margin, (name, test["params"])
        if test["params"]["lr"] > 1e-5:
            assert last(test, "test/miou") > last(test, "test/trivial/miou") + 0.1, test["params"]
    # Among all of them, validation chooses a strong one.
    chosen = max(tests, key=lambda test: last(test, "checkpoint/val/miou"))
    assert last(chosen, "test/miou") > max(last(test, "test/miou") for test in tests) - 0.05
    assert last(chosen, "test/miou") > last(chosen, "test/trivial/miou") + 0.3
    tables = shoal("results", STUDY, "--store", tmp_path)
    assert "The model that validation chose for each input" in tables
    assert "All models, mean IoU on held-out tiles" in tables
    page = tmp_path / "report.html"
    shoal("report", STUDY, "--store", tmp_path, "--out", page)
    assert "was chosen, by checkpoint/val/miou" in page.read_text(encoding="utf-8")
