"""Losses and assignments of the YOLOs and of SSD against small cases computed by hand; box codecs there and back."""

from __future__ import annotations

from math import log, log1p

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shoal_earth.detection.models import yolov3, yolox
from shoal_earth.detection.models.anchored import TorchvisionDetector
from shoal_earth.detection.models.detector import finish
from shoal_earth.detection.models.registry import build_detector
from shoal_earth.detection.models.simota import simota
from shoal_earth.detection.models.yolov3 import place_losses
from shoal_earth.detection.models.yolox import YOLOX


def softplus(x: float) -> float:
    """The cross-entropy of a logit x against 0; of x against 1 it is softplus(-x)."""
    return log1p(2.718281828459045**x)


# --- codecs ---------------------------------------------------------------------------------------------------------------

corner = st.floats(0, 500)
side = st.floats(1, 300)
boxes = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


@given(boxes, st.integers(0, 63), st.integers(0, 63), st.sampled_from([8.0, 16.0, 32.0]))
@settings(max_examples=60, deadline=None)
def test_yolox_boxes_come_back(box: tuple[float, ...], x: int, y: int, stride: float) -> None:
    given_box, cell, one = (
        torch.tensor([box]).double(),
        torch.tensor([[x, y]]).double(),
        torch.tensor([[stride]]).double(),
    )
    raw = yolox.encode(given_box, cell, one)
    assert torch.allclose(yolox.decode(raw, cell, one), given_box, atol=1e-6)


@given(boxes, st.sampled_from([8.0, 16.0, 32.0]), st.sampled_from([a for level in yolov3.ANCHORS for a in level]))
@settings(max_examples=60, deadline=None)
def test_yolov3_boxes_come_back_from_the_cell_of_their_centre(
    box: tuple[float, ...], stride: float, anchor: tuple[int, int]
) -> None:
    own, one, prior = torch.tensor([box]).double(), torch.tensor([[stride]]).double(), torch.tensor([anchor]).double()
    cell = ((own[:, :2] + own[:, 2:]) / 2 / stride).floor()
    goal = yolov3.encode(own, cell, prior, one)
    assert ((goal[:, :2] >= 0) & (goal[:, :2] <= 1)).all()
    raw = torch.cat([goal[:, :2].clamp(1e-9, 1 - 1e-9).logit(), goal[:, 2:]], 1)
    assert torch.allclose(yolov3.decode(raw, cell, prior, one), own, atol=1e-4)


def test_no_box_of_yolov3_overflows() -> None:
    raw = torch.tensor([[0.0, 0.0, 500.0, -500.0]])
    box = yolov3.decode(raw, torch.zeros(1, 2), torch.full((1, 2), 10.0), torch.full((1, 1), 8.0))
    assert torch.isfinite(box).all()


@given(boxes)
@settings(max_examples=30, deadline=None)
def test_ssd_boxes_come_back(box: tuple[float, ...]) -> None:
    coder = tiny_ssd().model.box_coder
    own, prior = torch.tensor([box]).double(), torch.tensor([[40.0, 40.0, 90.0, 70.0]]).double()
    assert torch.allclose(coder.decode_single(coder.encode_single(own, prior), prior), own, atol=1e-6)


# --- YOLOv3 ---------------------------------------------------------------------------------------------------------------


