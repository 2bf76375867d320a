"""A small sound study that tests bend, and how they look at what comes of it."""

from __future__ import annotations

import pytest

from shoal.errors import StudyError
from shoal.study import Study, StudyErrors, parse_study

DEMO = """\
study: demo
vars: {epochs: 3}
data: /data
steps:
  chips:
    run: chips --data {data} --size {size} --out {out}
    matrix: {size: [256, 512]}
  train:
    needs: chips
    matrix:
      model: [unet, vit]
      lr: [1e-3, 1e-4]
    seeds: 3
    run: train.py --lr {lr} --model {model} --seed {seed} --epochs {epochs} {inputs.chips} -o {out}
    resources: {gpu: 1, memory: 8Gi}
    retries: 2
  test:
    for_each: train
    run: test.py {inputs.train} {model}
report:
  objective: {metric: test/iou, goal: max}
  tables: [{rows: model, columns: lr, over: seed}]
profiles:
  smoke: {vars: {epochs: 1}, steps: {train: {matrix: {model: [unet]}}}}
"""


def bent(old: str, new: str, *more: tuple[str, str]) -> str:
    """The demo with pieces of its text replaced."""
    text = DEMO
    for before, after in ((old, new), *more):
        assert text.count(before) >= 1, before
        text = text.replace(before, after, 1)
    return text


def problems(text: str, **options: object) -> tuple[StudyError, ...]:
    """What is wrong with a study."""
    with pytest.raises(StudyError) as caught:
        parse_study(text, "demo.yaml", **options)  # type: ignore[arg-type]
    return caught.value.errors if isinstance(caught.value, StudyErrors) else (caught.value,)


def underlined(error: StudyError) -> str:
    """The part of the shown line above the underline."""
    _, shown, underline = str(error).split("\n")[:3]
    start = underline.index("^")
    assert set(underline[start:]) == {"^"}
    return shown[start : len(underline)]


def sound(text: str, **options: object) -> Study:
    """A study without mistakes."""
    return parse_study(text, "demo.yaml", **options)  # type: ignore[arg-type]
