"""Which axes a step has, its own and inherited, with the values they can take; no combination is made for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shoal.study.template import Value
from shoal.study.values import same_value, value_key

if TYPE_CHECKING:
    from shoal.study.schema import Step, Study

__all__ = ["can_match", "declared_axes", "inherited_axes", "needed_steps", "own_axes", "step_axes"]

Axes = dict[str, tuple[Value, ...]]


def declared_axes(step: Step) -> Axes:
    """The axes that a step itself declares by matrix, zip and seeds: those that ``exclude`` works on."""
    axes: Axes = dict(step.matrix)
    for group in step.zip:
        axes.update(group)
    if step.seeds is not None:
        axes["seed"] = step.seeds
    return axes


def own_axes(step: Step) -> Axes:
    """The declared axes and what ``include`` adds to them, each with all its values."""
    axes = declared_axes(step)
    added: dict[str, dict[object, Value]] = {}
    for entry in step.include:
        for name, value in entry.items():
            known = added.setdefault(name, {value_key(one): one for one in axes.get(name, ())})
            known.setdefault(value_key(value), value)
    axes.update({name: tuple(values.values()) for name, values in added.items()})
    return axes


def can_match(step: Step, entry: Mapping[str, Value]) -> bool:
    """Whether an ``exclude`` can match a point of the step's matrix: its values are there, and zip lets them meet."""
    axes = declared_axes(step)
    if not all(any(same_value(value, one) for one in axes.get(axis, ())) for axis, value in entry.items()):
        return False
    for group in step.zip:
        tied = [axis for axis in entry if axis in group]
        length = len(next(iter(group.values())))
        if not any(all(same_value(entry[axis], group[axis][i]) for axis in tied) for i in range(length)):
            return False
    return True


def inherited_axes(study: Study, step: str) -> Axes:
    """The axes that a step has from the step it runs ``for_each`` of, and that one from its own."""
    chain: list[str] = []
    name = study.steps[step].for_each
    while name is not None and name in study.steps and name not in chain:
        chain.append(name)
        name = study.steps[name].for_each
    axes: Axes = {}
    for name in reversed(chain):
        axes.update(own_axes(study.steps[name]))
    return axes


def step_axes(study: Study, step: str) -> Axes:
    """All axes of a step's tasks with the values they can take, inherited ones first."""
    return {**inherited_axes(study, step), **own_axes(study.steps[step])}


def needed_steps(step: Step) -> tuple[str, ...]:
    """The steps that a step needs directly, the one it runs ``for_each`` of first."""
    each = () if step.for_each is None else (step.for_each,)
    return (*each, *(need for need in step.needs if need not in each))
