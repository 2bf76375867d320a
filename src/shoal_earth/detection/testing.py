"""Test one trained detector on chips that it never saw: scores, curves, tables, pictures, speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shoal.errors import UsageError
from shoal_earth.detection.dataset import ChipDetections
from shoal_earth.detection.evaluate import Scores, evaluate, save_predictions, truth_from_chips, write_scores
from shoal_earth.detection.inference import detect
from shoal_earth.detection.pictures import draw_answers
from shoal_earth.rasters.output import write_text
from shoal_earth.session import current_task
from shoal_earth.training.checkpoint import find_checkpoint, load_checkpoint
from shoal_earth.training.distributed import ranks

if TYPE_CHECKING:
    from shoal_earth.detection.models.detector import Detector

__all__ = ["load_detector", "score_checkpoint"]

_COLUMNS = ("objects", "ap", "ap50", "ap75", "ar", "f1", "precision", "recall", "threshold")
# Curves of so many classes at most are drawn, those with most objects.
_CURVES = 12


def load_detector(path: Path) -> tuple[Detector, dict[str, Any]]:
    """A trained detector in evaluation mode, and what is known of it (``model``, ``size``, ``classes``, ``image_size``, ...).

    Raises:
        UsageError: the file is no checkpoint of a detector.
    """
    from shoal_earth.detection.models import build_detector

    content = load_checkpoint(path)
    meta = content["meta"]
    if meta.get("kind") != "detection":
        raise UsageError(
            f"{path}: is a checkpoint of {meta.get('kind', 'something else')}, not of a detector",
            hint="Give best.pt or last.pt of: shoal-earth detection train",
        )
    model = build_detector(meta["model"], len(meta["classes"]), size=meta["size"], image_size=meta["image_size"])
    model.load_state_dict(content["model"])
    return model.eval(), meta


def score_checkpoint(
    chips: Path,
    checkpoint: Path,
    out: Path | None,
    *,
    split: str = "test",
    batch_size: int = 8,
    precision: str = "fp32",
    max_detections: int = 100,
    pictures: int = 3,
    device: str = "auto",
) -> Scores:
    """Score a checkpoint on a split.

    Writes ``predictions.json`` (COCO), what :func:`evaluate.write_scores` writes, ``curves.json`` and ``tables.json`` for the
    report, and pictures. Logs the metrics as ``<split>/ap`` and so on, ``speed/images_per_second`` (the model alone, from pixels
    to boxes, in batches), ``model/parameters`` in millions and ``model/gflops`` for one chip.

    Args:
        chips: folder of chips.
        checkpoint: file of ``shoal-earth detection train``, or the folder of such a training.
        out: where everything goes; Shoal's output folder by default.
        split: which chips.
        batch_size: chips at once.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        max_detections: detections counted in an image.
        pictures: how many chips to draw that every model shows; three more are chosen by this model's own scores.
        device: ``auto``, ``cpu`` or ``cuda``.
    """
    from shoal_earth.detection.models import cost

    task = current_task(out)
    with ranks(device) as here:
        model, meta = load_detector(find_checkpoint(checkpoint))
        examples = ChipDetections(chips, split)
        _same(meta, examples, checkpoint, chips)
        needs = cost(model, examples.size)
        model = model.to(here.device).to(memory_format=torch.channels_last)
        answers = detect(
            model, examples, here, batch_size=batch_size, precision=precision, max_detections=max_detections
        )
        if not here.main:
            here.barrier()
            return Scores({}, {}, {})
        predictions = answers.coco()
        truth = truth_from_chips(chips, split)
        scores = evaluate(truth, predictions, max_detections=max_detections)
        folder = Path(task.out)
        save_predictions(folder / "predictions.json", predictions)
        write_scores(scores, folder)
        _write_report(scores, folder)
        if pictures > 0:
            threshold = scores.metrics.get("threshold", 0.5)
            draw_answers(
                folder / "pictures",
                examples.chips,
                truth,
                predictions,
                threshold=threshold,
                count=pictures,
                max_detections=max_detections,
            )
        task.log(
            {f"{split}/{name}": value for name, value in scores.metrics.items()}
            | {
                "speed/images_per_second": answers.images / max(answers.seconds, 1e-9) * here.world,
                "model/parameters": needs.parameters / 1e6,
                "model/gflops": needs.flops / 1e9,
            }
        )
        here.barrier()
    return scores


def _same(meta: dict[str, Any], examples: ChipDetections, checkpoint: Path, chips: Path) -> None:
    for what, trained, there in (
        ("classes", meta["classes"], examples.classes),
        ("size", meta["image_size"], examples.size),
    ):
        if trained != there:
            raise UsageError(
                f"{checkpoint}: was trained on chips with {what} {trained}, but those in {chips} have {there}"
            )


def _write_report(scores: Scores, folder: Path) -> None:
    """What the report shows of one trial: precision over recall, and a table by class (see "Curves and tables" in files.md)."""
    counted = sorted((n for n in scores.curves if n != "all"), key=lambda n: (-scores.curves[n].objects, n))
    lines = {}
    for name in ("all", *counted[:_CURVES]):
        if name in scores.curves:
            thin = scores.curves[name].thinned(80)
            lines[name] = [
                [round(float(x), 4), round(float(y), 4)] for x, y in zip(thin.recall, thin.precision, strict=True)
            ]
    curves = {"Precision over recall at IoU 0.5": {"x": "recall", "y": "precision", "lines": lines}}
    rows = [
        [name, *(round(own[key], 4) if key in own else None for key in _COLUMNS)]
        for name, own in sorted(scores.classes.items(), key=lambda pair: (-pair[1].get("ap", -1), pair[0]))
    ]
    tables = {"By class": {"columns": ["class", *_COLUMNS], "rows": rows}}
    write_text(folder / "curves.json", json.dumps(curves) + "\n")
    write_text(folder / "tables.json", json.dumps(tables) + "\n")
