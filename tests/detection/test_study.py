"""The detection study: thirty trainings as the paper's, more by a word, and all of it on a laptop with generated data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.plan import build
from shoal.study import load_study

STUDY = Path(__file__).parents[2] / "studies" / "overhead-detection.yaml"
MODELS = ["convnext", "deformable-detr", "detr", "fcos", "retinanet", "ssd", "swin", "vit", "yolov3", "yolox"]
DATASETS = ["rareplanes", "dota", "xview"]


def test_the_study_is_the_papers_thirty_trainings_on_four_gpus_each() -> None:
    plan = build(load_study(STUDY))
    tasks = plan.of_step("train")
    assert len(tasks) == 30
    assert {(task.params["model"], task.params["dataset"]) for task in tasks} == {
        (m, d) for m in MODELS for d in DATASETS
    }
    assert plan.axes("train") == {"model": MODELS, "dataset": DATASETS}
    assert plan.study.steps["train"].resources.gpu == 4
    for task in tasks:
        assert isinstance(task.command, str)
        assert task.command.startswith("torchrun --standalone --nproc-per-node=4 ")
        assert "--epochs 300 " in task.command
        (chips,) = task.inputs["prepare"]
        assert plan.tasks[chips].params["dataset"] == task.params["dataset"]
    assert len(plan.of_step("test")) == 30
    assert [len(plan.of_step(step)) for step in ("fetch", "prepare")] == [3, 3]


def test_a_word_more_in_the_matrix_is_three_more_models() -> None:
    more = [*MODELS, "rtdetrv2", "dfine", "rfdetr"]
    plan = build(load_study(STUDY, overrides=[f"steps.train.matrix.model=[{', '.join(more)}]"]))
    assert len(plan.of_step("train")) == 39
    small = build(load_study(STUDY, profile="smoke"))
    assert len(small.of_step("train")) == 30
    assert all(
        task.command.strip().startswith("shoal-earth ")
        for task in small.of_step("train")
        if isinstance(task.command, str)
    )
    assert not any(small.study.steps[step].resources.gpu for step in small.order)


def test_two_of_the_thirty_run_from_raw_formats_to_the_leaderboard(tmp_path: Path) -> None:
    some = ["--set", "steps.train.matrix.model=[yolox, fcos]", "--set", "steps.train.matrix.dataset=[xview]"]
    some += ["--set", "vars.epochs=1", "--set", "vars.evaluate_every=1"]
    run(tmp_path, "run", "--profile", "smoke", *some)
    results = run(tmp_path, "results")
    assert "AP50 on held-out images" in results
    assert "Transformers against CNNs" in results
    page = Path(run(tmp_path, "report").strip().splitlines()[-1]).read_text()
    assert "Precision over recall" in page
    assert "its-worst-image" in page
    assert '"scatter-0"' in page


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the parts of the smoke study come together."""
    return tmp_path_factory.mktemp("smoke")


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("dataset", DATASETS)
def test_ten_run_from_a_raw_format_to_scores(smoke: Path, dataset: str) -> None:
    run(smoke, "run", "--profile", "smoke", "--set", f"steps.train.matrix.dataset=[{dataset}]")
    found = {model: own for (model, of), own in metrics(smoke).items() if of == dataset}
    assert sorted(found) == MODELS
    assert all(0 <= own["test/ap"] <= 1 for own in found.values())
    # Even so short, something is learnt: the first are far above chance.
    assert max(own["test/ap50"] for own in found.values()) > 0.2


@pytest.mark.slow
@pytest.mark.timeout(5000)
def test_all_thirty_run_from_raw_formats_to_the_leaderboard(smoke: Path) -> None:
    """Runs what the parts above have left, which is nothing if they ran."""
    run(smoke, "run", "--profile", "smoke")
    assert len(metrics(smoke)) == 30
    lines = [line.split() for line in run(smoke, "results").splitlines()]
    boards = [line for line in lines if line and line[0] in MODELS]
    assert len(boards) == 2 * len(MODELS), "AP and AP50, a line a detector"
    page = Path(run(smoke, "report").strip().splitlines()[-1]).read_text()
    assert all(f"scatter-{number}" in page for number in range(3))


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all ten find the same chips."""
    return tmp_path_factory.mktemp("proof")


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.parametrize("model", MODELS)
def test_each_of_the_ten_learns_to_find_most_objects_of_scenes_it_never_saw(proof: Path, model: str) -> None:
    run(proof, "run", "--profile", "proof", "--set", f"steps.train.matrix.model=[{model}]")
    assert metrics(proof)[model, "dota"]["test/ap50"] >= 0.5


def run(store: Path, verb: str, *arguments: str) -> str:
    """``shoal VERB`` on the study, with a store of its own."""
    programs = Path(sys.executable).parent
    env = {k: v for k, v in os.environ.items() if not k.startswith("SHOAL_")}
    env |= {"PATH": f"{programs}{os.pathsep}{env['PATH']}", "COLUMNS": "200"}
    command = [programs / "shoal", verb, STUDY, "--store", store / "store", *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metrics(store: Path) -> dict[tuple[str, str], dict[str, float]]:
    """What each test task measured, by model and dataset."""
    found = {}
    for path in (store / "store" / "overhead-detection" / "test").glob("*/result.json"):
        result = json.loads(path.read_text())
        found[result["params"]["model"], result["params"]["dataset"]] = result["metrics"]
    return found
