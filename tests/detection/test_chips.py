"""Chips: geometry, one decoding, bounded memory, splits without leaks, the same bytes, damaged images."""

from __future__ import annotations

import itertools
import json
import os
import tarfile
import threading
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from shoal.errors import ShoalError, UsageError
from shoal_earth.ahead import ahead
from shoal_earth.detection import imagery
from shoal_earth.detection.chips import BOX, ChipRules
from shoal_earth.detection.findings import Findings
from shoal_earth.detection.form import Boxes, Image
from shoal_earth.detection.imagery import ImageError, Source, quiet, starts, to_rgb
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.shards import DetectionChips, ImageShards
from shoal_earth.detection.splits import SplitRules, split_images
from shoal_earth.rasters import rooms
from shoal_earth.rasters.rooms import Rooms
from shoal_earth.rasters.shards import ShardReader

from .conftest import quad, write_coco, write_dota, write_png, write_tif

ALL_TRAIN = SplitRules((1, 0, 0))


def dota(folder: Path, count: int = 12, per_image: int = 3, side: int = 96, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    labels = {}
    for number in range(count):
        rows = []
        for _ in range(per_image):
            left, top = rng.integers(0, side - 24, 2)
            rows.append(quad(left, top, left + int(rng.integers(6, 24)), top + int(rng.integers(6, 24))))
        labels[f"P{number:04d}"] = rows
    return write_dota(folder, labels, width=side, height=side)


@given(length=st.integers(1, 300), size=st.integers(8, 90), overlap=st.integers(0, 89))
def test_windows_cover_everything_and_overlap_as_asked(length: int, size: int, overlap: int) -> None:
    overlap = min(overlap, size - 1)
    found = starts(length, size, overlap)
    assert found == sorted(set(found))
    assert set(range(length)) <= {pixel for start in found for pixel in range(start, start + size)}
    assert all(b - a <= size - overlap for a, b in itertools.pairwise(found))
    if length >= size:
        assert found[-1] + size == length


def test_chips_show_the_pixels_and_boxes_of_their_place(tmp_path: Path) -> None:
    folder = write_dota(tmp_path / "in", {"P1": [quad(10, 12, 30, 20), quad(60, 50, 90, 80)]}, width=100, height=90)
    prepare("dota", folder, tmp_path / "out", ChipRules(48, 16, min_visible=0.2, clear_visible=0.6), ALL_TRAIN)
    source = np.asarray(Picture.open(folder / "images" / "P1.png")).transpose(2, 0, 1)
    seen = Counter[int]()
    with DetectionChips(tmp_path / "out", "train") as chips:
        assert len(chips) > 3
        for number in range(len(chips)):
            facts, rows = chips.facts(number), chips.boxes(number)
            top, left = facts["row"], facts["column"]
            np.testing.assert_array_equal(chips.image(number), source[:, top : top + 48, left : left + 48])
            assert rows.dtype == BOX
            for row in rows:
                whole = [(10, 12, 30, 20), (60, 50, 90, 80)][row["object"]]
                x1, y1, x2, y2 = row["box"] + np.array([left, top, left, top])
                assert (x1, y1) == (max(whole[0], left), max(whole[1], top))
                assert (x2, y2) == (min(whole[2], left + 48), min(whole[3], top + 48))
                share = (x2 - x1) * (y2 - y1) / ((whole[2] - whole[0]) * (whole[3] - whole[1]))
                assert row["visible"] == pytest.approx(share)
                assert share >= 0.2
                assert row["difficult"] == (share < 0.6)
                seen[int(row["object"])] += 1
    assert set(seen) == {0, 1}


def test_thresholds_decide_what_a_cut_box_is(tmp_path: Path) -> None:
    # Of 40 x 10 pixels, chips of 32 at 0 and 32 show 22 and 18 columns.
    folder = write_dota(tmp_path / "in", {"P1": [quad(10, 10, 50, 20)]}, width=64, height=32)
    for name, visible, expected in (("a", 0.4, 2), ("b", 0.5, 1), ("c", 0.56, 0)):
        rules = ChipRules(32, 0, visible, 0.0, keep_empty=True)
        made = prepare("dota", folder, tmp_path / name, rules, ALL_TRAIN)
        with DetectionChips(tmp_path / name) as chips:
            assert sum(len(chips.boxes(n)) for n in range(2)) == expected
        lost = dict(made.dataset.findings.counts["boxes"].skipped)
        assert lost == ({} if expected else {"cut everywhere": 1})
    with pytest.raises(UsageError, match="no training chip") as caught:
        prepare("dota", folder, tmp_path / "d", ChipRules(32, 0, 0.56), ALL_TRAIN)
    assert "labelTxt/P1.txt:1: images/P1.png: 40 x 10 pixels" in str(caught.value)
    made = prepare("dota", folder, tmp_path / "e", ChipRules(32, 0, 0.4, min_side=11, keep_empty=True), ALL_TRAIN)
    assert dict(made.dataset.findings.counts["boxes"].skipped) == {"too small": 1}


@pytest.mark.parametrize("keep", [True, False])
def test_empty_chips_by_choice(tmp_path: Path, keep: bool) -> None:
    folder = write_dota(tmp_path / "in", {"P1": [quad(1, 1, 9, 9)]}, width=64, height=64)
    made = prepare("dota", folder, tmp_path / "out", ChipRules(32, 0, keep_empty=keep), ALL_TRAIN)
    count = made.dataset.findings.counts["chips"]
    assert (count.read, count.kept, dict(count.skipped)) == ((4, 4, {}) if keep else (4, 1, {"empty": 3}))


def test_small_images_are_padded(tmp_path: Path) -> None:
    folder = write_dota(tmp_path / "in", {"P1": [quad(1, 1, 9, 9)]}, width=20, height=40)
    prepare("dota", folder, tmp_path / "out", ChipRules(32, 8), ALL_TRAIN)
    with DetectionChips(tmp_path / "out") as chips:
        image, facts = chips.image(0), chips.facts(0)
    assert image.shape == (3, 32, 32)
    assert (facts["width"], facts["height"]) == (20, 32)
    assert image[:, :, :20].any()
    assert not image[:, :, 20:].any()


@pytest.mark.parametrize("whole", [0, 2**30])
def test_every_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int) -> None:
    monkeypatch.setattr(imagery, "WHOLE_BYTES", whole)
    folder = dota(tmp_path / "in", count=3)
    opened, rows = Counter[Path](), defaultdict[Path, list[int]](list)
    original_init, original_window = Source.__init__, Source.window

    def init(self: Source, path: Path, *rest: Any) -> None:
        opened[path] += 1
        original_init(self, path, *rest)

    def window(self: Source, left: int, top: int, width: int, height: int, *rest: Any) -> Any:
        rows[self.path] += range(top, top + height)
        assert (left, width) == (0, self.width)
        return original_window(self, left, top, width, height, *rest)

    monkeypatch.setattr(Source, "__init__", init)
    monkeypatch.setattr(Source, "window", window)
    prepare("dota", folder, tmp_path / "out", ChipRules(32, 12), ALL_TRAIN)
    assert len(opened) == 3
    assert set(opened.values()) == {1}
    assert all(found == list(range(96)) for found in rows.values())