def test_the_losses_of_yolov3_by_hand() -> None:
    """Three places of stride 16 in an image of 32 x 32: one answers for the object, one is ignored, one learns "nothing"."""
    cells = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    anchors = torch.tensor([[16.0, 16.0], [20.0, 12.0], [16.0, 16.0]])
    strides = torch.full((3, 1), 16.0)
    truth, labels = torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([0])
    raw = torch.tensor(
        [
            [0.0, 0.0, 0.5, -0.5, 1.0, 2.0, -1.0],
            [9.0, 9.0, 9.0, 9.0, 5.0, 9.0, 9.0],  # its anchor overlaps the object by 192 / 304: ignored
            [0.0, 0.0, 0.0, 0.0, 0.3, 9.0, 9.0],
        ]
    )
    found = place_losses(raw, cells, anchors, strides, truth, labels, area=32.0 * 32)
    weight = 2 - 16 * 16 / (32 * 32)
    assert found["centre"] == pytest.approx(weight * 2 * log(2))
    assert found["size"] == pytest.approx(weight * (0.25 + 0.25) / 2)
    assert found["objectness"] == pytest.approx(softplus(-1.0) + softplus(0.3))
    assert found["classes"] == pytest.approx(softplus(-2.0) + softplus(-1.0))
    nothing = place_losses(raw, cells, anchors, strides, truth[:0], labels[:0], area=32.0 * 32)
    assert nothing["objectness"] == pytest.approx(softplus(1.0) + softplus(5.0) + softplus(0.3))
    assert nothing["centre"] == nothing["size"] == nothing["classes"] == 0


def test_the_anchor_whose_shape_fits_best_answers_at_its_own_stride() -> None:
    cells = torch.tensor([[0.0, 0.0], [3.0, 2.0], [1.0, 1.0], [0.0, 0.0]])
    anchors = torch.tensor([[10.0, 10.0], [10.0, 10.0], [40.0, 40.0], [90.0, 90.0]])
    strides = torch.tensor([[8.0], [8.0], [16.0], [32.0]])
    truth = torch.tensor([[20.0, 15.0, 30.0, 25.0], [1.0, 1.0, 39.0, 45.0]])  # centres (25, 20) and (20, 23)
    assert yolov3._places(cells, anchors, strides, truth).tolist() == [1, 2]


# --- SSD ------------------------------------------------------------------------------------------------------------------


def tiny_ssd() -> TorchvisionDetector:
    model = build_detector("ssd", 2, size="tiny", image_size=128)
    assert isinstance(model, TorchvisionDetector)
    return model


def test_the_losses_of_ssd_by_hand() -> None:
    """One of five default boxes is the object's; the three hardest of the others count as background, the easiest does not."""
    truth = {"boxes": torch.tensor([[10.0, 10.0, 30.0, 30.0]]), "labels": torch.tensor([2])}
    defaults = torch.tensor([[10.0, 10.0, 30.0, 30.0]] + [[50.0 + n, 50.0, 70.0, 70.0] for n in range(4)])
    said = torch.zeros(1, 5, 4)
    said[0, 0] = torch.tensor([0.5, 0.0, 0.0, -2.0])  # the object's own offsets are 0
    logits = torch.tensor([[[0.0, 0.0, log(2)], [log(2), 0, 0], [0, 0, 0], [0, log(2), 0], [log(6), 0, 0]]])
    model = tiny_ssd().model
    found = model.compute_loss(
        [truth],
        {"bbox_regression": said, "cls_logits": logits},
        [defaults],
        [torch.tensor([0, -1, -1, -1, -1])],
    )
    assert found["bbox_regression"] == pytest.approx(0.5 * 0.5**2 + (2 - 0.5))
    # The object's class has 2 / 4; background has 2 / 4, 1 / 3, 1 / 4 and, left out, 6 / 8.
    assert found["classification"] == pytest.approx(log(2) + log(2) + log(3) + log(4))


# --- SimOTA and YOLOX -----------------------------------------------------------------------------------------------------


def places(wide: int, high: int, stride: float) -> tuple[Tensor, Tensor]:
    cells = torch.tensor([[x, y] for y in range(high) for x in range(wide)]).float()
    return cells, torch.full((wide * high, 1), stride)


def test_simota_gives_an_object_as_many_places_as_its_candidates_are_good() -> None:
    """Nine places in 24 x 24 pixels. The large object wants eight of them, the small one the middle, which suits it best."""
    cells, strides = places(3, 3, 8.0)
    large, small = torch.tensor([0.0, 0.0, 24.0, 24.0]), torch.tensor([8.0, 8.0, 16.0, 16.0])
    predicted = large.repeat(9, 1)
    predicted[4] = small
    logits = torch.zeros(9, 2)
    found = simota(predicted, logits, torch.zeros(9), cells, strides, torch.stack([large, small]), torch.tensor([0, 1]))
    assert found.positive.all()
    assert found.matched.tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    assert torch.allclose(found.quality, torch.ones(9))


