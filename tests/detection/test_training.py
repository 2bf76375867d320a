"""Detectors in training: the same numbers from the same seed, from any interruption and from two processes; and the whole way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from shoal.errors import UsageError
from shoal_earth.detection import train as training
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules
from shoal_earth.detection.synthetic_formats import write_synthetic
from shoal_earth.detection.train import TrainSettings, train
from shoal_earth.training.checkpoint import load_checkpoint
from shoal_earth.training.loop import Stopped

Cli = Callable[..., tuple[int, str, str]]
JOB = str(Path(__file__).with_name("joint.py"))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dataset in xView's form, and its chips of 96 pixels."""
    folder = tmp_path_factory.mktemp("xview")
    write_synthetic("xview", folder / "source", scenes=4, side=230, seed=2)
    rules = ChipRules(96, 24)
    prepare(
        "xview",
        folder / "source",
        folder / "chips",
        rules,
        SplitRules((0.6, 0.2, 0.2)),
        only=["Storage Tank", "Building"],
    )
    return folder / "source", folder / "chips"


def settings(**changes: Any) -> TrainSettings:
    given: dict[str, Any] = {"model": "yolox", "size": "tiny", "epochs": 2, "batch_size": 4, "device": "cpu"}
    return TrainSettings(**(given | changes))


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_checkpoint(path)["model"]
    return found