def test_memory_is_that_of_a_few_strips_not_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side, size = 6000, 128
    path = tmp_path / "in" / "images" / "a.tif"
    path.parent.mkdir(parents=True)
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **profile, compress="deflate", sparse_ok=True, crs="EPSG:32617") as file:
        file.write(np.full((3, 256, 256), 7, np.uint8), window=((5000, 5256), (3000, 3256)))
    labels = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [3010, 5010, 60, 60]}]
    write_coco(tmp_path / "in", labels, [{"id": 1, "file_name": "a.tif", "width": side, "height": side}])
    monkeypatch.setattr(imagery, "WHOLE_BYTES", 2**20)
    tracemalloc.start()
    made = prepare("coco", tmp_path / "in", tmp_path / "out", ChipRules(size, 16), ALL_TRAIN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made.dataset.findings.counts["chips"].read == 54**2
    strip = size * side * 3
    assert side * side * 3 > 40 * strip
    assert peak < 10 * strip


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = dota(tmp_path / "in")
    for name in ("a", "b"):
        prepare("dota", folder, tmp_path / name, ChipRules(48, 12), SplitRules())
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    prepare("dota", tmp_path / "elsewhere", tmp_path / "b", ChipRules(48, 12), SplitRules())
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == [
        "annotations.json",
        "findings.json",
        "index.json",
        "test-00000.tar",
        "train-00000.tar",
        "val-00000.tar",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def members(folder: Path) -> list[str]:
    names = []
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    return names


def test_shards_are_plain_tar_files_closed_between_images(tmp_path: Path) -> None:
    folder = dota(tmp_path / "in", count=6, side=512)
    made = prepare("dota", folder, tmp_path / "out", ChipRules(256, 0, shard_mib=1), ALL_TRAIN)
    shards = sorted((tmp_path / "out").glob("*.tar"))
    assert len(shards) > 1
    names = members(tmp_path / "out")
    assert len(names) == 2 * made.counts["chips/train"]
    assert names[0].endswith(".boxes.npy")
    with DetectionChips(tmp_path / "out") as chips:
        by_image = defaultdict(set)
        for chip in chips.chips:
            by_image[chip["image_number"]].add(chip["shard"])
    assert all(len(shards) == 1 for shards in by_image.values())


def test_annotations_beside_are_coco_with_the_lines_of_their_source(tmp_path: Path) -> None:
    folder = write_dota(tmp_path / "in", {"P1": ["gsd:1", quad(1, 1, 9, 9), quad(20, 20, 34, 30, "ship", 1)]})
    prepare("dota", folder, tmp_path / "out", ChipRules(32, 8), ALL_TRAIN)
    found = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert found["images"] == [{"id": 0, "file_name": "images/P1.png", "width": 64, "height": 48}]
    assert found["annotations"][1] == {
        "id": 1,
        "image_id": 0,
        "category_id": 7,
        "bbox": [20.0, 20.0, 14.0, 10.0],
        "area": 140.0,
        "iscrowd": 0,
        "difficult": 1,
        "source": "labelTxt/P1.txt:3",
    }
    with DetectionChips(tmp_path / "out") as chips:
        objects = {int(row["object"]): int(row["label"]) for n in range(len(chips)) for row in chips.boxes(n)}
    assert objects == {a["id"]: a["category_id"] - 1 for a in found["annotations"]}


# Splits


def image(name: str, boxes: int = 1, group: str = "", split: str | None = None) -> Image:
    rows = [((0.0, 0.0, 1.0, 1.0), 0, False, False, n) for n in range(boxes)]
    return Image(name, Path(name), 9, 9, 3, "uint8", Boxes.of(rows), "", group=group or name, split=split)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=1, max_size=20),
    seed=st.integers(0, 5),
    given_=st.booleans(),
)
def test_no_scene_is_in_two_splits(groups: list[tuple[int, int]], seed: int, given_: bool) -> None:
    splits = ["train", "test"]
    images = [
        image(f"{number}_{part}", boxes, f"scene{number}", splits[number % 2])
        for number, (parts, boxes) in enumerate(groups)
        for part in range(parts)
    ]
    rules = SplitRules((0.6, 0.2, 0.2), seed, given_)
    found = split_images(images, rules, Findings())
    homes = defaultdict(set)
    for own, split in zip(images, found, strict=True):
        homes[own.group].add(split)
        if given_:
            assert (split == "test") == (own.split == "test")
    assert all(len(splits) == 1 for splits in homes.values())
    again = split_images(images, rules, Findings())
    assert found == again
    backwards = split_images(images[::-1], rules, Findings())
    assert found == backwards[::-1]


