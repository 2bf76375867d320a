"""Make a store as a study would have left it: real file formats, made-up numbers that look like training.

    python tests/report/make_store.py FOLDER --trials 48

The numbers follow a simple law (each axis shifts the score), so that reports of them read like reports.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import struct
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

MODELS = {"unet": 0.05, "deeplabv3plus": 0.06, "fpn": 0.03, "pspnet": -0.03, "linknet": 0.0, "manet": 0.02}
AXES: dict[str, dict[Any, float]] = {
    "model": dict(MODELS),
    "imagery": {"img": 0.02, "tci": -0.02},
    "pretrained": {True: 0.05, False: -0.05},
    "optimizer": {"adam": 0.015, "lamb": -0.01},
    "lr": {1e-3: -0.03, 1e-4: 0.04, 1e-5: -0.06},
    "batch_size": {4: 0.005, 8: 0.01, 16: -0.005},
}
GPUS = [("NVIDIA GeForce RTX 3090", 24 << 30), ("NVIDIA A10", 23 << 30), ("NVIDIA L4", 23 << 30)]
LOG = """epoch 3/40  loss 0.412
Traceback (most recent call last):
  File "train.py", line 88, in <module>
    loss.backward()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.50 GiB. GPU 0 has 23.69 GiB of which 0.9 GiB is free.
