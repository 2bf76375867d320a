"""Metrics of a whole split from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["confusion", "scores", "trivial_scores"]


def confusion(predictions: torch.Tensor, labels: torch.Tensor, classes: int, ignore: int = 255) -> torch.Tensor:
    """Counts of pixels, (classes, classes), true class by predicted class; pixels labelled ``ignore`` are left out.

    Args:
        predictions, labels: whole numbers of the same shape, whatever it is.
        classes: how many there are; labels other than ``ignore`` are below.
        ignore: label of pixels that do not count.
    """
    counted = labels != ignore
    pairs = labels[counted].long() * classes + predictions[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: torch.Tensor, names: Sequence[str], prefix: str) -> dict[str, float]:
    """IoU, F1, precision and recall of each class and their means, accuracy and kappa of all.

    Args:
        matrix: from :func:`confusion`, summed over the split.
        names: of the classes; the first is the background.
        prefix: put before each name, e.g. ``test``.

    Returns:
        ``{"test/iou", "test/f1", "test/precision", "test/recall"}`` over the foreground classes,
        ``{"test/miou", "test/mf1", "test/mprecision", "test/mrecall"}`` over all classes, ``test/accuracy``, ``test/kappa``
        (Cohen's: accuracy beyond chance), and ``test/iou/<class>`` and so on. A class that is neither in the truth nor
        predicted counts in no mean and has no entry; a ratio of which only the denominator is 0 is 0.
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
    total = matrix.sum().clamp(min=1)
    accuracy, chance = float(hit.sum() / total), float((truth * predicted).sum() / total**2)
    # Where chance alone is never wrong, nothing can be better than it.
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else 0.0
    result = {f"{prefix}/accuracy": accuracy, f"{prefix}/kappa": kappa}
    for name, values in parts.items():
        result[f"{prefix}/{name}"] = float(values[foreground].mean()) if foreground.any() else 0.0
        result[f"{prefix}/m{name}"] = float(values[present].mean()) if present.any() else 0.0
        for number in present.nonzero().flatten().tolist():
            result[f"{prefix}/{name}/{names[number]}"] = float(values[number])
    return result


def trivial_scores(matrix: torch.Tensor, names: Sequence[str], prefix: str) -> dict[str, float]:
    """What a constant answer reaches on the same pixels, which a model has to beat: score by score, the best of any one class."""
    best: dict[str, float] = {}
    for number in range(len(matrix)):
        constant = torch.zeros_like(matrix)
        constant[:, number] = matrix.sum(1)
        for key, value in scores(constant, names, prefix).items():
            if key.count("/") == prefix.count("/") + 1:
                best[key] = max(value, best.get(key, value))
    return best
