"""What a task has come to, whatever stands in the store."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.plan import build
from shoal.store import Snapshot, StudyStore
from shoal.store.state import Sources, State, survey
from shoal.study import parse_study

PLAN = build(parse_study("study: s\nsteps: {a: {run: 'x > {out}/x'}, b: {needs: a, run: 'y {inputs.a}'}}"))
A, B = PLAN.tasks

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = (
    "task",
    "attempt",
    "metrics",
    "outputs",
    "inputs",
    "data",
    "code",
    "seconds",
    "state",
    "outcome",
    "failure",
    "started",
)
body = st.dictionaries(st.sampled_from(keys), anything, max_size=8) | anything


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(result=body, attempt=body, number=st.integers(0, 3))
def test_whatever_stands_in_a_store_is_read_or_passed_over(
    tmp_path_factory: Any, result: Any, attempt: Any, number: int
) -> None:
    store = StudyStore(tmp_path_factory.mktemp("s"))
    folder = store.task("a", A)
    folder.attempt(number).mkdir(parents=True)
    if isinstance(result, dict) and "task" in result:
        result["task"] = A
    folder.result.write_text(json.dumps(result))
    (folder.attempt(number) / "attempt.json").write_text(json.dumps(attempt))
    snapshot = Snapshot.read(store)
    states = survey(PLAN, snapshot, Sources())
    assert isinstance(snapshot.tasks[A].seconds, float)
    assert set(states) == {A, B}
    assert states[B].state is State.TODO


def test_another_tasks_result_in_this_tasks_place_does_not_make_it_done(tmp_path: Path) -> None:
    store = StudyStore(tmp_path)
    folder = store.task("a", A)
    folder.root.mkdir(parents=True)
    folder.result.write_text(json.dumps({"task": B, "metrics": {}, "outputs": {}}))
    assert survey(PLAN, Snapshot.read(store), Sources())[A].state is State.TODO
    folder.result.write_text(json.dumps({"task": A, "metrics": {}, "outputs": {}}))
    os.utime(folder.root)
    assert survey(PLAN, Snapshot.read(store), Sources())[A].state is State.DONE
