"""The study has the paper's trials; its smoke run has every axis value; models beat constant answers; maps come out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import geopandas
import pytest
import rasterio
import torch

from shoal.plan import build, resources_of
from shoal.study import load_study
from shoal_earth.burned_area.synthetic import BurnedWorld

STUDY = Path(__file__).parents[2] / "studies" / "burned-area.yaml"
Cli = Callable[..., tuple[int, str, str]]
AXES = ("model", "imagery", "pretrained", "optimizer", "lr", "batch_size")
torch.set_num_threads(1)


def test_the_study_is_the_papers() -> None:
    plan = build(load_study(STUDY))
    counts = {step: len(plan.of_step(step)) for step in plan.order}
    batches = dict.fromkeys(("fetch", "filter", "labels"), 187)
    assert counts == batches | {
        "fires": 1, "search": 5, "split": 1, "chips": 374, "dataset": 2, "weights": 1, "train": 144, "test": 288
    }  # fmt: skip
    sets = Counter(task.params["set"] for task in plan.of_step("fetch"))
    assert list(sets.values()) == [5, 15, 49, 59, 59]
    assert all(t.params["batches"] == sets[t.params["set"]] for t in plan.of_step("fetch"))
    assert len({(task.params["set"], task.params["batch"]) for task in plan.of_step("fetch")}) == 187
    values = {axis: {task.params[axis] for task in plan.of_step("train")} for axis in AXES}
    assert values == {
        "model": {"unet", "deeplabv3"},
        "imagery": {"img", "tci"},
        "pretrained": {True, False},
        "optimizer": {"adam", "lamb"},
        "lr": {1e-3, 1e-4, 1e-5},
        "batch_size": {4, 8, 16},
    }
    assert {task.params["checkpoint"] for task in plan.of_step("test")} == {"last", "best"}
    for step in plan.order:
        gpus = {resources_of(plan, task).gpu for task in plan.of_step(step)}
        assert gpus == {"train": {2}, "test": {1}}.get(step, {0}), step


def test_each_training_reads_the_chips_of_its_imagery_alone() -> None:
    plan = build(load_study(STUDY))
    for task in plan.of_step("train"):
        needed = [plan.tasks[id] for ids in task.inputs.values() for id in ids]
        assert [one.params["imagery"] for one in needed if one.step == "dataset"] == [task.params["imagery"]]
    for task in plan.of_step("dataset"):
        assert len(task.inputs["chips"]) == 187
    for task in plan.of_step("chips"):
        needed = [plan.tasks[id] for ids in task.inputs.values() for id in ids]
        assert {one.params["batch"] for one in needed if one.step in ("fetch", "labels")} == {task.params["batch"]}


def test_the_second_round_is_the_papers() -> None:
    plan = build(load_study(STUDY, profile="second-round"))
    assert len(plan.of_step("train")) == 4 * 2 * 2 * 2
    assert len(plan.of_step("test")) == 64
    task = plan.of_step("train")[0]
    text = str(task.command)
    for words in ("--schedule step", "--step-epochs 50", "--gamma 0.5", "--optimizer lamb", "--pretrained true"):
        assert words in text


def test_the_smoke_run_has_every_step_and_every_value_of_the_study() -> None:
    full, smoke = build(load_study(STUDY)), build(load_study(STUDY, profile="smoke"))
    assert set(full.order) < set(smoke.order)
    for step, axes in (("train", AXES), ("test", ("checkpoint",)), ("fetch", ("set",)), ("chips", ("imagery",))):
        for axis in axes:
            values = [{task.params[axis] for task in plan.of_step(step)} for plan in (full, smoke)]
            assert values[0] == values[1], (step, axis)
    assert all(resources_of(smoke, task).gpu == 0 for task in smoke.tasks.values())


def test_a_model_beats_constant_answers_and_maps_a_folder_and_a_zip(
    burned: BurnedWorld,
    made: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    weights = tmp_path / "weights"
    encoder = ("--encoder", "tu-resnet10t")
    assert cli("segmentation", "weights", *encoder, "--source", "random", "--out", weights)[0] == 0
    train = ("segmentation", "train", "--chips", made / "img", "--model", "unet", "--width", 48, "--device", "cpu")
    train += ("--pretrained", "true", "--weights-folder", weights, "--best-by", "val/loss", "--optimizer", "lamb")
    code, _, err = cli(*train, "--encoder", "resnet18", "--out", tmp_path / "none")
    assert code == 2
    assert "weights: has no weights of the encoder resnet18 (resnet18.safetensors)" in err
    assert "shoal-earth segmentation weights --encoder resnet18" in err
    settings = (
        "--lr",
        5e-3,
        "--epochs",
        12,
        "--batch-size",
        4,
        "--schedule",
        "step",
        "--step-epochs",
        8,
        "--gamma",
        0.5,
    )
    code, out, err = cli(*train, *encoder, *settings, "--out", tmp_path / "trial")
    assert code == 0, err
    assert out.startswith("best: val/loss")
    for checkpoint in ("best", "last"):
        file = tmp_path / "trial" / f"{checkpoint}.pt"
        test = ("segmentation", "test", "--chips", made / "img", "--checkpoint", file, "--device", "cpu")
        code, _, err = cli(*test, "--out", tmp_path / checkpoint)
        assert code == 0, err
    lines = (tmp_path / "best" / "metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[-1])["metrics"]
    # Trivial: the best that any one class, everywhere, reaches: nothing burnt, or all of it.
    assert metrics["test/iou"] > metrics["test/trivial/iou"] + 0.1
    assert metrics["test/kappa"] > 0.3
    for name in (
        "accuracy",
        "precision",
        "recall",
        "f1",
        "iou/burnt",
        "iou/background",
        "objects/iou",
        "objects/count",
    ):
        assert f"test/{name}" in metrics
    found = 0.0
    for product in (burned.scenes[2], next(p for p in burned.scenes[6:] if p.suffix == ".zip")):
        target = tmp_path / product.stem
        code, out, err = cli("predict", "--model", tmp_path / "trial", "--scene", product, "--out", target)
        assert code == 0, err
        with rasterio.open(target / "classes.tif") as file:
            assert file.shape == (180, 180)
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        frame = geopandas.read_file(target / "burnt.gpkg")
        assert (frame["hectares"] > 0).all()
        found += float(frame["hectares"].sum())
    assert found > 5


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_smoke_run_end_to_end(tmp_path: Path) -> None:
    shoal = [sys.executable, "-m", "shoal"]
    done = subprocess.run(
        [*shoal, "run", STUDY, "--profile", "smoke", "--store", tmp_path, "-j", "2"],
        env=_environment(), capture_output=True, text=True, timeout=1400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    plan = build(load_study(STUDY, profile="smoke"))
    folder = tmp_path / "burned-area"
    results = {
        task.id: json.loads((folder / task.step / task.id / "result.json").read_text()) for task in plan.tasks.values()
    }
    assert len(results) == len(plan.tasks) == 59
    # Every trial learns, whatever its network, imagery, start, optimizer, rate and batch, in the last state and in the best.
    for task in plan.of_step("test"):
        metrics = results[task.id]["metrics"]
        for name in ("iou", "miou", "f1", "kappa"):
            assert metrics[f"test/{name}"] > metrics[f"test/trivial/{name}"] + 0.1, (name, task.params)
    tables = subprocess.run(
        [*shoal, "results", STUDY, "--store", tmp_path],
        env=_environment(), capture_output=True, text=True, timeout=100, check=True,
    ).stdout  # fmt: skip
    assert "Networks and imagery" in tables


def _environment() -> dict[str, str]:
    import os

    env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    return env | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"}
