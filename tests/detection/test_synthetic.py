"""Generated scenes: true to the formats, the same for the same seed, and named for what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import UsageError
from shoal_earth.detection.shards import DetectionChips
from shoal_earth.detection.synthetic import KINDS, make_scene
from shoal_earth.detection.synthetic_formats import FORMATS, write_synthetic


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_from_scenes_to_chips_on_the_command_line(tmp_path: Path, cli: Any, kind: str) -> None:
    code, out, err = cli("synthetic", "--format", kind, "--scenes", 6, "--side", 400, "--out", tmp_path / "data")
    assert code == 0, err
    counts = json.loads(out)
    code, out, err = cli(
        "prepare", "--dataset", kind, "--source", tmp_path / "data", "--out", tmp_path / "chips", "--size", 128
    )
    assert code == 0, err
    assert f"{kind}: {counts['images']} images, {counts['objects']} boxes" in out
    findings = json.loads((tmp_path / "chips" / "findings.json").read_text())
    labels = findings["counts"]["labels"]
    assert labels["read"] == counts["objects"] + counts["flawed"]
    assert labels["kept"] == counts["objects"]
    assert sum(labels["skipped"].values()) == counts["flawed"]
    with DetectionChips(tmp_path / "chips") as chips:
        assert {chip["split"] for chip in chips.chips} == {"train", "val", "test"}
        seen = {int(row["label"]) for n in range(len(chips)) for row in chips.boxes(n)}
    assert len(seen) >= 4
    assert (tmp_path / "data" / "SYNTHETIC.txt").read_text().startswith("SYNTHETIC")
    images = [p for p in (tmp_path / "data").rglob("*") if p.suffix in (".png", ".tif")]
    assert len(images) == counts["images"]


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_the_same_seed_gives_the_same_files(tmp_path: Path, kind: str) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_synthetic(kind, tmp_path / name, scenes=2, side=200, seed=seed)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert any(
        not (tmp_path / "c" / f).is_file() or (tmp_path / "a" / f).read_bytes() != (tmp_path / "c" / f).read_bytes()
        for f in files
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_boxes_hold_what_is_drawn(kind: str) -> None:
    """Something that differs from the ground, and no corner of what is drawn outside."""
    scene = make_scene(np.random.default_rng(3), 260, 220, [kind], crowd=0.6)
    assert len(scene.things) >= 2
    empty = np.median(scene.pixels, (0, 1))
    for thing in scene.things:
        left, top, right, bottom = thing.box
        assert 0 <= left < right <= 260
        assert 0 <= top < bottom <= 220
        assert right - left <= KINDS[kind].length[1] * 1.5
        part = scene.pixels[int(top) : int(bottom) + 1, int(left) : int(right) + 1].astype(float)
        assert np.abs(part - empty).max() > 20
        low, high = thing.quad.min(0), thing.quad.max(0)
        assert (low <= [left + 1e-6, top + 1e-6]).all()
        assert (high >= [right - 1e-6, bottom - 1e-6]).all()


def test_objects_do_not_lie_on_each_other() -> None:
    scene = make_scene(np.random.default_rng(5), 400, 400, ["plane", "vehicle", "ship"], crowd=2)
    boxes = np.array([thing.box for thing in scene.things])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1)) + np.eye(len(boxes)) * 1e6
    assert apart.min() > 8
    assert {thing.kind for thing in scene.things} == {"plane", "vehicle", "ship"}


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no kind"):
        make_scene(np.random.default_rng(0), 200, 200, ["dragon"])
    with pytest.raises(UsageError, match="at least 96"):
        make_scene(np.random.default_rng(0), 20, 200, ["plane"])
    with pytest.raises(UsageError, match="no format"):
        write_synthetic("coco", tmp_path)
    with pytest.raises(UsageError, match="at least one scene"):
        write_synthetic("dota", tmp_path, side=10)
