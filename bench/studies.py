"""The studies that are measured, as texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

CHIPS = {"size": [64, 128, 256, 384, 512], "part": ["a", "b"]}
TRAIN = {"model": ["unet", "fpn", "deeplabv3"], "optimizer": ["adam", "lamb"]}


def planning(tasks: int) -> tuple[str, dict[str, list[object]]]:
    """A study of about ``tasks`` tasks: 10 chips tasks, a train step that joins them, and two tests for each train task.

    Exact for 10,000 and 100,000.

    Returns:
        The text, and the axes of the train step, from which the floor makes its points.
    """
    points = max(1, (tasks - 10) // 3 // 30)  # of lr and seed together
    rates = next(count for count in range(12, 0, -1) if points % count == 0)
    axes: dict[str, list[object]] = {"size": list(CHIPS["size"]), **{name: list(TRAIN[name]) for name in TRAIN}}
    axes["lr"] = [round(0.0005 * (i + 1), 4) for i in range(rates)]
    seeds = points // rates
    words = " ".join(f"--{name} {{{name}}}" for name in axes)
    text = f"""study: grid
steps:
  chips:
    run: chips --size {{size}} --part {{part}} --out {{out}}
    matrix: {json.dumps(CHIPS)}
  train:
    needs: chips
    run: train --chips {{inputs.chips}} {words} --seed {{seed}} --out {{out}}
    matrix: {json.dumps(axes)}
    seeds: {seeds}
  test:
    for_each: train
    run: test --model {{inputs.train}} --checkpoint {{checkpoint}} --out {{out}}
    matrix: {{checkpoint: [last, best]}}
report:
  objective: {{metric: test/iou, goal: max}}
"""
    axes["seed"] = list(range(seeds))
    return text, axes


def paper() -> str:
    """A study shaped like that of the paper: 30 + 144 + 60 models."""
    return """study: paper
title: Three applications, 234 models
vars: {epochs: 100}
steps:
  detection:
    run: train --model {model} --lr {lr} --batch {batch} --epochs {epochs} --out {out}
    matrix:
      model: [faster-rcnn, retinanet, fcos, ssd, yolo]
      lr: [1e-2, 1e-3, 1e-4]
      batch: [4, 8]
    resources: {gpu: 1, cpu: 4, memory: 16Gi}
    retries: 2
    timeout: 12h
  burned:
    run: >
      train --model {model} --imagery {imagery} --pretrained {pretrained} --optimizer {optimizer}
      --lr {lr} --batch {batch} --epochs {epochs} --out {out}
    matrix:
      model: [unet, deeplabv3]
      imagery: [img, tci]
      pretrained: [true, false]
      optimizer: [adam, lamb]
      lr: [1e-3, 1e-4, 1e-5]
      batch: [4, 8, 16]
    resources: {gpu: 2, gpu_type: [rtx3090, a10, l4], cpu: 4, memory: 24Gi, shm: 8Gi}
    retries: 2
    timeout: 12h
  deforestation:
    run: train --model {model} --bands {bands} --lr {lr} --epochs {epochs} --seed {seed} --out {out}
    matrix:
      model: [unet, unet3d, convlstm, transformer]
      bands: [vh, vv, both]
      lr: [1e-3]
    seeds: 5
    resources: {gpu: 1, cpu: 4, memory: 16Gi}
report:
  objective: {metric: test/iou, goal: max}
  tables: [{rows: [model, pretrained], columns: [imagery], value: burned/test/iou, over: [optimizer, lr, batch]}]
profiles:
  smoke: {steps: {burned: {matrix: {model: [unet]}}}}
"""


def noop(argv: Sequence[str], tasks: int) -> str:
    """A study of tasks that do nothing: ``argv`` and a number."""
    words = json.dumps([*(word.replace("{", "{{").replace("}", "}}") for word in argv), "{seed}"])
    return f"study: noop\nsteps:\n  noop:\n    run: {words}\n    seeds: {tasks}\n"
