"""Study to plan: every task with its parameters, its edges and its identity. Pure: same text in, same plan out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shoal.errors import UsageError
from shoal.plan.matrix import Params, expand
from shoal.study.axes import needed_steps
from shoal.study.template import PLACES, Template, TemplateError, Value
from shoal.study.values import value_key

if TYPE_CHECKING:
    from shoal.study import Step, Study

__all__ = ["Plan", "Task", "build", "is_place"]

ID_DIGITS = 12
MOST_TASKS = 1_000_000
# Their values are filled in when a task starts and are no part of its identity.
_PLACES = frozenset((*PLACES, "data"))


def is_place(name: str) -> bool:
    """Whether a reference is filled in only when the task starts."""
    return name in _PLACES or name.startswith(("inputs.", "data."))


@dataclass(frozen=True, slots=True)
class Task:
    """One step at one point of its matrix.

    Attributes:
        id: 12 hexadecimal digits, the digest of what decides the output.
        step: name of its step.
        params: the point, inherited parameters first.
        inputs: ids of the tasks it reads, by step, in plan order.
        command: the command with parameters filled in and places left as names; a text for a shell, a tuple for an exact
            argument list, None for a gate.
    """

    id: str
    step: str
    params: Params
    inputs: Mapping[str, tuple[str, ...]]
    command: str | tuple[str, ...] | None

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of all tasks it reads, each once."""
        if len(self.inputs) == 1:
            return next(iter(self.inputs.values()))
        return tuple(dict.fromkeys(task for ids in self.inputs.values() for task in ids))


@dataclass(frozen=True, slots=True)
class Plan:
    """All tasks of a study, steps in the order in which they can run, tasks in the order of their matrix."""

    study: Study
    order: tuple[str, ...]
    tasks: Mapping[str, Task]
    _by_step: Mapping[str, tuple[Task, ...]] = field(repr=False)

    def of_step(self, step: str) -> tuple[Task, ...]:
        """The tasks of one step."""
        return self._by_step[step]

    def step(self, task: Task) -> Step:
        """The step a task belongs to."""
        return self.study.steps[task.step]

    def needs(self) -> dict[str, tuple[str, ...]]:
        """Step to the steps that it waits for, in an order in which they can run."""
        return {name: needed_steps(self.study.steps[name]) for name in self.order}

    def axes(self, step: str) -> dict[str, list[Value]]:
        """Every parameter of a step's tasks with its values, in order of first appearance."""
        axes: dict[str, dict[Hashable, Value]] = {}
        for task in self._by_step[step]:
            for name, value in task.params.items():
                axes.setdefault(name, {}).setdefault(value_key(value), value)
        return {name: list(values.values()) for name, values in axes.items()}

    def find(self, references: Iterable[str]) -> set[str]:
        """Ids of the tasks named by steps, ids or beginnings of ids.

        Raises:
            UsageError: a reference matches nothing, or several tasks.
        """
        found: set[str] = set()
        for reference in references:
            if reference in self._by_step:
                found.update(task.id for task in self._by_step[reference])
                continue
            name = reference.rpartition("/")[2]
            matches = [task for task in self.tasks if task.startswith(name)] if name else []
            if len(matches) > 1 and name not in self.tasks:
                shown = ", ".join(matches[:4])
                raise UsageError(f"{reference!r} could be {len(matches)} tasks: {shown}", hint="Write more digits.")
            if not matches:
                steps = ", ".join(self.order)
                raise UsageError(
                    f"study {self.study.study!r} has no step and no task {reference!r}",
                    hint=f"Its steps: {steps}. Task ids: shoal results STUDY --tasks, or shoal status STUDY --json.",
                )
            found.add(name if name in self.tasks else matches[0])
        return found

    def with_needs(self, ids: Iterable[str]) -> set[str]:
        """The given tasks and everything they need, directly or not."""
        reached: set[str] = set()
        todo = list(ids)
        while todo:
            task = todo.pop()
            if task not in reached:
                reached.add(task)
                todo.extend(self.tasks[task].needs)
        return reached


def build(study: Study) -> Plan:
    """Plan a checked study.

    Raises:
        StudyError: a task needs inputs that no task makes, two tasks are the same, a value cannot be placed in a command,
            or there are more than a million tasks.
    """
    order = _topological(study)
    by_step: dict[str, tuple[Task, ...]] = {}
    tasks: dict[str, Task] = {}
    for name in order:
        made = _step_tasks(study, name, by_step)
        if len(tasks) + len(made) > MOST_TASKS:
            raise study.error(("steps", name), f"more than {MOST_TASKS:,} tasks", hint="Divide the study.")
        for task in made:
            if task.id in tasks:
                raise study.error(
                    ("steps", name),
                    f"step {name!r} has the same task twice: {_point(task.params)}",
                    hint="An include entry repeats a point of the matrix, or an axis repeats a value.",
                )
            tasks[task.id] = task
        by_step[name] = tuple(made)
    return Plan(study, tuple(order), tasks, by_step)