"""


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def png(pixels: np.ndarray) -> bytes:
    """An 8-bit grey or RGB picture as PNG."""
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    raw = b"".join(b"\0" + pixels[row].astype(np.uint8).tobytes() for row in range(height))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")


def scene(number: int, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A made-up piece of land with a burnt patch: the picture, and the truth from 0 to 1."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:size, 0:size] / size
    relief = sum(
        rng.normal()
        / k
        * np.sin(2 * math.pi * (k * x * rng.uniform(0.4, 1) + k * y * rng.uniform(0.4, 1)) + rng.uniform(0, 6))
        for k in range(1, 7)
    )
    cx, cy, radius = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.3)
    truth = (np.hypot(x - cx, (y - cy) * 1.4) + 0.06 * relief < radius).astype(float)
    land = 0.5 + 0.15 * relief + rng.normal(0, 0.03, (size, size))
    rgb = np.stack([0.35 * land + 0.05, 0.55 * land, 0.3 * land], -1)
    burnt = np.stack([0.35 * land, 0.2 * land, 0.18 * land], -1)
    return np.clip(np.where(truth[..., None] > 0, burnt, rgb) * 255, 0, 255), truth


def points(axes: dict[str, dict[Any, float]], seeds: int, trials: int) -> Iterator[dict[str, Any]]:
    names = [*axes, "seed"]
    for values in itertools.islice(itertools.product(*axes.values(), range(seeds)), trials):
        yield dict(zip(names, values, strict=True))


def make_store(
    folder: Path,
    *,
    trials: int = 48,
    axes: dict[str, list[Any]] | None = None,
    seeds: int = 2,
    study: str = "burned-area",
    title: str = "Burned-area segmentation, Canada 2019",
    pictures: int = 4,
    epochs: int = 40,
    gpus: int = 2,
    failed: float = 0.05,
    running: int = 2,
    waiting: int = 3,
    preempted: float = 0.06,
    test_step: bool = True,
    report: dict[str, Any] | None = None,
    samples: bool = True,
    random_seed: int = 0,
) -> Path:
    """Write a study's folder below ``folder`` and return it.

    Args:
        folder: the store.
        trials: how many train tasks (the first so many points of the matrix).
        axes: axis to values, instead of a choice that fits ``trials``.
        pictures: samples with pictures for each test.
        gpus: of each train task; 0 for a study on CPUs.
        failed, preempted: share of trials that failed for good, or lost an attempt.
        running, waiting: how many of the last trials are not done.
        test_step: with a test task for each train task, which reports the objective; else train does.
        samples: write usage.jsonl.
    """
    rng = random.Random(random_seed)
    root = folder / study
    # It begins so long ago that the attempts that still run, run now.
    now = time.time()
    start = now - trials * 1800 * 1.25 / 8 - 420
    chosen = (
        _axes(trials, seeds)
        if axes is None
        else {a: {v: AXES.get(a, {}).get(v, 0.0) for v in vs} for a, vs in axes.items()}
    )
    params = list(points(chosen, seeds, trials))
    objective = "test/iou" if test_step else "val/iou"
    if report is None:
        others = [a for a in chosen if a not in ("model", "imagery")]
        table: dict[str, Any] = {
            "title": "Models by imagery",
            "rows": ["model"],
            "value": objective,
            "over": ["seed"],
        }
        table["columns"] = [a for a in ("imagery",) if a in chosen]
        if others:
            table["best"] = {"over": others, "by": "train/val/iou", "goal": "max"}
        report = {"objective": {"metric": objective, "goal": "max"}, "tables": [table]}
    resources = {"gpu": gpus, "cpu": 4, "memory": "24Gi"}
    steps = [
        {
            "name": "chips",
            "needs": [],
            "for_each": None,
            "gate": False,
            "axes": [],
            "resources": {"cpu": 2, "memory": "8Gi"},
        },
        {
            "name": "train",
            "needs": ["chips"],
            "for_each": None,
            "gate": False,
            "axes": [*chosen, "seed"],
            "resources": resources,
        },
    ]
    if test_step:
        small = {"gpu": min(1, gpus), "cpu": 2, "memory": "10Gi"}
        steps.append({"name": "test", "needs": [], "for_each": "train", "gate": False, "axes": [], "resources": small})
    tasks: list[dict[str, Any]] = [{"id": _id("chips", {}), "step": "chips", "params": {}, "needs": []}]
    tasks += [{"id": _id("train", p), "step": "train", "params": p, "needs": [tasks[0]["id"]]} for p in params]
    if test_step:
        tasks += [{"id": _id("test", p), "step": "test", "params": p, "needs": [_id("train", p)]} for p in params]
    plan_axes = {"train": {a: list(v) for a, v in chosen.items()} | {"seed": list(range(seeds))}}
    put(
        root / "plan.json",
        {
            "format": 1,
            "study": study,
            "title": title,
            "report": report,
            "axes": plan_axes,
            "steps": steps,
            "tasks": tasks,
        },
    )
    (root / "study.yaml").write_text(_yaml(study, title, chosen, seeds, gpus), encoding="utf-8")
    maker = _Maker(root, study, rng, samples)
    maker.attempt(tasks[0], 1, start, 5, 400, resources={"cpu": 2, "memory": "8Gi"}, executor="local", gpus=0)
    maker.result(tasks[0], start + 5, start + 405, {})
    slots = [start + 420.0] * 8
    done: list[tuple[dict[str, Any], float, float]] = []
    for i, point in enumerate(params):
        task = tasks[1 + i]
        slot = min(range(8), key=slots.__getitem__)
        begin = slots[slot]
        score = 0.74 + sum(chosen[a][v] for a, v in point.items() if a in chosen) + rng.gauss(0, 0.008)
        score += 0.05 if point.get("pretrained") is False and point.get("model") == "fpn" else 0.0
        score = 1 / (1 + math.exp(-6 * (score - 0.5)))
        length = 1800 * rng.uniform(0.8, 1.3) * (1.6 if point.get("model") == "deeplabv3plus" else 1)
        left = len(params) - i
        if left <= waiting:
            continue
        wait = rng.uniform(3, 90)
        common: dict[str, Any] = {"resources": resources, "gpus": gpus, "slot": slot}
        if left <= waiting + running:
            maker.attempt(task, 1, now - 600 - wait, wait, 600, state="running", **common)
            maker.curves(task, 1, now - 600, 600, score, epochs // 3, rng)
            continue
        number = 1
        if rng.random() < preempted:
            maker.attempt(task, 1, begin, wait, length * 0.4, failure="preempted", lost=length * 0.1, **common)
            maker.curves(task, 1, begin, length * 0.4, score, epochs // 3, rng)
            begin, number = begin + wait + length * 0.4 + 20, 2
        if rng.random() < failed:
            memory = rng.random() < 0.7
            kind = ("oom-gpu" if gpus else "oom-host") if memory else "user"
            maker.attempt(task, number, begin, wait, 240, failure=kind, lost=240, **common)
            slots[slot] = begin + wait + 240
            continue
        maker.attempt(task, number, begin, wait, length, use=0.3 if point.get("imagery") == "tci" else 0.74, **common)
        maker.curves(task, number, begin + wait, length, score, epochs, rng)
        end = begin + wait + length
        metrics = {
            "val/iou": score + 0.012,
            "train/loss": 0.1 + 0.3 * (1 - score),
            "val/loss": 0.2 + 0.5 * (1 - score),
        }
        maker.result(task, begin + wait, end, metrics)
        slots[slot] = end
        done.append((point, score, end))
    if test_step:
        for point, score, end in done:
            task = {"id": _id("test", point), "step": "test", "params": point, "needs": [_id("train", point)]}
            small = {"gpu": min(1, gpus), "cpu": 2, "memory": "10Gi"}
            maker.attempt(task, 1, end, 4, 90, resources=small, gpus=min(1, gpus), use=0.5)
            iou = score + rng.gauss(0, 0.004)
            maker.result(task, end + 4, end + 94, {"iou": iou, "f1": 2 * iou / (1 + iou), "loss": 0.5 * (1 - iou)})
            maker.pictures(task, pictures, iou)
    elif pictures:
        for point, score, _ in done:
            maker.pictures({"id": _id("train", point), "step": "train"}, pictures, score)
    _runs(root, study, start, max(slots), len(tasks))
    return root


def _axes(trials: int, seeds: int) -> dict[str, dict[Any, float]]:
    chosen: dict[str, dict[Any, float]] = {}
    size = seeds
    for name, values in AXES.items():
        kept = dict(list(values.items())[: max(2, math.ceil(trials / size))]) if size < trials else {}
        if len(kept) > 1:
            chosen[name] = kept
            size *= len(kept)
    if size < trials:
        chosen["wd"] = {10.0**-k: 0.002 * k for k in range(1, math.ceil(trials / size) + 1)}
    # The most telling axes first, as a person would write them, whatever their number.
    return chosen or {"model": dict(list(MODELS.items())[:1])}


def _id(step: str, params: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps([step, params]).encode()):08x}{zlib.crc32(step.encode() + b'x'):08x}"[:12]


class _Maker:
    """Writes what one task leaves behind."""

    def __init__(self, root: Path, study: str, rng: random.Random, samples: bool) -> None:
        self.root, self.study, self.rng, self.samples = root, study, rng, samples
        self.scenes: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def folder(self, task: dict[str, Any]) -> Path:
        return self.root / str(task["step"]) / str(task["id"])

    def attempt(
        self,
        task: dict[str, Any],
        number: int,
        begin: float,
        wait: float,
        length: float,
        *,
        resources: dict[str, Any],
        gpus: int = 0,
        slot: int = 0,
        state: str = "ended",
        failure: str | None = None,
        lost: float = 0.0,
        use: float = 0.7,
        executor: str = "kubernetes",
    ) -> None:
        path = self.folder(task) / "attempts" / str(number)
        path.mkdir(parents=True, exist_ok=True)
        if number == 1:
            put(
                self.folder(task) / "task.json",
                {"format": 1, "study": self.study, "inputs": {}, "command": "train.py", **task},
            )
        base = {"format": 1, "study": self.study, "step": task["step"], "task": task["id"], "attempt": number}
        put(
            path / "spec.json",
            {**base, "params": task["params"], "argv": ["train.py"], "resources": resources},
        )
        name, memory = GPUS[slot % 3]
        running = state == "running"
        mean = min(0.99, max(0.02, self.rng.gauss(use, 0.06)))
        usage = {
            "cpu_seconds": length * 1.7,
            "cpu_mean": 1.7,
            "memory_peak": int(self.rng.uniform(4.5, 7) * 2**30),
            "gpu_mean": mean if gpus else None,
            "gpu_memory_peak": int(0.6 * memory) if gpus else None,
            "samples": 60,
        }
        sentences = {
            "oom-gpu": "Out of memory on a 24 GB GPU",
            "oom-host": "Killed for using more memory than it asked for",
            "user": "The command ended with exit code 1: KeyError: 'mask_red'",
            "preempted": "The node was taken away (preempted)",
        }
        broken = failure and {"class": failure, "message": sentences[failure], "lines": _lines(failure)}
        put(
            path / "attempt.json",
            {
                **base,
                "executor": executor,
                "state": state,
                "queued": stamp(begin),
                "started": stamp(begin + wait),
                "ended": None if running else stamp(begin + wait + length),
                "host": f"gpu-{slot // 2:02}.example.org" if gpus else "workstation",
                "pid": 4242,
                "pid_start": 1,
                "devices": [{"index": 2 * (slot % 2) + i, "name": name, "memory": memory} for i in range(gpus)],
                "outcome": None if running else "failed" if failure else "succeeded",
                "exit_code": None if running else 1 if failure else 0,
                "signal": None,
                "failure": broken or None,
                "usage": usage,
                "checkpointed": None,
                "lost_seconds": None if running else lost if failure else 0.0,
            },
        )
        (path / "log.txt").write_text(LOG if failure else "epoch 1\n", encoding="utf-8")
        if running:
            (path / "heartbeat").touch()
            os.utime(path / "heartbeat", (begin + wait + length, begin + wait + length))
        if self.samples and gpus:
            rows = [
                {
                    "time": stamp(begin + wait + k * length / 10),
                    "cpu": 1.7,
                    "memory": 5 << 30,
                    "processes": 3,
                    # The second GPU of a task stays idle: a mistake worth telling.
                    "gpus": [{"index": i, "use": 0.0 if i else mean, "memory": 9 << 30} for i in range(gpus)],
                }
                for k in range(10)
            ]
            (path / "usage.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")

    def curves(
        self,
        task: dict[str, Any],
        number: int,
        begin: float,
        length: float,
        score: float,
        epochs: int,
        rng: random.Random,
    ) -> None:
        lines = []
        for epoch in range(1, epochs + 1):
            part = 1 - math.exp(-4 * epoch / max(1, epochs))
            noise = rng.gauss(0, 0.01)
            metrics = {
                "train/loss": 1.1 - 0.9 * score * part + noise / 2,
                "val/loss": 1.15 - 0.75 * score * part + noise,
                "train/iou": min(0.99, (score + 0.05) * part + noise / 2),
                "val/iou": (score + 0.012) * part + noise,
            }
            rounded = {k: round(v, 5) for k, v in metrics.items()}
            lines.append(
                json.dumps({"time": stamp(begin + epoch * length / epochs), "step": epoch, "metrics": rounded})
            )
        path = self.folder(task) / "attempts" / str(number) / "metrics.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def result(self, task: dict[str, Any], begin: float, end: float, metrics: dict[str, float]) -> None:
        put(
            self.folder(task) / "result.json",
            {
                "format": 1,
                "study": self.study,
                "step": task["step"],
                "task": task["id"],
                "params": task["params"],
                "attempt": 1,
                "metrics": metrics,
                "outputs": {"digest": "0" * 64, "files": 2, "bytes": 1000},
                "inputs": {},
                "data": {},
                "code": None,
                "started": stamp(begin),
                "ended": stamp(end),
                "seconds": end - begin,
            },
        )

    def pictures(self, task: dict[str, Any], count: int, score: float) -> None:
        folder = self.folder(task) / "out" / "pictures"
        notes = {}
        rng = np.random.default_rng(int(task["id"], 16))
        for number in range(count):
            if number not in self.scenes:
                self.scenes[number] = scene(number)
            image, truth = self.scenes[number]
            sample = folder / f"tile-{number + 1:02}"
            sample.mkdir(parents=True, exist_ok=True)
            coarse = rng.random((16, 16)).repeat(8, 0).repeat(8, 1)
            guess = np.where(coarse < (1 - score) * 0.5, 1 - truth, truth)
            (sample / "input.png").write_bytes(png(image))
            (sample / "truth.png").write_bytes(png(truth * 255))
            (sample / "prediction.png").write_bytes(png(guess * 255))
            notes[sample.name] = {
                "caption": f"Tile {number + 1}, 10 m",
                "score": round(score - 0.02 * number, 3),
            }
        if count:
            put(folder / "pictures.json", notes)


def _lines(failure: str) -> list[str]:
    if failure == "oom-gpu":
        return LOG.splitlines()[-1:]
    if failure == "user":
        return [
            '  File "train.py", line 31, in load',
            "    mask = record['mask_red']",
            "KeyError: 'mask_red'",
        ]
    return []


def _yaml(study: str, title: str, axes: dict[str, dict[Any, float]], seeds: int, gpus: int) -> str:
    matrix = "\n".join(f"      {a}: [{', '.join(str(v).lower() for v in vs)}]" for a, vs in axes.items())
    return f"""study: {study}
