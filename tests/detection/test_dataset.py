"""Examples for detectors: what is read, how it is varied, and that variation depends on seed, epoch and index alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UsageError
from shoal_earth.detection.augment import AUGMENTATIONS, Augmentation, Sample, augmentation
from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.dataset import ChipDetections, collate, pixels
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.splits import SplitRules
from shoal_earth.detection.synthetic_formats import write_synthetic
from shoal_earth.training.data import Batches


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chips")
    write_synthetic("dota", folder / "source", scenes=6, side=260, seed=4)
    rules = ChipRules(96, 24, keep_empty=True)
    prepare("dota", folder / "source", folder / "chips", rules, SplitRules((0.6, 0.2, 0.2)))
    return folder / "chips"


def marked(size: int, boxes: list[list[float]]) -> Sample:
    """An image that is bright exactly inside of its boxes; the label says which colour channel."""
    image = torch.zeros(3, size, size, dtype=torch.uint8)
    for label, (left, top, right, bottom) in enumerate(boxes):
        image[label % 3, int(top) : int(bottom), int(left) : int(right)] = 255
    return Sample(image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)))


def bright(image: torch.Tensor, channel: int) -> list[float]:
    rows, columns = torch.nonzero(image[channel] > 127, as_tuple=True)
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


def test_an_example_is_the_chip_with_its_boxes_and_crowds_are_no_objects(chips: Path) -> None:
    examples = ChipDetections(chips, "train")
    image, target = examples.get(0, np.random.default_rng(0))
    rows = examples.chips.boxes(0)
    assert image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(examples.chips.image(0)))
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    assert np.array_equal(target["boxes"].numpy(), rows["box"])
    assert np.array_equal(target["labels"].numpy(), rows["label"])
    images, targets = collate([examples.get(n, np.random.default_rng(n)) for n in range(3)])
    assert images.shape == (3, 3, 96, 96)
    assert len(targets) == 3
    assert float(pixels(images).max()) <= 1


def test_chips_without_objects_are_taken_or_left_by_choice(chips: Path) -> None:
    everything, filled = ChipDetections(chips, "train"), ChipDetections(chips, "train", keep_empty=False)
    assert 0 < len(filled) < len(everything)
    assert all(len(filled.load(n).boxes) for n in range(len(filled)))
    seen = [number for _, numbers in everything.batches(4) for number in numbers]
    assert seen == list(range(len(everything)))
    shares = [[n for _, numbers in everything.batches(4, rank, 3) for n in numbers] for rank in range(3)]
    assert sorted(n for share in shares for n in share) == seen


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_varied_example_depends_on_its_generator_alone_and_leaves_the_models_generator_as_it_was(
    chips: Path, name: str
) -> None:
    examples = ChipDetections(chips, "train", augment=name)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [examples.get(n, np.random.default_rng((7, n))) for n in range(4)]
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    for n, (image, target) in enumerate(first):
        again, same = examples.get(n, np.random.default_rng((7, n)))
        assert torch.equal(image, again)
        assert torch.equal(target["boxes"], same["boxes"])
        assert image.shape == (3, 96, 96)
        assert image.dtype == torch.uint8
        boxes = target["boxes"]
        assert len(boxes) == len(target["labels"])
        assert bool(((boxes >= 0) & (boxes <= 96)).all())
        assert bool(((boxes[:, 2:] - boxes[:, :2]) > 0).all())
    if name != "none":
        other, _ = examples.get(0, np.random.default_rng((8, 0)))
        assert not torch.equal(first[0][0], other) or not torch.equal(
            first[1][0], examples.get(1, np.random.default_rng((8, 1)))[0]
        )


@pytest.mark.parametrize(
    "kind",
    [Augmentation(), Augmentation(turns=False, scale=(0.5, 2.0)), Augmentation(scale=(0.6, 1.6), mosaic=1.0)],
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_boxes_stay_on_what_they_mark(kind: Augmentation, seed: int) -> None:
    sample = marked(64, [[8, 12, 30, 28], [34, 36, 58, 60]])
    empty = Sample(torch.zeros(3, 64, 64, dtype=torch.uint8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    varied = kind(lambda index: sample if index == 0 else empty, 0, 1_000_000, np.random.default_rng(seed))
    for box, label in zip(varied.boxes.tolist(), varied.labels.tolist(), strict=True):
        assert np.allclose(box, bright(varied.image, label), atol=1.6)


def test_mosaic_shows_four_images_and_mixup_two_of_their_kind() -> None:
    def load(index: int) -> Sample:
        image = torch.full((3, 64, 64), 40 * (index + 1), dtype=torch.uint8)
        return Sample(image, torch.tensor([[20.0, 20.0, 44.0, 44.0]]), torch.tensor([index]))

    shown = set[int]()
    for seed in range(20):
        varied = Augmentation(turns=False, scale=(0.5, 0.5), mosaic=1.0)(load, 0, 4, np.random.default_rng(seed))
        shown.add(len(set(varied.labels.tolist())))
        assert len(varied.boxes) == len(varied.labels) <= 4
    assert max(shown) >= 3
    mixed = Augmentation(turns=False, mixup=1.0)(load, 0, 4, np.random.default_rng(3))
    assert len(mixed.boxes) == 2
    assert int(mixed.image[0, 0, 0]) == (40 + 40 * (int(mixed.labels[1]) + 1)) // 2


def test_mosaic_and_mixup_end_with_the_epoch_that_was_asked_for(chips: Path) -> None:
    examples = ChipDetections(chips, "train", augment="mosaic", plain_from=3)
    assert examples.at(2).augment.mosaic == 1.0
    late = examples.at(3)
    assert late.augment == AUGMENTATIONS["mosaic"].plain()
    assert late.augment.mosaic == late.augment.mixup == 0
    assert len(late) == len(examples)
    assert examples.augment.mosaic == 1.0


def test_batches_are_the_same_from_any_step_and_with_any_number_of_workers(chips: Path) -> None:
    def read(first: int, last: int, workers: int) -> list[torch.Tensor]:
        examples = ChipDetections(chips, "train", augment="mosaic", plain_from=1)
        batches = Batches(examples, 4, seed=5, workers=workers, collate=collate)
        return [
            torch.cat([images.flatten(1), torch.zeros(len(images), 0)], 1) for images, _ in batches.stream(first, last)
        ]

    whole = read(0, 6, 0)
    for part in (read(3, 6, 0), read(3, 6, 2)):
        assert all(torch.equal(a, b) for a, b in zip(whole[3:], part, strict=True))


def test_what_cannot_be_is_said(chips: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no augmentation"):
        augmentation("blur")
    with pytest.raises(UsageError, match="no chips of the split nowhere"):
        ChipDetections(chips, "nowhere")
