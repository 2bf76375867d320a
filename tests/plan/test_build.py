"""From a study to its tasks: joins, inheritance, identity."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import StudyError, UsageError
from shoal.plan import Plan, build, resources_of
from shoal.study import parse_study

STUDY = """
study: demo
vars: {epochs: 3}
data: ./rasters
steps:
  chips:
    run: chips --size {size} --data {data} --out {out}
    matrix: {size: [64, 128]}
  weights:
    run: fetch --out {out}
  train:
    needs: [chips, weights]
    matrix: {model: [unet, fpn], size: [64, 128], lr: [1e-3, 1e-4]}
    seeds: 2
    run: train --chips {inputs.chips} --w {inputs.weights} --model {model} --lr {lr} --seed {seed} --epochs {epochs} --out {out}
    resources: {gpu: "{gpus}", cpu: 2, memory: 4Gi}
    include: [{size: 64, gpus: 1}, {size: 128, gpus: 4}]
  test:
    for_each: train
    matrix: {checkpoint: [last, best]}
    run: test {inputs.train}/{checkpoint}.pt --out {out}
  compare:
    needs: test
    matrix: {model: [unet, fpn]}
    run: compare {model} {inputs.test}
"""


def planned(text: str) -> Plan:
    return build(parse_study(text))


def test_tasks_join_on_shared_axes_and_fan_in_over_the_rest() -> None:
    plan = planned(STUDY)
    assert {step: len(plan.of_step(step)) for step in plan.order} == {
        "chips": 2,
        "weights": 1,
        "train": 16,
        "test": 32,
        "compare": 2,
    }
    for task in plan.of_step("train"):
        (chips,) = task.inputs["chips"]
        assert plan.tasks[chips].params["size"] == task.params["size"]
        assert task.inputs["weights"] == (plan.of_step("weights")[0].id,)
        assert resources_of(plan, task).gpu == (1 if task.params["size"] == 64 else 4)
    for task in plan.of_step("test"):
        train = plan.tasks[task.inputs["train"][0]]
        assert task.params == {**train.params, "checkpoint": task.params["checkpoint"]}
    for task in plan.of_step("compare"):
        assert len(task.inputs["test"]) == 16
        assert {plan.tasks[id_].params["model"] for id_ in task.inputs["test"]} == {task.params["model"]}


def test_what_decides_the_output_decides_the_id_and_nothing_else_does() -> None:
    ids = set(planned(STUDY).tasks)
    for change in (
        ("study: demo", "study: renamed\ntitle: Another\nmax_parallel: 3"),
        ("seeds: 2", "retries: 5\n    timeout: 2h\n    seeds: 2"),
        ("data: ./rasters", "data: /elsewhere/rasters"),
        ("size: [64, 128]}\n  weights", "size: [128, 64]}\n  weights"),
        ("model: [unet, fpn], size: [64, 128]", "size: [128, 64], model: [fpn, unet]"),
        ("lr: [1e-3, 1e-4]", "lr: [0.0001, 0.001]"),
        ("data: ./rasters", "data: ./rasters  # a comment"),
        ("memory: 4Gi", "memory: 8Gi"),
    ):
        assert set(planned(STUDY.replace(*change)).tasks) == ids, change
    assert not set(planned(STUDY.replace("epochs: 3", "epochs: 4")).tasks) >= ids
    changed = planned(STUDY.replace("chips --size", "chips --stride 3 --size"))
    assert not {task.id for task in changed.of_step("compare")} & ids, "a change travels down every edge"
    assert changed.of_step("weights")[0].id in ids


def test_ids_are_the_same_in_another_process_with_another_hash_seed(tmp_path: object) -> None:
    code = f"from shoal.plan import build; from shoal.study import parse_study; print(*build(parse_study({STUDY!r})).tasks)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=str(tmp_path),
        env={"PYTHONHASHSEED": "7"},
    )
    assert done.stdout.split() == list(planned(STUDY).tasks)


def test_ids_are_those_of_the_first_release() -> None:
    # Golden: a change here makes every user's finished task run again.
    text = "study: s\nsteps: {a: {matrix: {lr: [1e-3], on: [true]}, run: 'x --lr {lr} {on} --out {out}'}}"
    assert list(planned(text).tasks) == ["c3e91cf4717f"]


def test_a_join_that_finds_nothing_names_both_sides() -> None:
    with pytest.raises(StudyError, match=r"'train' needs 'chips'.*no task of 'chips' has.*size=128") as caught:
        planned(STUDY.replace("matrix: {size: [64, 128]}", "matrix: {size: [64]}"))
    assert caught.value.mark is not None
    assert "Axes of 'chips': size" in str(caught.value)


def test_the_same_task_twice_is_refused() -> None:
    text = "study: s\nsteps: {a: {matrix: {x: [1]}, include: [{x: 2}, {x: 2}], run: 'do {x}'}}"
    with pytest.raises(StudyError, match="same task twice: x=2"):
        planned(text)


def test_a_value_that_quotes_cannot_protect_is_refused_when_planned() -> None:
    text = "study: s\nsteps: {a: {matrix: {x: ['$(id)']}, run: 'do \"{x}\"'}}"
    with pytest.raises(StudyError, match="cannot be made safe inside double quotes"):
        planned(text)


def test_tasks_are_found_by_step_and_by_the_beginning_of_an_id() -> None:
    plan = planned(STUDY)
    some = plan.of_step("train")[3]
    assert plan.find(["chips", some.id[:7]]) == {task.id for task in plan.of_step("chips")} | {some.id}
    assert plan.find([f"train/{some.id}"]) == {some.id}
    assert plan.with_needs([some.id]) == {some.id, *some.needs}
    with pytest.raises(UsageError, match="no step and no task 'tran'"):
        plan.find(["tran"])
    with pytest.raises(UsageError, match="could be"):
        plan.find(["", *"0123456789abcdef"][1:])


@settings(max_examples=50, deadline=None)
@given(st.permutations(["model", "lr", "size"]), st.permutations([64, 128, 256]), st.permutations(["a", "b"]))
def test_order_of_axes_and_values_never_changes_ids(axes: list[str], sizes: list[int], models: list[str]) -> None:
    values = {"model": models, "lr": [0.1], "size": sizes}
    matrix = {axis: values[axis] for axis in axes}
    text = f"study: s\nsteps: {{a: {{matrix: {matrix}, run: 't {{model}} {{lr}} {{size}}'}}}}"
    plain = (
        "study: s\nsteps: {a: {matrix: {model: [a, b], lr: [0.1], size: [64, 128, 256]}, run: 't {model} {lr} {size}'}}"
    )
    assert set(planned(text).tasks) == set(planned(plain).tasks)
