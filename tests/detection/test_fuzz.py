"""Whatever a label file holds, it is read, left out by a rule, or refused in one message; and it adds up."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.errors import UsageError
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules

from .conftest import quad, voc_object, write_coco, write_dota, write_png, write_voc, write_xview

EXAMPLES = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
WILD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["a.png", "5.tif", "1,2,30,40", "x" * 5000, "\ud800", "\n", [1, 1, 20, 20], [1, 2], {}, 10**400, "ä/ö.png"]
    ),
    st.lists(st.integers(-5, 70) | st.floats(), max_size=5),
)


def survives(kind: str, folder: Path) -> None:
    """Read and cut; errors are of the kind that the command line prints, findings add up."""
    out = folder.parent / "out"
    try:
        made = prepare(kind, folder, out, ChipRules(32, 8, keep_empty=True), SplitRules((1, 0, 0)))
    except UsageError as error:
        told = str(error)
    else:
        told = "\n".join(made.lines)
        assert all(count.adds_up for count in made.dataset.findings.counts.values())
        for file in ("findings.json", "annotations.json", "index.json"):
            json.loads((out / file).read_text())
    assert told.encode()


def records(*keys: str) -> st.SearchStrategy[Any]:
    return st.one_of(WILD, st.dictionaries(st.sampled_from(keys), WILD, max_size=len(keys)))


@EXAMPLES
@given(
    annotations=st.lists(records("id", "image_id", "category_id", "bbox", "iscrowd", "difficult"), max_size=4),
    images=st.lists(records("id", "file_name", "width", "height"), max_size=3),
    categories=st.lists(records("id", "name"), max_size=2),
)
def test_coco(annotations: list[Any], images: list[Any], categories: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        images = [{"id": 1, "file_name": "a.png"}, *images]
        survives("coco", write_coco(folder, annotations, images, [{"id": 1, "name": "car"}, *categories]))


@EXAMPLES
@given(
    features=st.lists(
        st.one_of(
            WILD,
            st.fixed_dictionaries(
                {"properties": records("bounds_imcoords", "type_id", "image_id"), "geometry": records("coordinates")}
            ),
        ),
        max_size=4,
    ),
    crs=WILD,
)
def test_xview(features: list[Any], crs: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        good = {"properties": {"image_id": "5.tif", "bounds_imcoords": "1,1,9,9", "type_id": 18}}
        survives("xview", write_xview(Path(name) / "in", [good, *features], crs=crs))


@EXAMPLES
@given(data=st.binary(max_size=300), where=st.integers(0, 300))
@pytest.mark.parametrize("kind", ["dota", "voc", "csv", "coco", "xview"])
def test_bytes_thrown_into_a_good_file(kind: str, data: bytes, where: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        write_png(folder / "a.png")
        write_png(folder / "b.png")
        if kind == "dota":
            write_dota(folder, {"P1": [quad(1, 1, 9, 9)], "P2": [quad(1, 1, 9, 9)]})
        elif kind == "voc":
            write_voc(folder, "a.xml", voc_object(1, 1, 9, 9))
            write_voc(folder, "b.xml", voc_object(1, 1, 9, 9), filename="b.png")
        elif kind == "csv":
            (folder / "t.csv").write_text(
                "image_path,xmin,ymin,xmax,ymax,label\na.png,1,1,9,9,Tree\nb.png,1,1,9,9,Tree\n"
            )
        elif kind == "coco":
            write_coco(folder, [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}])
        else:
            write_xview(folder, [{"properties": {"image_id": "5.tif", "bounds_imcoords": "1,1,9,9", "type_id": 18}}])
        path = next(p for p in sorted(folder.rglob("*")) if p.suffix in (".txt", ".xml", ".csv", ".json", ".geojson"))
        content = path.read_bytes()
        path.write_bytes(content[:where] + data + content[where:])
        survives(kind, folder)
