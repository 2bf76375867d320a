"""Every kind of bad input in every format, through the command line: named with file and line, counted, left out by rule."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_earth.detection.findings import NOTES, REASONS
from shoal_earth.detection.readers.coco import ROLES

from .conftest import (
    annotation,
    feature,
    quad,
    voc_object,
    write_coco,
    write_dota,
    write_png,
    write_tif,
    write_voc,
    write_xview,
)

Cli = Callable[..., tuple[int, str, str]]
NAN = float("nan")


@dataclass
class Bad:
    """A dataset with every flaw that its format can have, and what must be said of each: (kind, reason, file and line)."""

    folder: Path
    labels: int  # in all label files, good and bad
    left_out: set[tuple[str, str, str]]
    kept_but: set[tuple[str, str, str]] = field(default_factory=set)


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def odd_images(folder: Path, suffix: str = "png") -> None:
    """Beside a good one: 16 bits and one band; four bands; one cut short; one behind a link to elsewhere."""
    if suffix == "png":
        for name in ("good", "short", "outside"):
            write_png(folder / f"{name}.png")
        write_png(folder / "sixteen.png", mode="I;16")
        write_png(folder / "four.png", mode="RGBA")
        write_png(folder / "unlabelled.png")
    else:
        rng = np.random.default_rng(0)
        for name in ("good", "short", "outside", "unlabelled"):
            write_tif(folder / f"{name}.tif", rng.integers(0, 255, (3, 48, 64)).astype(np.uint8))
        write_tif(folder / "sixteen.tif", rng.integers(0, 3000, (1, 48, 64)).astype(np.uint16))
        write_tif(folder / "four.tif", rng.integers(0, 255, (4, 48, 64)).astype(np.uint8))
    cut_short(folder / f"short.{suffix}")
    elsewhere = folder.parents[2] / "elsewhere" / folder.parent.name
    elsewhere.mkdir(parents=True, exist_ok=True)
    (folder / f"outside.{suffix}").rename(elsewhere / f"real.{suffix}")
    (folder / f"outside.{suffix}").symlink_to(elsewhere / f"real.{suffix}")
    (folder / f"dangling.{suffix}").symlink_to(elsewhere / f"gone.{suffix}")


def of_images(prefix: str, suffix: str = "png") -> set[tuple[str, str, str]]:
    return {
        ("images", "not 8 bits", f"{prefix}sixteen.{suffix}"),
        ("images", "one band", f"{prefix}sixteen.{suffix}"),
        ("images", "more bands", f"{prefix}four.{suffix}"),
        ("images", "behind a link", f"{prefix}outside.{suffix}"),
    }


def bad_dota(folder: Path) -> Bad:
    lines = [
        "gsd:0.5",
        quad(2, 2, 20, 20),
        "1 1 9 1 9 9 plane 0",
        quad(2, 2, 20, 20),
        quad(5, 5, 15, 15, "ufo"),
        quad(NAN, 2, 9, 9),
        quad(2, 2, 2, 9),
        quad(70, 2, 90, 9),
        quad(50, 40, 70, 60),
    ]
    names = ("sixteen", "four", "short", "outside", "dangling")
    write_dota(folder, {"good": lines, "lonely": [quad(1, 1, 9, 9)], **{n: [quad(1, 1, 30, 30)] for n in names}})
    odd_images_over(folder / "images")
    (folder / "images" / "lonely.png").unlink()
    file = "labelTxt/good.txt"
    return Bad(
        folder,
        len(lines) - 1 + 1 + len(names),
        {
            ("labels", "malformed", f"{file}:3"),
            ("labels", "twice", f"{file}:4"),
            ("labels", "unknown class", f"{file}:5"),
            ("labels", "not a number", f"{file}:6"),
            ("labels", "empty", f"{file}:7"),
            ("labels", "outside", f"{file}:8"),
            ("label files", "no image", "labelTxt/lonely.txt"),
            ("labels", "image left out", "labelTxt/lonely.txt:1"),
            ("images", "no labels", "images/unlabelled.png"),
            ("images", "missing", "labelTxt/dangling.txt"),
            ("labels", "image left out", "labelTxt/dangling.txt:1"),
            ("decoded images", "unreadable", "images/short.png"),
            ("boxes", "image unreadable", "labelTxt/short.txt"),
        },
        {("labels", "clipped", f"{file}:9"), *of_images("images/")},
    )


def odd_images_over(folder: Path, suffix: str = "png") -> None:
    for path in folder.iterdir():
        path.unlink()
    write_png(folder / "lonely.png")
    odd_images(folder, suffix)


def bad_xview(folder: Path) -> Bad:
    def square(x: float, y: float) -> dict[str, Any]:
        return {"type": "Polygon", "coordinates": [[[x, y], [x + 1, y], [x + 1, y - 1], [x, y - 1], [x, y]]]}

    utm = {"type": "name", "properties": {"name": "EPSG:32617"}}
    odd_images(folder / "train_images", "tif")
    write_tif(folder / "train_images" / "moved.tif", np.ones((3, 48, 64), np.uint8))
    good = {"image": "good.tif"}
    features: list[Any] = [
        feature("2,2,20,20", geometry=square(400_005, 2_999_995), **good),
        feature("2,2,20,20", **good),
        feature("5,5,15,15", kind=75, **good),
        feature("nan,2,9,9", **good),
        feature("2,2,2,9", **good),
        feature("20,2,9,9", **good),
        feature("70,2,90,9", **good),
        feature("50,40,70,60", **good),
        feature("1,2,3", **good),
        feature([], **good),
        feature("1,1,9,9", image="1395.tif"),
        feature("1,1,9,9", image="moved.tif", geometry=square(-80.1, 27.2)),
        feature("1,1,9,9", image=None),
        *(feature("1,1,30,30", image=f"{name}.tif") for name in ("sixteen", "four", "short", "outside", "dangling")),
    ]
    write_xview(folder, features, (), crs=utm)
    file = "xView_train.geojson"
    return Bad(
        folder,
        len(features),
        {
            ("labels", "twice", f"{file}:3"),
            ("labels", "unknown class", f"{file}:4"),
            ("labels", "not a number", f"{file}:5"),
            ("labels", "empty", f"{file}:6"),
            ("labels", "inverted", f"{file}:7"),
            ("labels", "outside", f"{file}:8"),
            ("labels", "malformed", f"{file}:10"),
            ("labels", "malformed", f"{file}:11"),
            ("images", "missing", f"{file}:12"),
            ("labels", "image left out", f"{file}:12"),
            ("images", "other place", file),
            ("labels", "image left out", file),
            ("labels", "malformed", f"{file}:14"),
            ("images", "missing", f"{file}:19"),
            ("labels", "image left out", f"{file}:19"),
            ("images", "no labels", "train_images/unlabelled.tif"),
            ("decoded images", "unreadable", "train_images/short.tif"),
            ("boxes", "image unreadable", file),
        },
        {("labels", "clipped", f"{file}:9"), *of_images("train_images/", "tif")},
    )


def _coco_items() -> tuple[list[Any], list[Any]]:
    """Annotations (the first in line 5 + the images), and images."""
    names = ("good", "gone", "sixteen", "four", "short", "outside", "dangling")
    images: list[Any] = [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(names, 1)]
    images += [{"id": 8, "file_name": "other.png", "width": 640, "height": 480}, {"id": 9}]
    items: list[Any] = [
        annotation(1, [2, 2, 18, 18]),
        annotation(2, [2, 2, 18, 18]),
        annotation(1, [3, 3, 18, 18]),
        annotation(4, [5, 5, 10, 10], category=7),
        annotation(5, [NAN, 2, 9, 9]),
        annotation(6, [2, 2, 0, 9]),
        annotation(7, [20, 2, -9, 9]),
        annotation(8, [70, 2, 20, 7]),
        annotation(9, [50, 40, 20, 20]),
        annotation(10, [1, 2, 3]),
        annotation(11, [1, 1, 8, 8], image=77),
        *(annotation(10 + n, [1, 1, 29, 29], image=n) for n in range(2, 9)),
    ]
    return items, images


def _of_coco(file: str, prefix: str, first: int, images: int) -> tuple[set[Any], set[Any]]:
    """What must be said of them; ``first`` is the line of the first annotation, ``images`` that of the first image."""
    words = ["twice", None, "unknown class", "not a number", "empty", "inverted", "outside", None, "malformed"]
    left_out = {("labels", word, f"{file}:{first + n}") for n, word in enumerate(words, 1) if word}
    left_out |= {
        ("labels", "unknown image", f"{file}:{first + 10}"),
        ("images", "missing", f"{file}:{images + 1}"),
        ("labels", "image left out", f"{file}:{first + 11}"),
        ("images", "missing", f"{file}:{images + 6}"),
        ("labels", "image left out", f"{file}:{first + 16}"),
        ("images", "other size", f"{file}:{images + 7}"),
        ("labels", "image left out", f"{file}:{first + 17}"),
        ("images", "malformed", f"{file}:{images + 8}"),
        ("images", "no labels", f"{prefix}unlabelled.png"),
        ("decoded images", "unreadable", f"{prefix}short.png"),
        ("boxes", "image unreadable", file),
    }
    kept = {("labels", "id used twice", f"{file}:{first + 2}"), ("labels", "clipped", f"{file}:{first + 8}")}
    return left_out, kept | of_images(prefix)


def bad_coco(folder: Path) -> Bad:
    odd_images(folder / "images")
    write_png(folder / "images" / "other.png")
    items, images = _coco_items()
    write_coco(folder, items, images)
    (folder / "images" / "a.png").unlink()
    left_out, kept = _of_coco("labels.json", "images/", len(images) + 4, 2)
    return Bad(folder, len(items), left_out, kept)


def bad_rareplanes(folder: Path) -> Bad:
    tiles = folder / "train" / "PS-RGB_tiled"
    odd_images(tiles)
    write_png(tiles / "other.png")
    items, images = _coco_items()
    roles = [{"id": n, "name": role} for n, role in enumerate(ROLES[:2], 1)]
    write_coco(folder / "metadata_annotations", items, images, roles, name="instances_train_role.json")
    left_out, kept = _of_coco(
        "metadata_annotations/instances_train_role.json", "train/PS-RGB_tiled/", len(images) + 4, 2
    )
    return Bad(folder, len(items), left_out, kept)


def bad_voc(folder: Path) -> Bad:
    odd_images(folder / "JPEGImages")
    write_png(folder / "JPEGImages" / "other.png")
    write_png(folder / "JPEGImages" / "torn.png")
    labels = folder / "Annotations"
    boxes: list[tuple[Any, ...]] = [
        (2, 2, 20, 20),
        (2, 2, 20, 20),
        ("NaN", 2, 9, 9),
        (2, 2, 2, 9),
        (20, 2, 9, 9),
        (70, 2, 90, 9),
        (50, 40, 70, 60),
        (5, 5, 15, 15, ""),
    ]
    objects = "\n".join([*(voc_object(*box) for box in boxes), "<object><name>Tree</name></object>"])
    write_voc(labels, "good.xml", objects, filename="good.png")
    one = voc_object(1, 1, 30, 30)
    for name in ("sixteen", "four", "short", "outside", "dangling", "lonely"):
        write_voc(labels, f"{name}.xml", one, filename=f"{name}.png")
    size = "<size><width>640</width><height>480</height></size>\n"
    write_voc(labels, "other.xml", one, size=size, filename="other.png")
    (labels / "torn.xml").write_text("<annotation>\n<object>")
    file = "Annotations/good.xml"
    return Bad(
        folder,
        len(boxes) + 1 + 7,
        {
            ("labels", "twice", f"{file}:4"),
            ("labels", "not a number", f"{file}:5"),
            ("labels", "empty", f"{file}:6"),
            ("labels", "inverted", f"{file}:7"),
            ("labels", "outside", f"{file}:8"),
            ("labels", "unknown class", f"{file}:10"),
            ("labels", "malformed", f"{file}:11"),
            ("label files", "no image", "Annotations/lonely.xml"),
            ("labels", "image left out", "Annotations/lonely.xml:3"),
            ("images", "missing", "Annotations/dangling.xml"),
            ("labels", "image left out", "Annotations/dangling.xml:3"),
            ("label files", "unreadable", "Annotations/torn.xml:2"),
            ("images", "label file unreadable", "JPEGImages/torn.png"),
            ("images", "other size", "Annotations/other.xml"),
            ("labels", "image left out", "Annotations/other.xml:4"),
            ("images", "no labels", "JPEGImages/unlabelled.png"),
            ("decoded images", "unreadable", "JPEGImages/short.png"),
            ("boxes", "image unreadable", "Annotations/short.xml"),
        },
        {("labels", "clipped", f"{file}:9"), *of_images("JPEGImages/")},
    )


def bad_csv(folder: Path) -> Bad:
    odd_images(folder / "images")
    rows = [
        "good.png,2,2,20,20,Tree",
        "good.png,2,2,20,20,Tree",
        "good.png,nan,2,9,9,Tree",
        "good.png,2,2,2,9,Tree",
        "good.png,20,2,9,9,Tree",
        "good.png,70,2,90,9,Tree",
        "good.png,50,40,70,60,Tree",
        "good.png,5,5,15,15,",
        "good.png,5,5,15",
        "gone.png,1,1,9,9,Tree",
        *(f"{name}.png,1,1,30,30,Tree" for name in ("sixteen", "four", "short", "outside", "dangling")),
    ]
    (folder / "t.csv").write_text("\n".join(["image_path,xmin,ymin,xmax,ymax,label", *rows]) + "\n")
    words = ["twice", "not a number", "empty", "inverted", "outside", None, "unknown class", "malformed"]
    return Bad(
        folder,
        len(rows),
        {
            *(("labels", word, f"t.csv:{line}") for line, word in enumerate(words, 3) if word),
            ("images", "missing", "t.csv:11"),
            ("labels", "image left out", "t.csv:11"),
            ("images", "missing", "t.csv:16"),
            ("labels", "image left out", "t.csv:16"),
            ("images", "no labels", "images/unlabelled.png"),
            ("decoded images", "unreadable", "images/short.png"),
            ("boxes", "image unreadable", "t.csv"),
        },
        {("labels", "clipped", "t.csv:8"), *of_images("images/")},
    )


FORMATS = {
    "dota": bad_dota,
    "xview": bad_xview,
    "rareplanes": bad_rareplanes,
    "coco": bad_coco,
    "voc": bad_voc,
    "csv": bad_csv,
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_flaw_is_named_counted_and_left_out_by_its_rule(kind: str, tmp_path: Path, cli: Cli) -> None:
    bad = FORMATS[kind](tmp_path / "in" / kind)
    out = tmp_path / "out"
    arguments = ("prepare", "--dataset", kind, "--source", bad.folder, "--out", out, "--size", 48)
    code, said, err = cli(*arguments, "--split", "1,0,0")
    assert code == 0, err
    told = json.loads((out / "findings.json").read_text())
    entries = {(e["kind"], e["reason"], e["where"]): e for e in told["entries"] if not e["kept"]}
    noted = {(e["kind"], e["reason"], e["where"]) for e in told["entries"] if e["kept"]}
    assert {key for key in entries if key[0] != "chips"} == bad.left_out
    assert noted == bad.kept_but
    counts = told["counts"]
    assert counts["labels"]["read"] == bad.labels
    for count in counts.values():
        assert count["read"] == count["kept"] + sum(count["skipped"].values())
    by_reason = Counter[tuple[str, str]]()
    for (what, reason, _), entry in entries.items():
        assert reason in REASONS[what]
        by_reason[what, reason] += entry["number"]
    for what in ("label files", "images", "labels", "boxes", "decoded images"):
        assert counts[what]["skipped"] == {reason: n for (own, reason), n in by_reason.items() if own == what}
        for reason, number in counts[what]["skipped"].items():
            assert f"  {reason}: {number}\n" in said
    assert {reason for _, reason, _ in noted} <= NOTES.keys()


def test_a_class_that_is_asked_for_but_nowhere_met_is_said(tmp_path: Path, cli: Cli) -> None:
    write_coco(tmp_path / "in", [annotation(1, [2, 2, 18, 18])])
    arguments = ("prepare", "--dataset", "coco", "--source", tmp_path / "in", "--out", tmp_path / "out", "--size", 48)
    code, said, err = cli(*arguments, "--split", "1,0,0", "--classes", "car,shp")
    assert code == 0, err
    assert "no object of the class shp, which was asked for" in said
