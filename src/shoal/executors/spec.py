"""The specification of an attempt: a task's command with every place filled in, wherever these places are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from shoal.plan import Plan, Resources, Task
from shoal.plan.data import template
from shoal.study.template import TemplateError, Value

__all__ = ["Layout", "attempt_spec"]

_SAMPLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a study's tasks are in a store, as those see it who run them: docs/reference/files.md as paths."""

    root: PurePath

    def task(self, step: str, task: str) -> PurePath:
        """The folder of a task."""
        return self.root / step / task

    def out(self, step: str, task: str) -> str:
        """What a task made."""
        return str(self.task(step, task) / "out")

    def attempt(self, step: str, task: str, number: int) -> PurePath:
        """The folder of an attempt."""
        return self.task(step, task) / "attempts" / str(number)


def attempt_spec(
    plan: Plan,
    task: Task,
    layout: Layout,
    *,
    number: int,
    cwd: str,
    data: Mapping[str, tuple[str, str | None]],
    code: str | None,
    resources: Resources,
    executor: str,
    input_digests: Mapping[str, str | None] | None = None,
    queued: str | None = None,
) -> dict[str, Any]:
    """The content of ``spec.json``.

    Args:
        plan: the plan.
        task: one of its tasks; not a gate.
        layout: where the study is in the store, as the task sees it.
        number: which attempt.
        cwd: the folder that the command starts in.
        data: name of a data source to its place and the digest of what is there.
        code: digest of the step's code.
        resources: what it asks for.
        executor: name of the executor.
        input_digests: id of a needed task to the digest of its outputs.
        queued: when it was handed over.

    Raises:
        StudyError: the command or a variable cannot be rendered.
    """
    study, step = plan.study, plan.step(task)
    folder = layout.task(task.step, task.id)
    inputs = {need: [layout.out(need, one) for one in ids] for need, ids in task.inputs.items()}
    places: dict[str, Value] = {
        **study.vars,
        **task.params,
        "out": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "task": task.id,
        "study": study.study,
        "step": task.step,
        **{f"inputs.{need}": list(folders) for need, folders in inputs.items()},
        **{name if name == "data" else f"data.{name}": place for name, (place, _) in data.items()},
    }
    return {
        "format": 1,
        "study": study.study,
        "step": task.step,
        "task": task.id,
        "attempt": number,
        "params": dict(task.params),
        "argv": _argv(plan, task, places),
        "env": _env(plan, task, places),
        "secrets": list(step.secrets),
        "cwd": cwd,
        "task_dir": str(folder),
        "attempt_dir": str(layout.attempt(task.step, task.id, number)),
        "out": str(folder / "out"),
        "checkpoints": str(folder / "checkpoints"),
        "inputs": inputs,
        "input_digests": dict(input_digests or {}),
        "data": {name: {"path": place, "digest": digest} for name, (place, digest) in data.items()},
        "code": code,
        "resources": resources.to_json(),
        "gpus": [],
        "timeout": step.timeout,
        "stall": step.stall,
        "grace": step.grace,
        "sample_every": _SAMPLE_SECONDS,
        "executor": executor,
        "queued": queued,
    }


def _argv(plan: Plan, task: Task, places: Mapping[str, Value]) -> list[str]:
    run = plan.step(task).run
    try:
        if isinstance(run, str):
            return ["/bin/sh", "-e", "-c", template(run).render(places, shell=True)]
        return [word for text in run or () for word in template(text).words(places)]
    except TemplateError as error:
        raise plan.study.error(("steps", task.step, "run"), error.message) from error


def _env(plan: Plan, task: Task, places: Mapping[str, Value]) -> dict[str, str]:
    env = {}
    for name, text in plan.step(task).env.items():
        try:
            env[name] = template(text).render(places, shell=False)
        except TemplateError as error:
            raise plan.study.error(("steps", task.step, "env", name), error.message) from error
    return env