title: {title}
steps:
  chips:
    run: chips.py --out {{out}}
    resources: {{cpu: 2, memory: 8Gi}}
  train:
    needs: chips
    matrix:
{matrix}
    seeds: {seeds}
    run: train.py --chips {{inputs.chips}} --seed {{seed}} --out {{out}}
    resources: {{gpu: {gpus}, cpu: 4, memory: 24Gi}}
  test:
    for_each: train
    run: test.py --model {{inputs.train}} --out {{out}}
report:
  objective: {{metric: test/iou, goal: max}}
"""


def _runs(root: Path, study: str, start: float, end: float, asked: int) -> None:
    put(
        root / "runs" / "1.json",
        {
            "format": 1,
            "run": 1,
            "study": study,
            "started": stamp(start),
            "ended": stamp(end),
            "argv": ["shoal", "run", f"studies/{study}.yaml", "--on", "nautilus"],
            "user": "ana",
            "host": "laptop",
            "pid": 1,
            "executor": "kubernetes",
            "profile": None,
            "asked": asked,
            "counts": {"done": asked},
            "shoal": "0.1.0",
            "python": "3.11.7",
            "packages": {"numpy": "2.1.0", "pandas": "2.2.3", "torch": "2.9.0", "rich": "14.0.0"},
            "machine": {
                "system": "Linux 6.8",
                "cpu": "AMD EPYC 7763",
                "cores": 16,
                "memory": 64 << 30,
                "gpus": [],
            },
            "git": {
                "commit": "9f2b6c1e4d5a7f8091a2b3c4d5e6f708192a3b4c",
                "branch": "main",
                "remote": "https://example.org/lab/fire.git",
                "dirty": True,
            },
        },
    )
    diff = (
        "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n@@ -31 +31 @@\n"
        "-    mask = record['mask']\n+    mask = record['mask_red']\n"
    )
    (root / "runs" / "1.diff").write_text(diff, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--pictures", type=int, default=4)
    given = parser.parse_args()
    print(make_store(given.folder, trials=given.trials, seeds=given.seeds, pictures=given.pictures))
