"""The JSON Schema and the reference page: made from the models, and agreeing with the loader."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import pytest
from demo import DEMO, bent

from shoal.errors import StudyError
from shoal.study import dump_yaml, json_schema, parse_study, parse_value, reference_markdown
from shoal.study.schema import Best, Objective, Report, Resources, Scatter, Step, Study, Table

# The study of the design, its pieces filled in.
DESIGN = """
study: burned-area
title: Burned-area segmentation, Canada 2019
data: ../rasters
steps:
  chips:
    run: shoal-earth burned-area chips --rasters {data} --size {size} --out {out}
    matrix: {size: [256]}
    resources: {cpu: 2, memory: 8Gi}
  train:
    needs: chips                       # joins on the axes both have; fans in over the rest
    matrix:
      model: [unet, deeplabv3]
      imagery: [img, tci]
      pretrained: [true, false]
      optimizer: [adam, lamb]
      lr: [1e-3, 1e-4, 1e-5]
      batch_size: [4, 8, 16]
    exclude: [{model: deeplabv3, optimizer: lamb}]
    run: shoal-earth burned-area train --chips {inputs.chips} --model {model} --lr {lr} --imagery {imagery}
      --pretrained {pretrained} --optimizer {optimizer} --batch-size {batch_size} --out {out}
    resources: {gpu: 2, gpu_type: [rtx3090, a10, l4], cpu: 4, memory: 24Gi, shm: 8Gi}
    retries: 2
    timeout: 12h
  test:
    for_each: train                    # one task per train task, inherits its parameters, times its own matrix
    matrix: {checkpoint: [last, best]}
    run: shoal-earth burned-area test --model {inputs.train}/{checkpoint}.ckpt --out {out}
report:
  objective: {metric: test/iou, goal: max}
  tables: [{rows: [model, pretrained], columns: [imagery], value: test/iou, over: batch_size}]
profiles:
  smoke: {steps: {train: {matrix: {model: [unet]}, exclude: null}}}
