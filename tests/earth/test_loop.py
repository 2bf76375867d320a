"""The training loop: exact resume after real kills, same seed same numbers, several processes, schedules, checkpoints."""

from __future__ import annotations

import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from shoal.errors import ShoalError, UsageError
from shoal_earth.training.checkpoint import load_checkpoint, save_checkpoint
from shoal_earth.training.data import Batches
from shoal_earth.training.distributed import Ranks, choose_device
from shoal_earth.training.loop import Stopped, to_device
from shoal_earth.training.optim import Schedule, build_optimizer, parameter_groups

from .job import Noisy, make

ALONE = Ranks(0, 1, torch.device("cpu"))
JOB = Path(__file__).with_name("job.py")


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through all levels."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def numbers(out: Path) -> dict[int, dict[str, float]]:
    """What was logged, by step; a step that was done again must have given the same."""
    found: dict[int, dict[str, float]] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        kept = {k: v for k, v in record["metrics"].items() if not k.startswith("speed/")}
        for name, value in kept.items():
            assert found.setdefault(record["step"], {}).setdefault(name, value) == value
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    make(out, here=ALONE).run()
    return out


def interrupted(out: Path, kind: signal.Signals) -> int:
    """Start the job in a process of its own and end it somewhere in the middle; returns its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("SHOAL_SPEC", None)
    process = subprocess.Popen([sys.executable, JOB, out, "0.01"], env=environment, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while len((out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []) < 7:
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(kind)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return process.returncode


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_resumed_equals_uninterrupted(
    kind: signal.Signals, tmp_path: Path, uninterrupted: Path
) -> None:
    code = interrupted(tmp_path, kind)
    assert code == (-signal.SIGKILL if kind == signal.SIGKILL else 1)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")["step"]
    assert 10 < saved < 60
    fit = make(tmp_path, here=ALONE)
    assert fit.resume()
    assert fit.step == saved
    torch.rand(100)  # whatever happens before the resume must not matter
    make(tmp_path, here=ALONE).run()
    for name in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(out / "checkpoints" / name) for out in (uninterrupted, tmp_path))
        assert equal(one, other), name
    assert numbers(uninterrupted) == numbers(tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_same_seed_same_numbers_other_seed_others(tmp_path: Path, uninterrupted: Path) -> None:
    make(tmp_path / "again", here=ALONE, save_every=1e9).run()
    assert numbers(tmp_path / "again") == numbers(uninterrupted)
    make(tmp_path / "other", here=ALONE, seed=1, epochs=2).run()
    assert numbers(tmp_path / "other")[3] != numbers(uninterrupted)[3]


def test_a_finished_run_started_again_does_nothing(tmp_path: Path) -> None:
    best = make(tmp_path, here=ALONE, epochs=2).run()
    before = (tmp_path / "metrics.jsonl").read_text()
    assert make(tmp_path, here=ALONE, epochs=2).run() == best
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_stop_between_step_and_evaluation_loses_neither(tmp_path: Path, uninterrupted: Path) -> None:
    class Task:
        checkpoints = tmp_path
        stopping = False
        lines: list[tuple[int, dict[str, float]]] = []  # noqa: RUF012

        def log(self, metrics: dict[str, float], step: int) -> None:
            self.lines.append((step, metrics))
            # Asked to stop at the end of the first epoch, before it is evaluated.
            self.stopping = step == 10 and "train/loss" in metrics

    task = Task()
    with pytest.raises(Stopped, match="stopped at step 10 of 60"):
        make(tmp_path, here=ALONE, task=task, log_every=10).run()
    assert load_checkpoint(tmp_path / "last.pt")["evaluated"] == 0
    task.stopping = False
    make(tmp_path, here=ALONE, task=task, log_every=10).run()
    assert [step for step, metrics in task.lines if "val/error" in metrics] == [10, 20, 30, 40, 50, 60]
    assert equal(load_checkpoint(tmp_path / "last.pt"), load_checkpoint(uninterrupted / "checkpoints" / "last.pt"))


def test_state_of_another_run_is_refused(tmp_path: Path) -> None:
    make(tmp_path, here=ALONE, epochs=1).run()
    with pytest.raises(UsageError, match=r"state of another run .*seed: 0 then, 1 now"):
        make(tmp_path, here=ALONE, epochs=1, seed=1).run()
    with pytest.raises(
        UsageError, match=r"state of another run .*optimizer: AdamW then, Adam now; ema: 0.9 then, None"
    ):
        make(tmp_path, here=ALONE, epochs=1, optimizer="adam", ema=None).run()
    with pytest.raises(UsageError, match=r"last\.pt: is the state of another model"):
        make(tmp_path, here=ALONE, epochs=1, norm=False).run()


def test_two_processes_take_the_steps_of_one_on_the_joint_batch(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("SHOAL_SPEC", None)
    processes = [
        subprocess.Popen(
            [sys.executable, JOB, tmp_path / "two", "ddp"], env={**environment, "RANK": r, "LOCAL_RANK": r}
        )
        for r in "01"
    ]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    same = {"here": ALONE, "dropout": 0.0, "norm": False, "ema": None, "epochs": 2}
    make(tmp_path / "one", size=8, **same).run()
    make(tmp_path / "parts", size=4, accumulate=2, **same).run()
    two, one, parts = (load_checkpoint(tmp_path / n / "checkpoints" / "last.pt") for n in ("two", "one", "parts"))
    assert one["step"] == two["step"] == parts["step"] == 10
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(parts["model"][name], value, rtol=1e-5, atol=1e-6)
    assert numbers(tmp_path / "two")[9]["train/loss"] == pytest.approx(
        numbers(tmp_path / "one")[9]["train/loss"], rel=1e-5
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns(precision: str, tmp_path: Path) -> None:
    fit = make(tmp_path, here=ALONE, precision=precision, epochs=15, dropout=0.0, lr=0.05, ema=None)
    seen = []
    fit.module[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    best = fit.run()
    wanted = torch.bfloat16 if precision == "bf16" else torch.float16
    assert wanted in seen
    assert all(p.dtype == torch.float32 for p in fit.module.parameters())
    logged = numbers(tmp_path)
    assert best["value"] < 0.3 * logged[3]["train/error"]
    assert fit.scaler.is_enabled() == (precision == "fp16")


def test_best_and_last_are_kept(tmp_path: Path) -> None:
    values = iter([0.3, 0.7, 0.7, math.nan, 0.5])
    fit = make(
        tmp_path,
        here=ALONE,
        epochs=5,
        monitor="val/iou",
        goal="max",
        evaluate=lambda model: {"val/iou": next(values), "val/x": 1.0},
    )
    best = fit.run()
    # The first of two equal values is kept, one that is not a number never.
    assert best == {"step": 20, "metric": "val/iou", "value": 0.7, "metrics": {"val/iou": 0.7, "val/x": 1.0}}
    kept = load_checkpoint(tmp_path / "checkpoints" / "best.pt")
    assert (kept["step"], kept["metrics"]["val/iou"], kept["meta"]) == (20, 0.7, {"kind": "job"})
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt")["step"] == 50
    values = iter([0.3, 0.2, 0.4])
    least = make(
        tmp_path / "min", here=ALONE, epochs=3, monitor="a", goal="min", evaluate=lambda model: {"a": next(values)}
    )
    assert least.run()["step"] == 20


def test_moving_average_is_what_is_evaluated_and_kept(tmp_path: Path) -> None:
    fit = make(tmp_path, here=ALONE, epochs=2, ema=0.5, norm=False)
    fit.run()
    kept = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    average = kept["ema"]
    assert not equal(average, kept["model"])
    fit.save_weights(tmp_path / "w.pt")
    assert equal(load_checkpoint(tmp_path / "w.pt")["model"], average)
    # By hand: a decay of d keeps d of the old and takes 1 - d of the new weights.
    before, fit.module[0].bias.data = fit.ema.module[0].bias.clone(), torch.full((16,), 3.0)
    fit.ema.update(fit.module, 20)
    torch.testing.assert_close(fit.ema.module[0].bias.data, 0.5 * before + 1.5)
    # Early on the new weights count more, the first ones alone; norms are the model's own.
    fit.ema.update(fit.module, 1)
    torch.testing.assert_close(fit.ema.module[0].bias.data, 2 / 11 * (0.5 * before + 1.5) + 9 / 11 * 3.0)
    fit.ema.update(fit.module, 0)
    assert equal(fit.ema.state_dict(), fit.module.state_dict())
    normed = make(tmp_path / "norm", here=ALONE, epochs=1, ema=0.5)
    normed.run()
    assert torch.equal(normed.ema.module[1].running_mean, normed.module[1].running_mean)


def test_evaluate_every_and_the_last_step(tmp_path: Path) -> None:
    make(tmp_path, here=ALONE, epochs=5, evaluate_every=2).run()
    assert [step for step, metrics in numbers(tmp_path).items() if "val/error" in metrics] == [20, 40, 50]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    class Broken(Noisy):
        def get(self, index: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
            x, y = super().get(index, rng)
            return x, y * math.inf

    with pytest.raises(ShoalError, match=r"the loss is (nan|inf) at step 3"):
        make(tmp_path, here=ALONE, examples=Broken(), save_every=1e9).run()

    class Strict(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if not torch.isfinite(self.weight).all():
                raise ValueError("boxes1 must be in corner format")
            return super().forward(x)

    # A model that refuses such numbers is not what went wrong.
    fit = make(tmp_path, here=ALONE, examples=Broken(), save_every=1e9)
    fit.module[0].__class__ = Strict
    with pytest.raises(ShoalError, match=r"the loss is (nan|inf) at step 1"):
        fit.run()
    # A state that nothing can go on from is not kept.
    with pytest.raises(ShoalError, match=r"the loss is (nan|inf) at step 1"):
        make(tmp_path, here=ALONE, examples=Broken()).run()
    assert not (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_state_that_takes_long_to_write_is_written_seldom(tmp_path: Path) -> None:
    for took, wanted in ((0.0, 6), (1e6, 1)):
        fit = make(tmp_path / str(took), here=ALONE, epochs=1, monitor="a", evaluate=lambda model: {"a": 1.0})
        fit._saving, steps = took, list[int]()
        whole = fit.save

        def save(fit: Any = fit, steps: Any = steps, took: float = took, whole: Any = whole) -> None:
            whole()
            steps.append(fit.step)
            fit._saving = took

        fit.save = save  # type: ignore[method-assign]
        fit.run()
        assert len(steps) >= wanted
        assert steps[-1] == 10
        assert took == 0 or steps == [10]


def test_metric_to_monitor_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ShoalError, match="val/iou, is not among those evaluated: val/error"):
        make(tmp_path, here=ALONE, monitor="val/iou").run()


def test_stream_is_a_function_of_seed_and_step() -> None:
    examples = SimpleNamespace(get=lambda i, rng: torch.tensor([float(i), rng.random()]), __len__=None)

    class Counted:
        def __len__(self) -> int:
            return 23

        get = staticmethod(examples.get)

    whole = [batch.tolist() for batch in Batches(Counted(), 3, 5, accumulate=2).stream(0, 9)]
    assert len(whole) == 18
    tail = [batch.tolist() for batch in Batches(Counted(), 3, 5, accumulate=2).stream(4, 9)]
    assert tail == whole[8:]
    with_workers = [batch.tolist() for batch in Batches(Counted(), 3, 5, accumulate=2, workers=1).stream(4, 9)]
    assert with_workers == tail
    # One epoch is 3 steps of 6 examples here: none comes twice in it, and the next one has another order.
    first, second = ([row[0] for part in whole[k : k + 6] for row in part] for k in (0, 6))
    assert len(set(first)) == len(set(second)) == 18
    assert first != second
    ranked = [[b.tolist() for b in Batches(Counted(), 3, 5, rank=r, world=2).stream(0, 3)] for r in (0, 1)]
    joint = [b.tolist() for b in Batches(Counted(), 6, 5).stream(0, 3)]
    assert [a + b for a, b in zip(*ranked, strict=True)] == joint
    # Fewer examples than a batch: they are repeated to fill it.
    (batch,) = Batches(Counted(), 50, 0).stream(0, 1)
    assert len(batch) == 50
    assert set(batch[:, 0].tolist()) == set(map(float, range(23)))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule("constant", 10, warmup=3), [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1]),
        (Schedule("linear", 4), [1, 0.75, 0.5, 0.25]),
        (Schedule("linear", 4, end=0.2), [1, 0.8, 0.6, 0.4]),
        (Schedule("polynomial", 4, power=2), [1, 0.5625, 0.25, 0.0625]),
        (Schedule("step", 6, milestones=(2, 4), gamma=0.1), [1, 1, 0.1, 0.1, 0.01, 0.01]),
        (Schedule("cosine", 4), [1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4]),
        (
            Schedule("cosine", 6, warmup=2, end=0.1),
            [1 / 3, 2 / 3, 1, 0.1 + 0.45 * (1 + math.sqrt(0.5)), 0.55, 0.1 + 0.45 * (1 - math.sqrt(0.5))],
        ),
    ],
)
def test_schedules_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule(step) for step in range(len(expected))] == pytest.approx(expected)


def test_schedule_drives_the_optimizer(tmp_path: Path) -> None:
    make(tmp_path, here=ALONE, epochs=1, log_every=1).run()
    schedule = Schedule("cosine", 10, warmup=5)
    assert [m["train/lr"] for _, m in sorted(numbers(tmp_path).items())] == pytest.approx(
        [0.02 * schedule(s) for s in range(10)]
    )


def test_devices_are_chosen_by_name_and_number_of_the_process() -> None:
    assert choose_device("auto", 0) == choose_device("cpu", 4, 1, 2) == torch.device("cpu")
    assert choose_device("auto", 4, 3, 4) == choose_device("cuda", 4, 3, 4) == torch.device("cuda", 3)
    assert choose_device("cuda:2", 4) == torch.device("cuda", 2)
    for given, message in (
        (("gpu", 1), 'no device "gpu"'),
        (("mps", 0), "Choose one of: auto, cpu, cuda, cuda:N"),
        (("cuda", 0), "sees no CUDA device"),
        (("cuda:1", 2, 0, 2), "2 processes cannot share cuda:1"),
        (("auto", 2, 2, 3), "GPU 2 was asked for, but PyTorch sees 2, counted from 0"),
    ):
        with pytest.raises(UsageError, match=message):
            choose_device(*given)


def test_tensors_are_moved_wherever_they_are() -> None:
    class Pair(NamedTuple):
        image: torch.Tensor
        name: str

    image = torch.zeros(2, 3, 4, 5)
    moved = to_device({"a": [Pair(image, "x")], "b": (image[0],)}, torch.device("cpu", 0), channels_last=True)
    assert isinstance(moved["a"][0], Pair)
    assert moved["a"][0].name == "x"
    assert moved["a"][0].image.is_contiguous(memory_format=torch.channels_last)
    assert moved["b"][0].is_contiguous()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lamb"])
def test_optimizers_by_name_learn(name: str, tmp_path: Path) -> None:
    best = make(tmp_path, here=ALONE, optimizer=name, epochs=15, dropout=0.0, lr=0.05, ema=None).run()
    assert best["value"] < 0.3 * numbers(tmp_path)[3]["train/error"]


def test_parameter_groups() -> None:
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))})
    groups = parameter_groups(model, 0.1, 0.5, scale={"backbone": 0.1})
    found = {(round(g["lr"], 6), g["weight_decay"]): len(g["params"]) for g in groups}
    assert found == {(0.01, 0.5): 1, (0.01, 0.0): 1, (0.1, 0.5): 1, (0.1, 0.0): 3}
    assert len(parameter_groups(model, 0.1, 0.5, decay_norm=True)) == 1
    for name, decay in (("adam", 0.0), ("adamw", 0.01), ("sgd", 5e-4), ("lamb", 0.01)):
        assert max(g["weight_decay"] for g in build_optimizer(name, model, 0.1).param_groups) == decay


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(UsageError, match=r'(?s)optimizer "adan".*adamw'):
        build_optimizer("adan", nn.Linear(1, 1), 0.1)
    with pytest.raises(UsageError, match="above 0"):
        build_optimizer("adam", nn.Linear(1, 1), 0.0)
    with pytest.raises(UsageError, match=r'(?s)schedule "cosin".*cosine'):
        Schedule("cosin", 10)


def test_checkpoints_are_whole_or_absent_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"x": torch.arange(3)})

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(path, {"x": torch.zeros(3)})
    assert load_checkpoint(path)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    torch.save({"format": 1, "x": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:-100])
    torch.save({"other": 1}, tmp_path / "foreign.pt")
    for name in ("evil.pt", "raw.pt", "cut.pt", "foreign.pt", "absent.pt"):
        with pytest.raises(UsageError, match=name):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "pwned").exists()