def test_simota_counts_overlaps_and_prefers_the_right_class() -> None:
    cells, strides = places(2, 1, 8.0)
    truth = torch.tensor([[0.0, 0.0, 16.0, 8.0]])
    half = torch.tensor([0.0, 0.0, 8.0, 8.0])  # overlaps the object by half: two of these are good for one place
    logits = torch.tensor([[-3.0, 3.0], [3.0, -3.0]])
    found = simota(half.repeat(2, 1), logits, torch.full((2,), 3.0), cells, strides, truth, torch.tensor([0]))
    assert found.positive.tolist() == [False, True]
    assert found.quality.tolist() == [0.5]
    twin = truth.repeat(2, 1)  # two objects at the same place, of which one suits the classes
    one = simota(half[None], logits[:1], torch.zeros(1), cells[:1], strides[:1], twin, torch.tensor([0, 1]))
    assert one.matched.tolist() == [1]


def test_simota_without_objects_or_candidates_assigns_nothing() -> None:
    cells, strides = places(2, 2, 8.0)
    here = (torch.zeros(4, 4), torch.zeros(4, 1), torch.zeros(4), cells, strides)
    assert not simota(*here, torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)).positive.any()
    far = torch.tensor([[500.0, 500.0, 501.0, 501.0]])
    assert not simota(*here, far, torch.tensor([0])).positive.any()


def test_the_losses_of_yolox_by_hand() -> None:
    """Four places of stride 16; the first predicts the object's box 1.6 pixels too far right."""
    cells, strides = places(2, 2, 16.0)
    raw = torch.zeros(1, 4, 7)
    raw[..., :2] = 0.5
    raw[0, 0, 0] = 0.6
    raw[0, :, 4] = torch.tensor([1.0, -1.0, -2.0, -3.0])
    raw[0, 0, 5:] = torch.tensor([0.4, -0.7])

    class Fixed(YOLOX):
        def _answers(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return raw, cells, strides

    model = Fixed(2, 0.33, 0.25).train()
    target = {"boxes": torch.tensor([[0.0, 0.0, 16.0, 16.0]]), "labels": torch.tensor([0])}
    found = model.losses(torch.zeros(1, 3, 32, 32), [target])
    overlap = (16 - 1.6) / (16 + 1.6)
    assert found["iou"] == pytest.approx(5 * (1 - overlap**2), rel=1e-5)
    assert found["objectness"] == pytest.approx(softplus(-1.0) + sum(map(softplus, (-1.0, -2.0, -3.0))), rel=1e-5)
    # The class's target is the overlap.
    classes = overlap * softplus(-0.4) + (1 - overlap) * softplus(0.4) + softplus(-0.7)
    assert found["classes"] == pytest.approx(classes, rel=1e-5)
    assert "l1" not in found
    model.strong_augmentation = False
    assert model.losses(torch.zeros(1, 3, 32, 32), [target])["l1"] == pytest.approx(0.1, rel=1e-5)


# --- the end of a prediction ----------------------------------------------------------------------------------------------


def test_doubles_go_by_class_and_boxes_stay_inside() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 10, 10], [0.0, 0, 10, 10], [-5.0, 3, 90, 20], [60.0, 0, 70, 9]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    labels = torch.tensor([0, 0, 1, 0, 0])
    found = finish(boxes, scores, labels, (15, 50), iou=0.5, most=10, least=0.1)
    assert found["scores"].tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found["labels"].tolist() == [0, 1, 0]
    assert found["boxes"][2].tolist() == [0, 3, 50, 15]
    assert len(finish(boxes, scores, labels, (15, 50), iou=None, most=2, least=0.1)["boxes"]) == 2
    assert len(finish(boxes, scores, labels, (15, 50), iou=None, most=9, least=0.85)["boxes"]) == 1