def same(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Stopping:
    """A task that asks to stop at the n-th look, as one that is preempted."""

    def __init__(self, folder: Path, after: int) -> None:
        self.out, self.checkpoints, self.after, self.lines = folder / "out", folder / "checkpoints", after, list[Any]()

    @property
    def stopping(self) -> bool:
        self.after -= 1
        return self.after == 0

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append((step, metrics))


def test_the_same_seed_gives_the_same_weights_and_a_stop_changes_nothing(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """YOLOX has all that could go wrong: Mosaic and MixUp that end, a moving average, a loss that comes late."""
    monkeypatch.delenv("SHOAL_SPEC", raising=False)
    how = settings(epochs=2, augment="mosaic", ema=0.9, evaluate_every=2)
    recipe = how.recipe()
    monkeypatch.setattr(TrainSettings, "recipe", lambda self: training.replace(recipe, plain=0.4))
    _, chips = places
    for name in ("one", "two"):
        train(chips, tmp_path / name, how)
    assert same(tmp_path / "one" / "last.pt", tmp_path / "two" / "last.pt")
    train(chips, tmp_path / "seed", training.replace(how, seed=1))
    assert not same(tmp_path / "one" / "last.pt", tmp_path / "seed" / "last.pt")
    task = Stopping(tmp_path / "parts", 2)
    monkeypatch.setattr(training, "current_task", lambda out: task)
    with pytest.raises(Stopped, match="stopped at step 2 of"):
        train(chips, None, how)
    task.after = 3
    with pytest.raises(Stopped, match="stopped at step 5 of"):
        train(chips, None, how)
    train(chips, None, how)
    assert same(tmp_path / "one" / "last.pt", tmp_path / "parts" / "out" / "last.pt")
    assert same(tmp_path / "one" / "best.pt", tmp_path / "parts" / "out" / "best.pt")
    with pytest.raises(UsageError, match=r"is the state of another run \(seed: 0 then, 1 now"):
        train(chips, None, training.replace(how, seed=1))


def test_two_processes_have_the_gradient_of_one_on_the_joint_batch(places: tuple[Path, Path], tmp_path: Path) -> None:
    """RetinaNet on a vision transformer: its losses are means over images, and no norm looks at other images."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, JOB, places[1]]
    group = {**environment, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    jobs = [subprocess.Popen([*command, tmp_path / "one.pt"], env=environment)]
    jobs += [subprocess.Popen([*command, tmp_path / "two.pt"], env={**group, "RANK": r, "LOCAL_RANK": r}) for r in "01"]
    assert [job.wait(200) for job in jobs] == [0, 0, 0]
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert one.keys() == two.keys()
    assert len(one) > 20
    largest = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


def test_the_whole_way_by_the_command_line(places: tuple[Path, Path], tmp_path: Path, cli: Cli) -> None:
    source, chips = places
    model = ("--model", "fcos", "--size", "tiny", "--epochs", 6, "--batch-size", 4, "--evaluate-every", 3)
    code, out, err = cli("train", "--chips", chips, *model, "--out", tmp_path / "trained")
    assert code == 0, err
    assert "best: val/ap" in out
    lines = [json.loads(line) for line in (tmp_path / "trained" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["metrics"]["train/loss"] for line in lines if "train/loss" in line["metrics"]]
    assert losses[-1] < losses[0]
    code, out, err = cli("test", "--chips", chips, "--checkpoint", tmp_path / "trained", "--out", tmp_path / "tested")
    assert code == 0, err
    code, _, err = cli(
        "test", "--chips", chips, "--checkpoint", tmp_path / "trained", "--out", tmp_path / "odd", "--precision", "half"
    )
    assert (code, 'no precision "half"' in err) == (2, True)
    tested = tmp_path / "tested"
    metrics: dict[str, float] = {}
    for line in (tested / "metrics.jsonl").read_text().splitlines():
        metrics |= json.loads(line)["metrics"]
    wanted = {"ap", "ap50", "ap75", "f1", "ar_1", "ar_10", "ar_100", "threshold"}
    assert {f"test/{name}" for name in wanted} <= metrics.keys()
    assert metrics["speed/images_per_second"] > 0
    assert 0.5 < metrics["model/parameters"] < 2
    assert metrics["model/gflops"] > 0
    code, out, _ = cli(
        "evaluate", "--chips", chips, "--predictions", tested / "predictions.json", "--out", tmp_path / "again"
    )
    assert f"ap {metrics['test/ap']:.4f}" in out
    curves, tables = (json.loads((tested / f"{name}.json").read_text()) for name in ("curves", "tables"))
    assert "all" in curves["Precision over recall at IoU 0.5"]["lines"]
    assert {row[0] for row in tables["By class"]["rows"]} == {"Storage Tank", "Building"}
    notes = json.loads((tested / "pictures" / "pictures.json").read_text())
    assert {"its-best-image", "its-median-image", "its-worst-image"} < notes.keys()
    assert notes["its-best-image"]["score"] >= notes["its-worst-image"]["score"]
    assert set(notes.pop("legend")) >= {"truth", "found", "missed", "wrong"}
    for name in notes:
        for panel in ("input", "truth", "prediction"):
            assert min(Image.open(tested / "pictures" / name / f"{panel}.png").size) >= 96

    scene = sorted((source / "train_images").glob("*.tif"))[0]
    for command in (("detection", "predict", "--image"), ("predict", "--scene")):
        folder = tmp_path / command[0]
        arguments = (*command, scene, "--model", tmp_path / "trained", "--out", folder)
        least = "--min-score" if command[0] == "detection" else "--threshold"
        code, out, err = run_any(*arguments, least, 0.05)
        assert code == 0, err
        found = json.loads((folder / "detections.json").read_text())
        with rasterio.open(scene) as file:
            assert [i["width"] for i in found["images"]] == [file.width]
            bounds = file.bounds
        frame = geopandas.read_file(folder / f"{scene.stem}.gpkg")
        assert len(frame) == len(found["annotations"]) > 0
        assert set(frame["class"]) <= {"Storage Tank", "Building"}
        centres = frame.geometry.centroid
        assert ((centres.x >= bounds.left) & (centres.x <= bounds.right)).all()
        assert ((centres.y >= bounds.bottom) & (centres.y <= bounds.top)).all()
        assert len(geopandas.read_file(folder / f"{scene.stem}.geojson")) == len(frame)


def run_any(*arguments: object) -> tuple[int, str, str]:
    """``shoal-earth`` with any group of commands, in a process of its own."""
    program = Path(sys.executable).with_name("shoal-earth")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=200)
    return done.returncode, done.stdout, done.stderr


def test_what_does_not_fit_is_said(places: tuple[Path, Path], tmp_path: Path, cli: Cli) -> None:
    _, chips = places
    code, _, err = cli("train", "--chips", chips, "--model", "yolo9", "--out", tmp_path / "a")
    assert (code, 'no detector "yolo9"' in err) == (2, True)
    code, _, err = cli(
        "train", "--chips", chips, "--model", "fcos", "--size", "tiny", "--augment", "x", "--out", tmp_path / "b"
    )
    assert (code, 'no augmentation "x"' in err) == (2, True)
    tiny = ("train", "--chips", chips, "--model", "fcos", "--size", "tiny", "--out", tmp_path / "b")
    for option, word, message in (("--precision", "fp8", 'no precision "fp8"'), ("--device", "gpu", 'no device "gpu"')):
        code, _, err = cli(*tiny, option, word)
        assert (code, message in err) == (2, True)
    torch.save({"format": 1, "model": {}, "meta": {"kind": "segmentation"}}, tmp_path / "other.pt")
    code, _, err = cli("test", "--chips", chips, "--checkpoint", tmp_path / "other.pt", "--out", tmp_path / "c")
    assert (code, "not of a detector" in err) == (2, True)
    code, _, err = cli("predict", "--model", tmp_path / "other.pt", "--image", tmp_path, "--out", tmp_path / "d")
    assert (code, "holds no image" in err) == (2, True)


def test_sixteen_bits_are_shown_to_the_model_as_in_training(tmp_path: Path) -> None:
    from shoal_earth.detection.mapping import own_scale

    rng = np.random.default_rng(0)
    values = rng.integers(200, 3000, (3, 60, 80)).astype(np.uint16)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", count=3, height=60, width=80, dtype="uint16") as file:
        file.write(values)
    scale = own_scale(tmp_path / "a.tif")
    assert scale is not None
    assert scale == pytest.approx(tuple(np.percentile(values, [1, 99])), rel=0.05)
    Image.fromarray(values[0].astype(np.uint8)).save(tmp_path / "b.png")
    assert own_scale(tmp_path / "b.png") is None
