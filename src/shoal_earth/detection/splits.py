"""Which images are for training, validation and test: whole scenes, never chips, so that no pixel is in two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import UsageError
from shoal_earth.detection.findings import Findings
from shoal_earth.detection.form import Image
from shoal_earth.rasters.split import SPLITS, assign

__all__ = ["SplitRules", "split_images"]


@dataclass(frozen=True)
class SplitRules:
    """How to split.

    Args:
        shares: of training, validation and test, in objects (scenes without any are dealt by their number).
        seed: of the deal.
        given: take the splits that the dataset is published with. Where it has no validation (or no test) split, its share is
            dealt out of the training scenes; where it has one, the share is not used.
    """

    shares: tuple[float, float, float] = (0.7, 0.15, 0.15)
    seed: int = 0
    given: bool = False

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or min(self.shares) < 0 or self.shares[0] <= 0 or sum(self.shares) <= 0:
            raise UsageError("the split needs three shares (training, validation, test), and training must have one")


def split_images(images: Sequence[Image], rules: SplitRules, findings: Findings) -> list[str]:
    """The split of each image. Images of one scene (``group``) go together; the same images and seed give the same answer.

    Raises:
        UsageError: the published splits are asked for, but some image has none.
    """
    if not rules.given:
        return _deal(images, dict(zip(SPLITS, rules.shares, strict=True)), rules.seed)
    if without := [image.name for image in images if image.split is None]:
        raise UsageError(
            f"{without[0]}: is in no published split ({len(without)} such images)",
            hint="Published splits are folders named train, val and test, or COCO files named so. Or deal: --split 0.7,0.15,0.15",
        )
    there = {image.split for image in images}
    homes: dict[str, str] = {}
    for image in images:
        if homes.setdefault(image.group, str(image.split)) != image.split:
            findings.note("images", "scene in two splits", image.name, f"{homes[image.group]} and {image.split}")
    shares = {
        name: share for name, share in zip(SPLITS, rules.shares, strict=True) if name == "train" or name not in there
    }
    training = [number for number, image in enumerate(images) if image.split == "train"]
    dealt = _deal([images[number] for number in training], shares, rules.seed)
    result = [str(image.split) for image in images]
    for number, split in zip(training, dealt, strict=True):
        result[number] = split
    return result


def _deal(images: Sequence[Image], shares: dict[str, float], seed: int) -> list[str]:
    weights: dict[str, float] = {}
    for image in sorted(images, key=lambda image: image.name):
        weights[image.group] = weights.get(image.group, 0.0) + len(image.boxes)
    given = dict(zip(weights, assign(list(weights.values()), shares, seed), strict=True))
    return [given[image.group] for image in images]
