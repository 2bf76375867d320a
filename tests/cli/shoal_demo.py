"""A small study for tests of the command line, with a script of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

Run = Callable[..., subprocess.CompletedProcess[str]]

STUDY = """
study: demo
title: A demo
steps:
  prep:
    run: cat {data} > {out}/x
  train:
    needs: prep
    matrix: {model: [a, b], lr: [1e-3, 1e-2]}
    seeds: 2
    run: sh ./train.sh {inputs.prep}/x {model} {lr} {seed} {out}
  test:
    for_each: train
    run: cp {inputs.train}/metrics.json {out}/metrics.json
data: ./data.txt
report:
  objective: {metric: test/acc, goal: max}
  tables: [{rows: model, columns: lr, value: test/acc, over: seed}]
profiles:
  smoke: {steps: {train: {matrix: {model: [a], lr: [1e-3]}, seeds: 1}}}
"""
TRAIN = """
echo "training $2 $3 $4"
printf '{"acc": 0.%s%s}' "$(wc -c < $1 | tr -d ' ')" "$4" > $5/metrics.json
"""