def test_no_chip_shows_pixels_of_another_split(tmp_path: Path) -> None:
    prepare("dota", dota(tmp_path / "in"), tmp_path / "out", ChipRules(48, 24), SplitRules((0.5, 0.25, 0.25)))
    with DetectionChips(tmp_path / "out") as chips:
        of_image = defaultdict(set)
        for chip in chips.chips:
            of_image[chip["image_number"]].add(chip["split"])
        assert len(of_image) == 12
        assert all(len(splits) == 1 for splits in of_image.values())
        assert Counter(splits.pop() for splits in of_image.values()) == {"train": 6, "val": 3, "test": 3}


def test_the_seed_decides_the_split() -> None:
    images = [image(f"P{n}") for n in range(30)]
    found = {tuple(split_images(images, SplitRules(seed=seed), Findings())) for seed in range(4)}
    assert len(found) > 1


def test_published_splits(tmp_path: Path) -> None:
    images = [image(f"P{n}", split="test" if n < 3 else "train") for n in range(13)]
    found = split_images(images, SplitRules((0.8, 0.2, 0.0), given=True), Findings())
    assert found[:3] == ["test"] * 3
    assert Counter(found[3:]) == {"train": 8, "val": 2}
    findings = Findings()
    findings.keep("images", 2)
    split_images(
        [image("a", group="s", split="train"), image("b", group="s", split="test")], SplitRules(given=True), findings
    )
    assert findings.counts["images"].noted == {"scene in two splits": 1}
    with pytest.raises(UsageError, match="P0: is in no published split"):
        split_images([image("P0")], SplitRules(given=True), Findings())


