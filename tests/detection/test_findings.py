"""Nothing is lost without a reason: whatever the labels, every number adds up, from the file to the chip."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import ShoalError, UsageError
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.findings import NOTES, REASONS, Findings
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.imagery import starts
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.readers import read_dataset
from shoal_earth.detection.splits import SplitRules

from .conftest import annotation, feature, quad, voc_object, write_coco, write_dota, write_png, write_voc, write_xview

# Numbers around an image of 64 x 48, now and then absurd ones.
NUMBERS = st.one_of(
    st.integers(-20, 90),
    st.floats(-20, 90, allow_nan=False).map(lambda value: round(value, 2)),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30, "x", "", None]),
)
GOOD = st.tuples(st.integers(0, 50), st.integers(0, 40), st.integers(1, 12), st.integers(1, 7)).map(
    lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]]
)
CORNERS = st.one_of(GOOD, st.lists(NUMBERS, min_size=3, max_size=5))
NAMES = st.sampled_from(["plane", "ship", "ufo", ""])
EXAMPLES = settings(max_examples=40, deadline=None)


def holds(dataset: Dataset, labels: int) -> None:
    """Every label was met, and is a box now or has a reason; findings name as many as were left out."""
    findings = dataset.findings
    count = findings.counts["labels"]
    assert count.read == labels
    assert count.kept == dataset.box_count
    assert count.read == count.kept + sum(count.skipped.values())
    for kind in ("label files", "images", "labels"):
        own = findings.counts[kind]
        assert own.read == own.kept + sum(own.skipped.values())
        named = sum(entry.number for entry in findings.entries if entry.kind == kind and not entry.kept)
        assert named == own.read - own.kept
    for image in dataset.images:
        boxes = image.boxes.xyxy
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2] <= image.width).all()
        assert (boxes[:, 3] <= image.height).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert json.loads(findings.to_json())["counts"]["labels"]["read"] == labels


def read(kind: str, folder: Path, labels: int) -> None:
    holds(read_dataset(kind, folder), labels)


@EXAMPLES
@given(rows=st.lists(st.tuples(CORNERS, NAMES), max_size=8))
def test_dota(rows: list[tuple[list[Any], str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        lines = [
            quad(*corners, label)
            if len(corners) == 4 and None not in corners and "" not in corners
            else f"1 2 {corners} {label}"
            for corners, label in rows
        ]
        read("dota", write_dota(Path(name), {"P1": ["gsd:1", *lines]}), len(rows))


@EXAMPLES
@given(
    rows=st.lists(
        st.tuples(CORNERS, st.sampled_from([18, 73, 75, 82, None, "18", 1e99, [1]]), st.booleans()), max_size=8
    )
)
def test_xview(rows: list[tuple[list[Any], Any, bool]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        features = [
            feature(",".join(map(str, corners)), kind, "5.tif" if there else "1395.tif")
            for corners, kind, there in rows
        ]
        read("xview", write_xview(Path(name), [feature("1,1,3,3"), *features]), len(rows) + 1)


@EXAMPLES
@given(
    rows=st.lists(
        st.one_of(
            st.tuples(
                CORNERS, st.sampled_from([1, 2, 3, None, [1]]), st.sampled_from([1, 1, 1, 9, None]), st.integers(1, 4)
            ),
            st.sampled_from([None, 3, "x", {}, {"image_id": 1}]),
        ),
        max_size=8,
    )
)
def test_coco(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        items = [
            annotation(row[3], row[0], image=row[2], category=row[1]) if isinstance(row, tuple) else row for row in rows
        ]
        read("coco", write_coco(Path(name), items), len(rows))


@EXAMPLES
@given(rows=st.lists(st.tuples(CORNERS, NAMES), max_size=8))
def test_csv(rows: list[tuple[list[Any], str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "a.png")
        lines = [f"{label},a.png," + ",".join("" if v is None else str(v) for v in corners) for corners, label in rows]
        (folder / "t.csv").write_text(
            "\n".join(["label,image_path,xmin,ymin,xmax,ymax", "ship,a.png,1,1,3,3", *lines]) + "\n"
        )
        read("csv", folder, len(rows) + 1)


@EXAMPLES
@given(rows=st.lists(st.tuples(CORNERS, NAMES), max_size=8), there=st.booleans())
def test_voc(rows: list[tuple[list[Any], str]], there: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_png(folder / "z.png")
        write_voc(folder, "z.xml", "", filename="z.png")
        if there:
            write_png(folder / "a.png")
        objects = "\n".join(voc_object(*(corners * 2)[:4], label) for corners, label in rows)
        read("voc", write_voc(folder, "a.xml", objects), len(rows))


def piece(box: list[int], left: int, top: int, size: int) -> tuple[float, float]:
    """Share and shorter side of what a chip shows of a box."""
    wide = min(box[2], left + size) - max(box[0], left)
    high = min(box[3], top + size) - max(box[1], top)
    return max(wide, 0) * max(high, 0) / ((box[2] - box[0]) * (box[3] - box[1])), min(wide, high)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(GOOD, min_size=1, max_size=10),
    size=st.integers(8, 80),
    share=st.floats(0, 0.9),
    visible=st.floats(0.05, 1),
    side=st.integers(0, 4),
    keep=st.booleans(),
)
def test_from_file_to_chip(
    rows: list[list[int]], size: int, share: float, visible: float, side: int, keep: bool
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dota(folder / "in", {"P1": [quad(*row) for row in rows]})
        rules = ChipRules(size, int(size * share), visible, min(1.0, visible * 1.5), side, keep)
        places = [(x, y) for x in starts(64, size, rules.overlap) for y in starts(48, size, rules.overlap)]
        pieces = [piece(row, left, top, size) for row in rows for left, top in places]
        if not keep and not any(share > 0 and share >= visible - 1e-9 and short >= side for share, short in pieces):
            with pytest.raises(UsageError, match="no training chip"):
                prepare("dota", folder / "in", folder / "out", rules, SplitRules((1, 0, 0)))
            assert not (folder / "out" / "index.json").exists()
            return
        made = prepare("dota", folder / "in", folder / "out", rules, SplitRules((1, 0, 0)))
        holds(made.dataset, len(rows))
        counts = made.dataset.findings.counts
        for count in counts.values():
            assert count.adds_up
        assert counts["boxes"].read == counts["labels"].kept
        assert counts["decoded images"].read == counts["images"].kept
        index = json.loads((folder / "out" / "index.json").read_text())
        assert counts["chips"].kept == len(index["chips"])
        assert counts["pieces"].kept == sum(chip["objects"] for chip in index["chips"])
        assert (
            json.loads((folder / "out" / "findings.json").read_text())["counts"]["boxes"]["kept"]
            == counts["boxes"].kept
        )


def test_a_number_that_does_not_add_up_is_caught() -> None:
    findings = Findings()
    findings.read("labels", 3)
    findings.keep("labels")
    findings.skip("labels", "empty", "a.txt:3")
    with pytest.raises(ShoalError, match="labels: read 3, but kept 1 and left out 1"):
        findings.check()
    findings.keep("labels")
    findings.check()


def test_only_documented_reasons_can_be_given() -> None:
    findings = Findings()
    for attempt in (
        lambda: findings.skip("labels", "bad mood", "a.txt:3"),
        lambda: findings.count_skip("pieces", "bad mood", 1),
        lambda: findings.note("labels", "bad mood"),
    ):
        with pytest.raises(KeyError, match="bad mood"):
            attempt()


def test_the_guide_has_every_reason_and_rule() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "detection-data.md").read_text()
    for kind, reasons in REASONS.items():
        for reason, rule in reasons.items():
            assert f"| {kind} | {reason} | {rule} |" in guide
    for what, rule in NOTES.items():
        assert f"| {what} | {rule} |" in guide


def test_findings_in_words_are_few_and_say_where_the_rest_is() -> None:
    findings = Findings()
    findings.read("labels", 10)
    for line in range(1, 8):
        findings.skip("labels", "empty", f"a.txt:{line}")
    findings.keep("labels", 3)
    assert findings.lines() == [
        "labels: 10 read, 3 kept, 7 left out",
        "  empty: 7",
        "    a.txt:1",
        "    a.txt:2",
        "    a.txt:3",
        "    ... and 4 more in findings.json",
    ]
