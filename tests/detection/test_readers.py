"""Each format: what is read, and by what rule each kind of bad input is left out, with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.readers import READERS, read_dataset
from shoal_earth.detection.readers.coco import ROLES
from shoal_earth.detection.readers.xview import CLASSES, TYPES

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


def skipped(dataset: Dataset, kind: str = "labels") -> dict[str, int]:
    return dict(dataset.findings.counts[kind].skipped)


def places(dataset: Dataset, reason: str) -> list[str]:
    return [entry.where for entry in dataset.findings.entries if entry.reason == reason]


def boxes(dataset: Dataset, image: int = 0) -> list[list[float]]:
    return dataset.images[image].boxes.xyxy.tolist()


def test_dota_quads_become_boxes_with_their_lines(tmp_path: Path) -> None:
    lines = [
        "imagesource:GoogleEarth",
        "gsd:0.146343590398",
        "10 5 20 10 15 20 5 15 plane 0",
        "30.5 5 40 5 40 9 30.5 9 small-vehicle 1",
        "1 1 4 1 4 4 1 4 ship",
    ]
    dataset = read_dataset("dota", write_dota(tmp_path, {"P0001": lines}))
    image = dataset.images[0]
    assert (image.name, image.width, image.height, image.gsd) == ("images/P0001.png", 64, 48, 0.146343590398)
    assert boxes(dataset) == [[5, 5, 20, 20], [30.5, 5, 40, 9], [1, 1, 4, 4]]
    assert [dataset.classes[number] for number in image.boxes.classes] == ["plane", "small-vehicle", "ship"]
    assert image.boxes.difficult.tolist() == [False, True, False]
    assert [image.where(n) for n in range(3)] == [f"labelTxt/P0001.txt:{line}" for line in (3, 4, 5)]
    assert len(dataset.classes) == 15
    assert image.split is None


def test_dota_gsd_may_be_unknown_and_bytes_may_be_odd(tmp_path: Path) -> None:
    folder = write_dota(tmp_path, {"P1": []})
    (folder / "labelTxt" / "P1.txt").write_bytes(
        b"\xef\xbb\xbfimagesource:\xff\r\ngsd:null\r\n" + quad(1, 1, 9, 9).encode() + b"\r\n\r\n"
    )
    dataset = read_dataset("dota", folder)
    assert dataset.images[0].gsd is None
    assert dataset.box_count == 1
    assert dataset.findings.counts["label files"].noted == {"not UTF-8": 1}


def test_dota_published_splits(tmp_path: Path) -> None:
    write_dota(tmp_path / "train", {"P1": [quad(1, 1, 9, 9)]})
    write_dota(tmp_path / "val", {"P2": [quad(1, 1, 9, 9)]})
    assert [image.split for image in read_dataset("dota", tmp_path).images] == ["train", "val"]


def test_dota_bad_lines(tmp_path: Path) -> None:
    lines = [
        quad(2, 2, 9, 9),
        "1 1 9 1 9 9 plane 0",  # three points
        quad(2, 2, 9, 9),  # again
        quad(2, 2, 9, 9, "ufo"),
        quad(float("nan"), 2, 9, 9),
        quad(2, 2, 2, 9),
        quad(70, 2, 90, 9),
        "a b c d e f g h plane 0",
        quad(60, 40, 70, 60),  # reaches beyond: cut
        quad(2, 2, 9, 9, "ship"),
        "1 1 9 1 9 9 1 9 small vehicle 0",
    ]
    dataset = read_dataset("dota", write_dota(tmp_path, {"P1": lines}))
    assert boxes(dataset) == [[2, 2, 9, 9], [60, 40, 64, 48], [2, 2, 9, 9]]
    assert skipped(dataset) == {
        "malformed": 2,
        "twice": 1,
        "unknown class": 1,
        "not a number": 2,
        "empty": 1,
        "outside": 1,
    }
    assert places(dataset, "malformed") == ["labelTxt/P1.txt:2", "labelTxt/P1.txt:11"]
    assert places(dataset, "outside") == ["labelTxt/P1.txt:7"]
    assert places(dataset, "clipped") == ["labelTxt/P1.txt:9"]
    assert dataset.findings.counts["labels"].read == len(lines)


def test_a_label_file_without_image_and_the_reverse(tmp_path: Path) -> None:
    folder = write_dota(
        tmp_path, {"P1": [quad(1, 1, 9, 9)], "P2": ["gsd:1", quad(1, 1, 9, 9), quad(2, 2, 8, 8)], "P4": []}
    )
    (folder / "images" / "P2.png").unlink()
    write_png(folder / "images" / "P3.png")
    dataset = read_dataset("dota", folder)
    assert [image.name for image in dataset.images] == ["images/P1.png", "images/P4.png"]
    assert skipped(dataset, "label files") == {"no image": 1}
    assert skipped(dataset) == {"image left out": 2}
    assert places(dataset, "image left out") == ["labelTxt/P2.txt:2", "labelTxt/P2.txt:3"]
    assert skipped(dataset, "images") == {"no labels": 1}
    assert places(dataset, "no labels") == ["images/P3.png"]


def test_an_image_that_cannot_be_opened(tmp_path: Path) -> None:
    folder = write_dota(tmp_path, {"P1": [quad(1, 1, 9, 9)], "P2": [quad(1, 1, 9, 9)], "P3": [quad(1, 1, 9, 9)]})
    (folder / "images" / "P2.png").write_bytes(b"")
    (folder / "images" / "P3.png").write_text('<VRTDataset rasterXSize="1" rasterYSize="1"/>')
    dataset = read_dataset("dota", folder)
    assert len(dataset.images) == 1
    assert skipped(dataset, "images") == {"unreadable": 2}
    assert skipped(dataset) == {"image left out": 2}


def test_later_classes_of_dota_can_be_named(tmp_path: Path) -> None:
    folder = write_dota(tmp_path, {"P1": [quad(1, 1, 9, 9, "airport"), quad(1, 1, 9, 9, "plane")]})
    dataset = read_dataset("dota", folder, only=["airport"])
    assert dataset.classes == ("airport",)
    assert skipped(dataset) == {"unknown class": 1}


@pytest.mark.parametrize("kind", sorted(READERS))
def test_a_folder_of_something_else_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=str(tmp_path)):
        read_dataset(kind, tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        read_dataset(kind, tmp_path / "absent")


def test_xview_has_its_sixty_classes() -> None:
    assert len(set(CLASSES)) == len(TYPES) == 60
    assert {75, 82}.isdisjoint(TYPES)


def test_xview_and_its_known_flaws(tmp_path: Path) -> None:
    features: list[Any] = [
        feature("10,10,20,20"),
        feature("10,10,20,20", kind=75),
        feature("10,10,20,20", kind=82),
        feature([]),
        feature("20,10,10,20"),
        feature("100,10,120,20"),
        feature("-5,-5,8,8", kind=73),
        feature("1,1,5,5", image="1395.tif"),
        feature("1,2,3", kind=11),
        feature("1,2,x,4", kind=11),
        "nonsense",
        {"type": "Feature", "properties": {"image_id": None}},
        feature("1,1,5,5", kind=None),
        feature("3,3,9,9", kind=18.0),
    ]
    dataset = read_dataset("xview", write_xview(tmp_path, features, ("5.tif", "6.tif")))
    assert boxes(dataset) == [[10, 10, 20, 20], [0, 0, 8, 8], [3, 3, 9, 9]]
    assert [dataset.classes[n] for n in dataset.images[0].boxes.classes] == ["Small Car", "Building", "Small Car"]
    assert dataset.images[0].boxes.lines.tolist() == [2, 8, 15]
    assert dataset.images[0].crs == "EPSG:32617"
    assert skipped(dataset) == {
        "unknown class": 3,
        "malformed": 4,
        "inverted": 1,
        "outside": 1,
        "image left out": 1,
        "not a number": 1,
    }
    assert places(dataset, "unknown class") == [f"xView_train.geojson:{n}" for n in (3, 4, 14)]
    assert skipped(dataset, "images") == {"missing": 1, "no labels": 1}
    assert places(dataset, "missing") == ["xView_train.geojson:9"]
    assert dataset.findings.counts["labels"].read == len(features)


def square(x: float, y: float) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [[[x, y], [x + 1, y], [x + 1, y - 1], [x, y - 1], [x, y]]]}


def test_xview_labels_on_other_ground_are_left_out(tmp_path: Path) -> None:
    utm = {"type": "name", "properties": {"name": "EPSG:32617"}}
    right = feature("10,10,20,20", geometry=square(400_005, 2_999_995))
    assert len(read_dataset("xview", write_xview(tmp_path / "a", [right], crs=utm)).images) == 1
    # The same numbers taken for degrees: the wrong CRS.
    wrong = [right, feature("30,30,40,40", image="6.tif")]
    dataset = read_dataset("xview", write_xview(tmp_path / "b", wrong, ("5.tif", "6.tif")))
    assert [image.name for image in dataset.images] == ["train_images/6.tif"]
    assert skipped(dataset, "images") == {"other place": 1}
    assert skipped(dataset) == {"image left out": 1}


def test_rareplanes_roles_scenes_and_splits(tmp_path: Path) -> None:
    """Both files that carry roles: by category, and as an attribute where categories are of no use."""
    for split, scene in (("train", "100_1040010029990A00"), ("test", "105_104001003108D900")):
        for tile in (3, 47):
            write_png(tmp_path / split / "PS-RGB_tiled" / f"{scene}_tile_{tile}.png")
    labels = tmp_path / "metadata_annotations"
    labels.mkdir()
    images = [
        {"id": n, "file_name": f"100_1040010029990A00_tile_{t}.png", "width": 64, "height": 48}
        for n, t in ((1, 3), (2, 47))
    ]
    categories = [{"id": n, "name": role} for n, role in enumerate(ROLES, 1)]
    by_class = {"images": images, "annotations": [annotation(1, [1, 1, 9, 9], category=6)], "categories": categories}
    (labels / "instances_train_role.json").write_text(json.dumps(by_class))
    (labels / "instances_train_aircraft.json").write_text(json.dumps({**by_class, "categories": []}))
    dataset = read_dataset("rareplanes", tmp_path)
    assert dataset.classes == ROLES
    assert [(image.group, image.split) for image in dataset.images] == [("100_1040010029990A00", "train")] * 2
    assert dataset.images[0].boxes.classes.tolist() == [5]

    (labels / "instances_train_role.json").unlink()
    degenerate = [{"id": 1, "name": "x"}, {"id": 1, "name": "y"}, {"supercategory": "z"}]
    attributes = [
        annotation(1, [1, 1, 9, 9], category=None, role="Military Bomber"),
        annotation(2, [1, 1, 5, 5], category=None),
    ]
    own = {"images": images, "annotations": attributes, "categories": degenerate}
    (labels / "RarePlanes_Train_Coco_Annotations_tiled.json").write_text(json.dumps(own))
    dataset = read_dataset("rareplanes", tmp_path)
    assert dataset.images[0].boxes.classes.tolist() == [4]
    assert skipped(dataset) == {"unknown class": 1}


def test_coco_bad_labels(tmp_path: Path) -> None:
    annotations: list[Any] = [
        annotation(1, [1, 1, 9, 9]),
        annotation(1, [1, 1, 9, 9]),  # the same
        annotation(1, [2, 2, 9, 9]),  # the same id, another box
        annotation(4, [1, 1, -3, 9]),
        annotation(5, [1, 1, 0, 9]),
        annotation(6, [1, 1, float("nan"), 9]),
        annotation(7, [1, 1, 5]),
        annotation(8, [90, 1, 5, 5]),
        annotation(9, [1, 1, 5, 5], category=7),
        annotation(10, [1, 1, 5, 5], image=3),
        annotation(11, "1 1 5 5"),
        7,
        {"id": 13},
        annotation(14, [1, 1, 20, 20], category=2, iscrowd=1),
        annotation(15, [1, 1, True, 20]),
    ]
    dataset = read_dataset("coco", write_coco(tmp_path, annotations))
    assert boxes(dataset) == [[1, 1, 10, 10], [2, 2, 11, 11], [1, 1, 21, 21]]
    assert dataset.images[0].boxes.crowd.tolist() == [False, False, True]
    assert skipped(dataset) == {
        "twice": 1,
        "inverted": 1,
        "empty": 1,
        "not a number": 2,
        "malformed": 3,
        "outside": 1,
        "unknown class": 1,
        "unknown image": 2,
    }
    assert places(dataset, "id used twice") == ["labels.json:7"]
    # The annotations begin in line 5.
    assert places(dataset, "inverted") == ["labels.json:8"]
    assert dataset.findings.counts["labels"].read == len(annotations)


def test_coco_images(tmp_path: Path) -> None:
    images: list[Any] = [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "a.png"},
        {"id": 3, "file_name": "b.png", "width": 65, "height": 48},
        {"id": 4, "file_name": "gone.png"},
        {"id": 5},
        {"id": 6, "file_name": "c.png"},
    ]
    for name in ("b", "c", "d"):
        write_png(tmp_path / "images" / f"{name}.png")
    labels = [annotation(n, [1 + n, 1, 5, 5], image=n) for n in (1, 2, 3, 4, 5)]
    dataset = read_dataset("coco", write_coco(tmp_path, labels, images))
    # An image under two ids has the labels of both; one without labels is kept, since the file names it.
    assert [(image.name, len(image.boxes)) for image in dataset.images] == [("images/a.png", 2), ("images/c.png", 0)]
    assert skipped(dataset, "images") == {
        "named twice": 1,
        "other size": 1,
        "missing": 1,
        "malformed": 1,
        "no labels": 1,
    }
    assert skipped(dataset) == {"image left out": 2, "unknown image": 1}


def test_coco_numeric_names_sort_as_numbers(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": 10}, {"id": 2, "name": 2}, {"id": 3, "name": "b"}, {"id": 4, "name": 2}]
    labels = [annotation(n, [n, 1, 5, 5], category=n) for n in (1, 2, 3, 4)]
    dataset = read_dataset("coco", write_coco(tmp_path, labels, categories=categories))
    assert dataset.classes == ("2", "10", "b")
    assert dataset.images[0].boxes.classes.tolist() == [1, 0, 2, 0]
    assert dataset.findings.counts["labels"].noted == {"class named twice": 1}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]},
            r"labels.json:3.*id 1 stands for",
        ),
        (
            {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            r"labels.json:\d+.*id 1 stands for the class",
        ),
        ({"categories": [{"id": 1}]}, "needs an id and a name"),
    ],
)
def test_coco_ids_that_leave_open_whose_labels_are_whose_are_refused(tmp_path: Path, change: dict, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        read_dataset("coco", write_coco(tmp_path, [annotation(1, [1, 1, 5, 5])], **change))


def test_coco_other_json_is_passed_over_but_a_broken_one_is_not(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(1, [1, 1, 5, 5])])
    (tmp_path / "results.json").write_text("[]")
    (tmp_path / "info.json").write_text('{"a": 1}')
    (tmp_path / "half.json").write_text('{"annotations": [{"image_id": 1, "bbox": [1, 1, 2, 2]}]}')
    dataset = read_dataset("coco", tmp_path)
    assert skipped(dataset, "label files") == {"other content": 3}
    assert skipped(dataset) == {"unknown image": 1}
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(UsageError, match=r"broken\.json:1: the file ends too early"):
        read_dataset("coco", tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/secret.png", "images/../../x.png", "..\\x.png", "C:\\x.png", "a\0.png", "."]
)
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    write_png(tmp_path / "secret.png")
    write_coco(folder / "coco", [], [{"id": 1, "file_name": name}])
    write_xview(folder / "xview", [feature("1,1,5,5", image=name)])
    (folder / "csv").mkdir()
    (folder / "csv" / "t.csv").write_text(f'image_path,xmin,ymin,xmax,ymax,label\n"{name}",1,1,5,5,Tree\n')
    kinds = ["coco", "xview", "csv"]
    if "\0" not in name:  # which is no XML
        write_voc(folder / "voc", "a.xml", voc_object(1, 1, 5, 5), filename=name)
        kinds.append("voc")
    for kind in kinds:
        with pytest.raises(UsageError, match=r":2: the file name .* leaves the folder"):
            read_dataset(kind, folder / kind)


def test_voc(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    objects = "\n".join(
        [
            voc_object(1, 1, 9, 9, more="<difficult>1</difficult>"),
            voc_object(1.5, 2, 20, 30, "Dead", more="<part><name>branch</name><bndbox><xmin>0</xmin></bndbox></part>"),
            voc_object(9, 1, 3, 5),
            voc_object("x", 1, 3, 5),
            "<object><name>Tree</name></object>",
            voc_object(100, 1, 120, 5),
        ]
    )
    size = "<size><width>64</width><height>48</height></size>\n"
    dataset = read_dataset("voc", write_voc(tmp_path, "a.xml", objects, size=size))
    assert dataset.classes == ("Dead", "Tree")
    assert boxes(dataset) == [[1, 1, 9, 9], [1.5, 2, 20, 30]]
    assert dataset.images[0].boxes.difficult.tolist() == [True, False]
    assert dataset.images[0].boxes.lines.tolist() == [4, 5]
    assert skipped(dataset) == {"inverted": 1, "not a number": 1, "malformed": 1, "outside": 1}
    assert places(dataset, "malformed") == ["a.xml:8"]


def test_voc_entities_are_not_expanded(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png")
    write_png(tmp_path / "b.png")
    write_png(tmp_path / "c.png")
    write_voc(tmp_path, "a.xml", voc_object(1, 1, 9, 9))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>\n'
    write_voc(tmp_path, "b.xml", voc_object(1, 1, 9, 9, "&b;"), head=bomb, filename="b.png")
    write_voc(tmp_path, "c.xml", "<object>", filename="c.png")
    dataset = read_dataset("voc", tmp_path)
    assert [image.name for image in dataset.images] == ["a.png"]
    assert skipped(dataset, "label files") == {"unreadable": 2}
    assert skipped(dataset, "images") == {"label file unreadable": 2}
    assert any("DTD" in entry.text for entry in dataset.findings.entries)
    assert any(entry.where.startswith("c.xml:4") for entry in dataset.findings.entries)


def test_voc_image_by_its_stem_missing_or_of_another_size(tmp_path: Path) -> None:
    write_png(tmp_path / "JPEGImages" / "a.png")
    write_png(tmp_path / "JPEGImages" / "c.png")
    write_voc(tmp_path / "Annotations", "a.xml", voc_object(1, 1, 9, 9), filename="a.tif")
    write_voc(tmp_path / "Annotations", "b.xml", voc_object(1, 1, 9, 9) * 2, filename="b.tif")
    other = "<size><width>640</width><height>480</height></size>"
    write_voc(tmp_path / "Annotations", "c.xml", voc_object(1, 1, 9, 9), size=other, filename="c.png")
    dataset = read_dataset("voc", tmp_path)
    assert [image.name for image in dataset.images] == ["JPEGImages/a.png"]
    assert dataset.findings.counts["label files"].noted == {"found by its stem": 1}
    assert skipped(dataset, "label files") == {"no image": 1}
    assert skipped(dataset, "images") == {"other size": 1}
    assert skipped(dataset) == {"image left out": 3}


def test_csv(tmp_path: Path) -> None:
    write_png(tmp_path / "images" / "a.png")
    write_png(tmp_path / "b.png")
    rows = [
        "label,image_path,xmin,ymin,xmax,ymax,score",
        "Tree,a.png,1,1,9,9,0.5",
        "Tree,a.png,1,1,9",
        ",b.png,,,,,",
        "Tree,a.png,5,5,2,9,",
        ",a.png,1,1,3,3,",
        "Tree,,1,1,3,3,",
        "Tree,a.png,1,1,9,nan,",
        "Tree,gone.png,1,1,9,9,",
    ]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "classes.csv").write_text("Dead,0\n")
    dataset = read_dataset("csv", tmp_path)
    assert [(image.name, len(image.boxes)) for image in dataset.images] == [("b.png", 0), ("images/a.png", 1)]
    assert skipped(dataset) == {
        "malformed": 2,
        "no object": 1,
        "inverted": 1,
        "unknown class": 1,
        "not a number": 1,
        "image left out": 1,
    }
    assert places(dataset, "inverted") == ["t.csv:5"]
    # A table of something else, or of boxes under other names, which would be lost without a word.
    assert [(e.where, e.text) for e in dataset.findings.entries if e.reason == "other content"] == [
        ("classes.csv", "no column image_path, xmin, ymin, xmax, ymax, label")
    ]


def test_pixels_of_complex_type_are_left_out(tmp_path: Path) -> None:
    folder = write_xview(tmp_path, [feature("1,1,5,5"), feature("1,1,5,5", image="6.tif")], ("5.tif",))
    write_tif(folder / "train_images" / "6.tif", np.zeros((1, 48, 64), np.complex64))
    dataset = read_dataset("xview", folder)
    assert skipped(dataset, "images") == {"pixels of complex type": 1}
    assert skipped(dataset) == {"image left out": 1}


def test_dota_labels_one_folder_down(tmp_path: Path) -> None:
    write_dota(tmp_path, {"P1": [quad(1, 1, 9, 9)]})
    (tmp_path / "labelTxt-v1.0").mkdir()
    (tmp_path / "labelTxt").rename(tmp_path / "labelTxt-v1.0" / "labelTxt")
    assert read_dataset("dota", tmp_path).images[0].label_file == "labelTxt-v1.0/labelTxt/P1.txt"
    (tmp_path / "labelTxt-v1.5").mkdir()
    with pytest.raises(UsageError, match="more than one folder of labels"):
        read_dataset("dota", tmp_path)