def _topological(study: Study) -> list[str]:
    # The checked study has no cycle; the order is that of the file as far as needs allow.
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        if name not in order:
            for need in needed_steps(study.steps[name]):
                visit(need)
            order[name] = None

    for name in study.steps:
        visit(name)
    return list(order)


def _step_tasks(study: Study, name: str, by_step: Mapping[str, tuple[Task, ...]]) -> list[Task]:
    step = study.steps[name]
    points = expand(step.matrix, zipped=step.zip, seeds=step.seeds or None, exclude=step.exclude, include=step.include)
    joins = {need: _Join(by_step[need]) for need in needed_steps(step) if need != step.for_each}
    command = _Command(study, name, step)
    bases: Iterable[Task | None] = by_step[step.for_each] if step.for_each is not None else (None,)
    made: list[Task] = []
    for base in bases:
        for own in points:
            params = own if base is None else {**base.params, **own}
            inputs: dict[str, tuple[str, ...]] = {}
            if base is not None and step.for_each is not None:
                inputs[step.for_each] = (base.id,)
            for need, join in joins.items():
                inputs[need] = join.matching(params)
                if not inputs[need]:
                    raise study.error(
                        ("steps", name, "needs"),
                        f"step {name!r} needs {need!r}, but no task of {need!r} has "
                        f"{_point({axis: params[axis] for axis in params if axis in join.axes})}",
                        hint=f"Tasks join on the axes that both steps have. Axes of {need!r}: {join.described()}.",
                    )
            rendered = command.render(params)
            made.append(Task(_identity(name, rendered, params, inputs), name, params, inputs, rendered))
    return made


class _Join:
    """Finds the tasks of a needed step that agree with a point on every axis both have, in constant time a look-up."""

    def __init__(self, tasks: tuple[Task, ...]) -> None:
        self._groups: dict[tuple[str, ...], list[Task]] = {}
        for task in tasks:
            self._groups.setdefault(tuple(sorted(task.params)), []).append(task)
        self._indices: dict[tuple[tuple[str, ...], tuple[str, ...]], dict[Hashable, tuple[str, ...]]] = {}
        self.axes = {axis for group in self._groups for axis in group}
        self._several = len(self._groups) > 1
        self._rank = {task.id: i for i, task in enumerate(tasks)} if self._several else {}

    def matching(self, params: Params) -> tuple[str, ...]:
        found: tuple[str, ...] = ()
        for group, tasks in self._groups.items():
            shared = tuple(axis for axis in group if axis in params)
            index = self._indices.get((group, shared))
            if index is None:
                collected: dict[Hashable, list[str]] = {}
                for task in tasks:
                    collected.setdefault(_key(task.params, shared), []).append(task.id)
                index = {key: tuple(ids) for key, ids in collected.items()}
                self._indices[group, shared] = index
            found += index.get(_key(params, shared), ())
        return tuple(sorted(found, key=self._rank.__getitem__)) if self._several else found

    def described(self) -> str:
        return ", ".join(sorted(self.axes)) or "none"


def _key(params: Mapping[str, Value], axes: tuple[str, ...]) -> Hashable:
    return tuple(value_key(params[axis]) for axis in axes)


class _Command:
    """A step's command, parsed once, rendered for each point."""

    def __init__(self, study: Study, name: str, step: Step) -> None:
        self._study, self._name = study, name
        self._path: tuple[str, ...] = ("steps", name, "run")
        self._vars = dict(study.vars)
        self._shell: Template | None = None
        self._argv: list[Template] | None = None
        if isinstance(step.run, str):
            self._shell = Template.parse(step.run)
        elif step.run is not None:
            self._argv = [Template.parse(item) for item in step.run]

    def render(self, params: Params) -> str | tuple[str, ...] | None:
        values = {**self._vars, **params} if self._vars else params
        try:
            if self._shell is not None:
                return self._shell.render(values, shell=True, keep=is_place)
            if self._argv is not None:
                return tuple(word for item in self._argv for word in item.words(values, keep=is_place))
        except TemplateError as error:
            raise self._study.error(self._path, error.message) from error
        return None


def _identity(
    step: str, command: str | tuple[str, ...] | None, params: Params, inputs: Mapping[str, tuple[str, ...]]
) -> str:
    needs = {name: sorted(ids) for name, ids in inputs.items()}
    text = _canonical({"v": 1, "step": step, "command": command, "params": params, "needs": needs})
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def _point(params: Mapping[str, Value]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params.items()) or "no parameters"