@pytest.mark.parametrize("shares", [(0, 1, 0), (-1, 1, 1), (1, 1)])
def test_shares_that_make_no_sense(shares: tuple) -> None:
    with pytest.raises(UsageError, match="three shares"):
        SplitRules(shares)


@pytest.mark.parametrize(
    "wrong",
    [{"size": 4}, {"overlap": 512}, {"overlap": -1}, {"min_visible": 0}, {"min_visible": 1.1}, {"min_side": -1}],
)
def test_rules_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(UsageError):
        ChipRules(**wrong)


# Pixels


def truncate(path: Path, share: float = 0.6) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_a_truncated_image_gives_no_chip_and_its_boxes_are_counted(tmp_path: Path, suffix: str) -> None:
    folder = dota(tmp_path / "in", count=3)
    for path in sorted((folder / "images").iterdir()):
        Picture.open(path).save(path.with_suffix(f".{suffix}"))
        if suffix != "png":
            path.unlink()
    truncate(folder / "images" / f"P0001.{suffix}")
    made = prepare("dota", folder, tmp_path / "out", ChipRules(32, 0), ALL_TRAIN)
    counts = made.dataset.findings.counts
    if counts["images"].skipped:  # the format keeps what it needs to open it at the end
        assert counts["images"].skipped == {"unreadable": 1}
        assert counts["labels"].skipped == {"image left out": 3}
    else:
        assert counts["decoded images"].skipped == {"unreadable": 1}
        assert counts["boxes"].skipped == {"image unreadable": 3}
        assert counts["chips"].skipped["image unreadable"] == 9
        assert any(e.where == f"images/P0001.{suffix}" for e in made.dataset.findings.entries)
    with DetectionChips(tmp_path / "out") as chips:
        assert {chips.facts(n)["image_name"] for n in range(len(chips))} == {f"images/P000{n}.{suffix}" for n in (0, 2)}
        assert len(members(tmp_path / "out")) == 2 * len(chips)
        for number in range(len(chips)):
            assert chips.image(number).shape == (3, 32, 32)


def test_taking_back_leaves_the_bytes_as_if_nothing_had_been_there(tmp_path: Path) -> None:
    chip = {"image": np.arange(600, dtype=np.uint8).reshape(1, 20, 30), "boxes": np.zeros(2, BOX)}
    for name in ("a", "b"):
        writer = ImageShards(tmp_path / name, shard_bytes=10**9)
        for number in range(3):
            if name == "a":
                writer.begin()
                writer.add("train", f"bad{number}", chip)
                writer.add("val", f"bad{number}", chip)
                writer.take_back()
            writer.begin()
            writer.add("train", f"good{number}", chip)
            writer.end()
        writer.close()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["index.json", "train-00000.tar"]
    for file in ("index.json", "train-00000.tar"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with ShardReader(tmp_path / "a") as reader:
        assert len(reader.chips) == 3
        np.testing.assert_array_equal(reader.read(2, "image"), chip["image"])


def test_bands_by_rule(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 20, 30)).astype(np.uint8)
    cases = [
        (write_tif(tmp_path / "rgbn.tif", values), [1, 2, 3]),
        (write_tif(tmp_path / "five.tif", np.concatenate([values, values[:1]])), [1, 2, 3]),
        (write_tif(tmp_path / "two.tif", values[:2]), [1]),
        (write_png(tmp_path / "rgba.png", mode="RGBA"), [1, 2, 3]),
        (write_png(tmp_path / "la.png", mode="LA"), [1]),
        (write_png(tmp_path / "l.png", mode="L"), [1]),
    ]
    with rasterio.open(tmp_path / "bgr.tif", "w", driver="GTiff", count=4, height=20, width=30, dtype="uint8") as file:
        file.write(values)
        colours = rasterio.enums.ColorInterp
        file.colorinterp = [colours.blue, colours.green, colours.red, colours.undefined]
    cases.append((tmp_path / "bgr.tif", [3, 2, 1]))
    with quiet():
        for path, bands in cases:
            with Source(path) as source:
                assert source.bands == bands, path.name
        with Source(tmp_path / "rgbn.tif", (4, 1, 2)) as source:
            np.testing.assert_array_equal(source.rows(3, 9), values[[3, 0, 1], 3:9])
        with pytest.raises(UsageError, match="has 4 band"):
            Source(tmp_path / "rgbn.tif", (5, 1, 2))


