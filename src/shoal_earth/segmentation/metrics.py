"""Metrics of a whole split from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["confusion", "scores", "trivial_scores"]


def confusion(predictions: torch.Tensor, labels: torch.Tensor, classes: int, ignore: int = 255) -> torch.Tensor:
    """Counts of pixels, true class by predicted class; pixels labelled ``ignore`` are left out."""
    counted = labels != ignore
    pairs = labels[counted].long() * classes + predictions[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: torch.Tensor, names: Sequence[str], prefix: str) -> dict[str, float]:
    """IoU, F1, precision and recall of each class and their mean over the foreground classes, and accuracy of all.

    Args:
        matrix: from :func:`confusion`, summed over the split.
        names: of the classes; the first is the background.
        prefix: put before each name, e.g. ``test``.

    Returns:
        ``{"test/iou", "test/f1", "test/precision", "test/recall"}`` over the foreground classes,
        ``test/miou`` over all classes, ``test/accuracy``, and ``test/iou/<class>`` and so on. A class that is neither in the
        truth nor predicted counts in no mean and has no entry; a ratio of which only the denominator is 0 is 0.
    """
    matrix = matrix.double().cpu()
    hit, truth, predicted = matrix.diag(), matrix.sum(1), matrix.sum(0)
    parts = {
        "iou": hit / (truth + predicted - hit).clamp(min=1),
        "f1": 2 * hit / (truth + predicted).clamp(min=1),
        "precision": hit / predicted.clamp(min=1),
        "recall": hit / truth.clamp(min=1),
    }
    present = (truth + predicted) > 0
    foreground = present.clone()
    foreground[0] = False
    result = {f"{prefix}/accuracy": float(hit.sum() / matrix.sum().clamp(min=1))}
    for name, values in parts.items():
        result[f"{prefix}/{name}"] = float(values[foreground].mean()) if foreground.any() else 0.0
        for number in present.nonzero().flatten().tolist():
            result[f"{prefix}/{name}/{names[number]}"] = float(values[number])
    result[f"{prefix}/miou"] = float(parts["iou"][present].mean()) if present.any() else 0.0
    return result


def trivial_scores(matrix: torch.Tensor, names: Sequence[str], prefix: str) -> dict[str, float]:
    """The scores of the answer "all background" on the same pixels: what a model has to beat."""
    trivial = torch.zeros_like(matrix)
    trivial[:, 0] = matrix.sum(1)
    return {
        key: value for key, value in scores(trivial, names, prefix).items() if key.count("/") == prefix.count("/") + 1
    }
