"""Training as the studies start it: torchrun, stopped and started again, workers, bf16, weights from a folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from shoal_earth.segmentation.models import build_model
from shoal_earth.training.checkpoint import load_checkpoint

from .pairs import write_pairs

BIN = Path(sys.executable).parent
TORCHRUN = [BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", BIN / "shoal-earth"]


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs"), train=16, val=5)


def start(command: list[object]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    return subprocess.Popen(
        [str(word) for word in command],
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    return process.returncode, output


def lines(out: Path) -> list[dict]:
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_stopped_and_started_again_end_as_if_never_stopped(chips: Path, tmp_path: Path, cli) -> None:
    train: list[object] = [*TORCHRUN, "change", "train", "--chips", chips, "--model", "fc-siam-diff", "--width", 8]
    train += ["--lr", 3e-3, "--batch-size", 2, "--loss", "miou", "--optimizer", "adam", "--schedule", "linear"]
    train += ["--augment", "turns", "--best-by", "val/miou", "--workers", 1, "--device", "cpu", "--epochs", 40, "--out"]
    code, output = finish(start([*train, tmp_path / "whole"]))
    assert code == 0, output
    parts = tmp_path / "parts"
    process = start([*train, parts])
    deadline = time.monotonic() + 240
    while len(lines(parts)) < 8 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # what a preempted pod gets; torchrun passes it on
    code, output = finish(process)
    assert code != 0, "it ended before it was stopped"
    stopped = load_checkpoint(parts / "checkpoints" / "last.pt")["step"]
    assert 0 < stopped < 160, output
    code, output = finish(start([*train, parts]))
    assert code == 0, output
    for file in ("last.pt", "best.pt"):
        one, other = (load_checkpoint(folder / file)["model"] for folder in (tmp_path / "whole", parts))
        for key, value in one.items():
            assert torch.equal(value, other[key]), key
    # What the two together found on validation is what the weights that are kept find.
    ours = [line["metrics"] for line in lines(tmp_path / "whole") if "val/iou" in line["metrics"]][-1]
    test = ["change", "test", "--chips", chips, "--split", "val", "--device", "cpu", "--pictures", 0]
    code, _, error = cli(*test, "--checkpoint", tmp_path / "whole" / "last.pt", "--out", tmp_path / "scores")
    assert code == 0, error
    alone = lines(tmp_path / "scores")[-1]["metrics"]
    for name in ("val/iou", "val/accuracy", "val/kappa"):
        assert ours[name] == pytest.approx(alone[name], abs=1e-6)


def test_bf16_with_workers_from_a_folder_of_weights(chips: Path, tmp_path: Path, cli) -> None:
    encoder = ("--encoder", "tu-test_resnet")
    code, out, error = cli("segmentation", "weights", *encoder, "--source", "random", "--out", tmp_path / "weights")
    assert (code, out.strip()) == (0, str(tmp_path / "weights" / "tu-test_resnet.safetensors")), error
    train = ("segmentation", "train", "--chips", chips, "--model", "unetplusplus", "--depth", 3, "--width", 16)
    train += ("--precision", "bf16", "--workers", 2, "--batch-size", 4, "--epochs", 1, "--device", "cpu", "--out")
    start = ("--pretrained", "true", "--weights-folder", tmp_path / "weights")
    code, out, error = cli(*train, tmp_path / "a", *encoder, *start, "--lr", 1e-9, "--optimizer", "sgd")
    assert code == 0, error
    # At next to no learning rate, the encoder is still the one that the folder held.
    from safetensors.torch import load_file

    held = load_file(tmp_path / "weights" / "tu-test_resnet.safetensors")
    kept = load_checkpoint(tmp_path / "a" / "last.pt")["model"]
    own = build_model("unetplusplus", "tu-test_resnet", bands=3, classes=2, depth=3, width=16).encoder
    checked = 0
    for name, parameter in own.named_parameters():
        if parameter.ndim == 4 and parameter.shape == held[name].shape == kept[f"encoder.{name}"].shape:
            torch.testing.assert_close(kept[f"encoder.{name}"], held[name], rtol=0, atol=1e-6)
            checked += 1
    assert checked > 3
    assert all(value.dtype != torch.bfloat16 for value in kept.values())
    for words, message in (
        (("--weights-folder", tmp_path / "nowhere"), "nowhere: "),
        (("--weights-folder", tmp_path), "has no weights of the encoder tu-test_resnet (tu-test_resnet.safetensors)"),
        (
            ("--weights-folder", tmp_path / "weights", "--pretrained", "maybe"),
            '--pretrained is true or false, not "maybe"',
        ),
        (("--weights-folder", tmp_path / "weights", "--precision", "fp8"), 'there is no precision "fp8"'),
    ):
        code, _, error = cli(*train, tmp_path / "b", *encoder, "--pretrained", "true", *words)
        assert code == 2
        assert message in error
        assert "Traceback" not in error