def test_palettes_become_colours(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    picture = Picture.fromarray(values).quantize(16)
    picture.save(tmp_path / "p.png")
    with quiet(), Source(tmp_path / "p.png") as source:
        assert source.count == 3
        np.testing.assert_array_equal(source.rows(0, 30), np.asarray(picture.convert("RGB")).transpose(2, 0, 1))


def test_sixteen_bits_keep_their_values_and_show_their_percentiles(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    values = np.random.default_rng(0).integers(100, 3000, (1, 48, 64)).astype(np.uint16)
    values[0, 0, :5] = 60000
    values[0, 1, :] = 0
    write_tif(folder / "images" / "a.tif", values, nodata=0)
    labels = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}]
    write_coco(folder, labels, [{"id": 1, "file_name": "a.tif"}])
    prepare("coco", folder, tmp_path / "out", ChipRules(40, 8), ALL_TRAIN)
    with DetectionChips(tmp_path / "out") as chips:
        raw = chips.read(0, "image")
        np.testing.assert_array_equal(raw, values[:, :40, :40])
        own = chips.images[0]
        valid = values[values > 0]
        assert own["low"] == pytest.approx(np.percentile(valid, 1), abs=3)
        assert own["high"] == pytest.approx(np.percentile(valid, 99), abs=3)
        shown = chips.image(0)
    assert shown.shape == (3, 40, 40)
    assert shown.dtype == np.uint8
    assert (shown[0] == shown[2]).all()
    expected = np.clip((raw[0].astype(float) - own["low"]) / (own["high"] - own["low"]), 0, 1) * 255
    np.testing.assert_allclose(shown[0], expected, atol=1)


def test_floats_with_nan_are_shown(tmp_path: Path) -> None:
    values = np.array([[[np.nan, 0.0, 5.0], [10.0, np.inf, -np.inf]]], np.float32)
    np.testing.assert_array_equal(to_rgb(values, 0.0, 10.0)[1], [[0, 0, 128], [255, 255, 0]])


