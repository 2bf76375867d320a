"""The benches of detectors do what they say, on a small scale; their figures are another matter."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules

from .conftest import quad, write_dota

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a module of the bench."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def test_the_bench_for_gpus_runs_on_a_cpu(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--device cpu --size tiny --side 128 --batch-size 2 --warm-up 1 --steps 1 --ways 1,2 --models ssd,nonesuch"
    monkeypatch.setattr(sys, "argv", ["detector_gpu.py", *small.split(), "--json", str(tmp_path / "found.json")])
    assert bench("detector_gpu").main() == 0
    found = json.loads((tmp_path / "found.json").read_text())["models"]
    assert list(found["ssd"]) == ["fp32", "bf16, channels-last"]
    for own in found["ssd"].values():
        assert own["images_per_second"] > 0
        assert own["batch"] == 2
    # One that cannot be measured is told, and costs nobody else's figures.
    assert "no detector" in found["nonesuch"]["fp32"]["failed"]
    assert "| nonesuch | fp32 | | not measured: " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["detector_gpu.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert bench("detector_gpu").main() == 1


def test_both_loops_train_on_the_very_same_batches(bench: Any, tmp_path: Path) -> None:
    labels = {f"P{n}": [quad(4, 4, 40, 40), quad(30, 20, 60, 44)] for n in range(5)}
    folder = write_dota(tmp_path / "in", labels)
    prepare("dota", folder, tmp_path / "chips", ChipRules(64, 0), SplitRules((1, 0, 0)))
    parser = argparse.ArgumentParser()
    bench("loops").add_options(parser, turns=2, steps=2, batch_size=2)
    parser.add_argument("--size", default="tiny")
    args = parser.parse_args([])
    case = bench("detector_training").case_of("ssd", tmp_path / "chips", args)
    seen: dict[str, list[float]] = {"loss": [], "losses": []}

    def watched(name: str) -> Any:
        original = getattr(case, name)

        def call(model: Any, batch: Any) -> Any:
            answer = original(model, batch)
            seen[name].append(float(batch[0].sum()))
            seen[name].append(float((answer["loss"] if isinstance(answer, dict) else answer).detach()))
            return answer

        return call

    times = bench("loops").compare(
        replace(case, loss=watched("loss"), losses=watched("losses")), args, tmp_path / "out"
    )
    assert len(times) == 2
    assert min(min(own) for own in times) > 0
    assert len(seen["loss"]) == 2 * 6
    # The same pixels, and from the same weights the same losses: the steps are small, and their schedules differ a little.
    assert seen["loss"][::2] == seen["losses"][::2]
    assert seen["loss"][1::2] == pytest.approx(seen["losses"][1::2], rel=1e-2)
    assert set(bench("loops").figures(times, args)) >= {"ratio", "cpu_time_ratio", "quartiles", "spread"}
