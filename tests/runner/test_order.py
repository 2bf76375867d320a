"""Which of the ready tasks is handed over next: later steps, longer chains, more GPUs first; and what is learned on the way."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.plan import Task
from shoal.runner.order import Lengths, Ready, chains, depths

NEEDS = {"prep": (), "other": (), "train": ("prep",), "test": ("train", "prep")}


def task(step="train", **params):
    return Task(f"{step}-{sorted(params.items())}", step, params, {}, "true")


def drained(ready):
    found = []
    while (first := ready.first()) is not None:
        ready.pop(first.step)
        found.append(first)
    return found


def of_params(task):
    hours = task.params.get("hours")
    return None if hours is None else hours * 3600.0, task.params.get("gpus", 0)


def test_depth_counts_steps_before_and_chain_the_seconds_after():
    assert depths(NEEDS) == {"prep": 0, "other": 0, "train": 1, "test": 2}
    assert chains(NEEDS, {"train": 100.0, "test": 20.0}) == {"prep": 120.0, "other": 0.0, "train": 20.0, "test": 0.0}


def test_later_steps_come_first_then_the_longest_then_the_largest_then_the_plans_order():
    ready = Ready(NEEDS, of_params)
    tasks = [
        task("prep", hours=90), task("train", hours=1, gpus=4), task("train", hours=60, gpus=1),
        task("train", hours=61, gpus=4), task("train", hours=1, gpus=4, n=2), task("test", hours=1),
    ]  # fmt: skip
    for one in tasks:
        ready.push(one)
    # 60 and 61 hours are the same, as far as anybody knows.
    assert drained(ready) == [tasks[5], tasks[3], tasks[2], tasks[1], tasks[4], tasks[0]]
    assert not ready


def test_independent_steps_are_merged_by_length_and_a_step_can_be_passed_over():
    ready = Ready({"a": (), "b": ()}, of_params)
    for hours in (1, 9):
        ready.push(task("a", hours=hours))
    ready.push(task("b", hours=4))
    assert [one.params["hours"] for one in drained(ready)] == [9, 4, 1]
    ready.push(task("a", hours=9))
    ready.push(task("b", hours=4))
    assert ready.first({"a"}) == task("b", hours=4)
    assert ready.first({"a", "b"}) is None


def test_what_finished_tells_how_long_the_others_take_and_the_waiting_are_put_in_order_anew():
    ready = Ready({"train": ()}, of_params)
    tasks = [task(model=model, batch=batch) for model in ("unet", "vit") for batch in (4, 8)]
    for one in tasks[1:]:
        ready.push(one)
    assert ready.first() == tasks[1]
    ready.note(tasks[0], 100.0)
    ready.note(task(model="vit", batch=16), 1000.0)
    assert [one.params["model"] for one in drained(ready)] == ["vit", "vit", "unet"]


def test_what_nothing_is_known_of_comes_before_what_is_known():
    ready = Ready({"a": (), "b": ()}, of_params)
    ready.push(task("a", hours=100))
    ready.push(task("b", n=1))
    assert ready.first() == task("b", n=1)
    ready.note(task("b", n=0), 60.0)
    assert ready.first() == task("a", hours=100)


@given(
    st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    st.floats(100, 1e5),
)
def test_where_values_multiply_a_full_grid_is_learned_exactly(models, batches, base):
    lengths = Lengths()
    grid = [(task(model=str(i), batch=j), base * m * b) for i, m in enumerate(models) for j, b in enumerate(batches)]
    assert lengths.of(grid[0][0]) is None
    assert lengths.typical is None
    for one, seconds in grid:
        lengths.note(one, seconds)
    for one, seconds in grid:
        assert lengths.of(one) == pytest.approx(seconds, rel=1e-6)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 100), st.integers(0, 8)), max_size=40))
def test_every_task_comes_once_and_none_before_one_that_is_much_longer(asked):
    ready = Ready({"a": (), "b": ()}, of_params)
    tasks = [task(step, hours=hours, gpus=gpus, n=n) for n, (step, hours, gpus) in enumerate(asked)]
    for one in tasks:
        ready.push(one)
    order = drained(ready)
    assert sorted(one.id for one in order) == sorted(one.id for one in tasks)
    hours = [one.params["hours"] for one in order]
    assert all(later <= earlier * 1.1**1.01 + 1e-9 for earlier, later in itertools.pairwise(hours))


def test_lengths_of_nothing_are_no_error():
    lengths = Lengths()
    lengths.note(task(), 0.0)
    assert math.isclose(lengths.of(task(model="new")), 1e-3)