def test_pixels_by_rule_whatever_the_name_says(tmp_path: Path) -> None:
    Picture.new("RGB", (20, 20)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").rename(tmp_path / "x.png")
    assert imagery.probe(tmp_path / "x.png").width == 20
    (tmp_path / "y.png").write_bytes(b"GIF89a")
    with pytest.raises(ImageError, match="is no PNG, JPEG"):
        imagery.probe(tmp_path / "y.png")


def test_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dota(tmp_path / "in", count=2)
    original = ImageShards.add

    def full(self: ImageShards, *arguments: Any, **facts: Any) -> None:
        if len(self.chips) == 2:
            raise OSError(28, "No space left on device")
        original(self, *arguments, **facts)

    monkeypatch.setattr(ImageShards, "add", full)
    with pytest.raises(ShoalError, match="the disk is full"):
        prepare("dota", folder, tmp_path / "out", ChipRules(32, 0), ALL_TRAIN)
    assert not (tmp_path / "out" / "index.json").exists()
    with pytest.raises(UsageError, match="there is no such file"):
        DetectionChips(tmp_path / "out")
    monkeypatch.undo()
    prepare("dota", folder, tmp_path / "out", ChipRules(32, 0), ALL_TRAIN)
    assert not list((tmp_path / "out").glob(".*"))


def test_strips_and_the_whole_give_the_same_chips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = dota(tmp_path / "in", count=3)
    for name, whole in (("a", 0), ("b", 2**30)):
        monkeypatch.setattr(imagery, "WHOLE_BYTES", whole)
        prepare("dota", folder, tmp_path / name, ChipRules(40, 13), ALL_TRAIN)
    for file in ("index.json", "train-00000.tar"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_working_ahead_gives_all_items_and_errors_in_their_place() -> None:
    made = []

    def items() -> Generator[int]:
        for number in range(5):
            made.append(number)
            yield number
        raise ValueError("after five")

    with ahead(items(), depth=2) as results:
        assert [next(results) for _ in range(5)] == made == list(range(5))
        with pytest.raises(ValueError, match="after five"):
            next(results)


def test_working_ahead_stops_when_nobody_asks_any_more() -> None:
    made = []

    def items() -> Generator[int]:
        for number in itertools.count():
            made.append(number)
            yield number

    with ahead(items(), depth=2) as results:
        assert next(results) == 0
    count = len(made)
    assert count <= 5
    assert not any(thread.name == "decode-ahead" for thread in threading.enumerate())


@pytest.mark.parametrize("whole", [0, 2**30])
@pytest.mark.parametrize("harm", ["cut 10", "cut 400", "cut 3000", "flip", "hole"])
def test_damaged_pngs_are_never_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int, harm: str
) -> None:
    monkeypatch.setattr(imagery, "WHOLE_BYTES", whole)
    path = write_png(tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "hole":
        del data[3000:4000]  # and the end mark is where it should be
    else:
        del data[-int(harm.split()[1]) :]
    path.write_bytes(bytes(data))
    with quiet(), pytest.raises(ImageError), Source(path) as source:
        for _ in source.strips(16, starts(48, 16, 0)):
            pass


def test_what_stands_behind_the_end_of_a_png_is_no_damage(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png")
    with quiet(), Source(path) as source:
        expected = source.rows(0, 48)
    path.write_bytes(path.read_bytes() + b"made by a camera")
    with quiet(), Source(path) as source:
        np.testing.assert_array_equal(source.rows(0, 48), expected)


def test_memory_of_cut_images_is_used_again_and_changes_no_chip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of growing and shrinking sizes, of 8 and 16 bits, one of them damaged."""
    folder = tmp_path / "in"
    for number, (width, height, mode) in enumerate(
        [(90, 70, "RGB"), (200, 150, "RGB"), (64, 96, "I;16"), (64, 64, "RGB"), (96, 200, "L"), (200, 150, "RGB")]
    ):
        write_dota(
            folder, {f"P{number}": [quad(5, 5, 40, 40), quad(20, 30, 60, 60)]}, width=width, height=height, mode=mode
        )
    truncate(folder / "images" / "P3.png")
    monkeypatch.setattr(rooms, "_LEAST", 1)
    again: list[bool] = []
    original = Rooms.array

    def array(self: Rooms, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        held = len(self._spare)
        made = original(self, shape, dtype)
        again.append(len(self._spare) < held)
        return made

    monkeypatch.setattr(Rooms, "array", array)
    prepare("dota", folder, tmp_path / "a", ChipRules(32, 8), ALL_TRAIN)
    assert len(again) == 6
    assert any(again), "what was cut makes room for what comes"
    monkeypatch.setattr(Rooms, "_leave", lambda self, room: None)
    prepare("dota", folder, tmp_path / "b", ChipRules(32, 8), ALL_TRAIN)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_header_that_promises_the_moon_does_not_take_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagery, "STRIP_BYTES", 64 * 3 * 16 - 1)
    with quiet(), Source(write_png(tmp_path / "a.png")) as source:
        assert len(list(source.strips(15, [0]))) == 1
        with pytest.raises(ImageError, match="is 64 pixels wide"):
            next(source.strips(16, [0]))


def test_the_disk_begins_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where writes go through the page cache."""
    monkeypatch.setattr("shoal_earth.rasters.staging._set_direct", lambda file, direct: False)
    monkeypatch.setattr("shoal_earth.rasters.staging._PIECE", 4096)
    monkeypatch.setattr("shoal_earth.rasters.staging._SYNC", 4000)
    synced, original = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(threading.current_thread()), original(number)))
    folder = dota(tmp_path / "in", count=8)
    for name in ("a", "b"):
        prepare("dota", folder, tmp_path / name, ChipRules(48, 12), SplitRules())
    assert any(thread is not threading.main_thread() for thread in synced)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with DetectionChips(tmp_path / "a") as chips:
        assert all(chips.image(number).any() for number in range(len(chips)))