"""
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def accepted(text: str) -> bool:
    return bool(VALIDATOR.is_valid(parse_value(text)))


def loads(text: str) -> bool:
    try:
        parse_study(text)
    except StudyError:
        return False
    return True


def step(lines: str) -> str:
    return f"study: a\nsteps:\n  b:\n    run: x\n    params: task\n    {lines}\n"


def test_the_schema_is_one_and_knows_the_study_of_the_design() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert loads(DESIGN)
    assert accepted(DESIGN)
    assert accepted(DEMO)
    assert accepted("extends: base.yaml\nvars: {a: 1}"), "a file that extends another may hold a part only"
    assert "x-kind" not in str(SCHEMA)


FORMS = [
    "retries: 2", "retries: two", "retries: -1", "retries: 1.5", "retries: true", "retires: 2", "retries:",
    "timeout: 90", "timeout: 0.5", "timeout: 1h30m", "timeout: 1.5h", "timeout: '90'", "timeout: soon",
    "timeout: -1", "timeout: 12:30:00",
    "timeout: 0", "stall: 2d", "grace: 1w", "timeout: [1h]",
    "resources: {memory: 24Gi}", "resources: {memory: 500M}", "resources: {memory: 24GB}", "resources: {memory: 1e9}",
    "resources: {memory: 24gi}", "resources: {memory: x}", "resources: {memory: 1024}", "resources: {memory: [1]}",
    "resources: {cpu: 500m}", "resources: {cpu: 0.5}", "resources: {cpu: 2}", "resources: {cpu: two}", "resources: {cpu: 0}",
    "resources: {gpu: 0}", "resources: {gpu: -1}", "resources: {gpu: one}", "resources: {gpu: 1.5}", "resources: {nodes: 0}",
    "resources: {gpu_type: a10}", "resources: {gpu_type: [a10, l4]}", "resources: {gpu_type: 3}",
    "resources: {gpus: 1}", "resources: []",
    "matrix: {a: [1, x, true, null, [1, 2]]}", "matrix: {a: 1}", "matrix: {a: []}", "matrix: {a: [[[1]]]}",
    "matrix: {a: {b: 1}}",
    "matrix: {a b: [1]}", "matrix: [a]", "matrix: {a: [1, 2], include: [{a: 3}]}", "matrix: {a: [1], zip: {b: [1], c: [2]}}",
    "zip: {a: [1], b: [2]}", "zip: [{a: [1], b: [2]}]", "zip: {a: [1]}", "zip: {a: 1, b: 2}", "include: [{a: 1}]",
    "include: {a: 1}",
    "include: [{}]", "seeds: 3", "seeds: [0, 7]", "seeds: 0", "seeds: [-1]", "seeds: []", "seeds: [1, 1]", "seeds: many",
    "env: {A: x, B: 1, C: true}", "env: {A-B: x}", "env: {A: [1]}", "secrets: A", "secrets: [A, B]",
    "secrets: [A, A]", "secrets: [1]",
    "code: x.py", "code: [x.py, y/*.py]", "code: ''", "code: [3]", "image: a/b:1", "image: 3", "max_parallel: 1",
    "max_parallel: 0",
    "canary: 0", "params: task", "needs: []", "needs: 3", "for_each: [b]",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_schema_accepts_the_forms_that_the_loader_accepts(form: str) -> None:
    text = step(form).replace("    params: task\n    params", "    params")
    assert accepted(text) == loads(text)


@pytest.mark.parametrize(
    "text",
    [
        bent("retries: 2", "retires: 2"),
        bent("goal: max", "gaol: max"),
        bent("rows: model", "row: model"),
        bent("over: seed", "over: seed, best: {over: lr, metric: x}"),
        bent("study: demo", "name: demo"),
        bent("smoke: {vars: {epochs: 1}", "smoke: {vras: {epochs: 1}"),
        bent("matrix: {model: [unet]}", "matrx: {model: [unet]}"),
        bent("goal: max", "goal: up"),
    ],
)
def test_misspelt_keys_fail_in_editor_and_loader_alike(text: str) -> None:
    assert not accepted(text)
    assert not loads(text)


def test_profiles_may_remove_in_the_editor_too() -> None:
    assert accepted(bent("smoke: {", "smoke: {title: null, "))
    assert accepted(DEMO + "  less: {steps: {test: null}, report: {tables: null}}\n")


def fields() -> list[tuple[str, str, Any]]:
    models = (Study, Step, Resources, Report, Objective, Table, Best, Scatter)
    return [(model.__name__, name, field) for model in models for name, field in model.model_fields.items()]


@pytest.mark.parametrize(
    ("model", "name", "field"), fields(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_field_is_described_with_examples_that_hold(model: str, name: str, field: Any) -> None:
    assert field.description.endswith(".")
    assert field.examples
    schema = SCHEMA if model == "Study" else SCHEMA["$defs"][model]
    assert schema["properties"][name]["description"] == field.description
    within = jsonschema.Draft202012Validator({"$defs": SCHEMA["$defs"], **schema["properties"][name]})
    for example in field.examples:
        within.validate(example)


def test_the_reference_page_shows_every_key_with_examples_that_are_yaml() -> None:
    page = reference_markdown()
    for _, name, field in fields():
        row = next(
            line
            for line in page.splitlines()
            if line.startswith(f"| `{name}` |") and field.description.replace("|", "\\|") in line
        )
        written = re.findall(rf"`({name}: .+?)`(?:<br>| \|)", row)
        assert [parse_value(one) for one in written] == [
            {name: parse_value(dump_yaml(example))} for example in field.examples
        ]
    assert "| `retries` | whole number | `0` |" in page
    assert "| `grace` | length of time | `30s` |" in page
    assert "| `tables` | list of [table](#table)s |" in page
    for target in re.findall(r"\]\(#([a-z]+)\)", page):
        assert f"\n## {target.capitalize()}\n" in page, "links lead somewhere"
