"""What ``include`` may say, so that every task of a step ends up with a value for the same axes.

An entry is added to every point of the matrix of which it changes no value, and is one more point where there is none such.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from shoal.errors import StudyError
from shoal.study.axes import can_match, declared_axes, inherited_axes
from shoal.study.problems import quoted
from shoal.study.schema import Step, Study
from shoal.study.template import Value
from shoal.study.values import same_value, show

__all__ = ["check_include"]

_MOST_POINTS = 20_000
_Point = Mapping[str, Value]


def check_include(study: Study, name: str) -> Iterator[StudyError]:
    """What is wrong with the include of one step whose other axes are sound."""
    step = study.steps[name]
    axes = declared_axes(step)
    inherited = inherited_axes(study, name)
    extra = list(dict.fromkeys(axis for entry in step.include for axis in entry if axis not in axes))
    path = ("steps", name, "include")
    if taken := [axis for axis in extra if axis in inherited]:
        hint = f'Write the include into step "{step.for_each}".'
        message = f'axis "{taken[0]}" is inherited from "{step.for_each}", step "{name}" cannot include it'
        yield study.error(path, message, hint=hint, key=True)
        return
    for place, entry in enumerate(step.include):
        where = (*path, place)
        if bool(axes) and _is_there(step, {axis: value for axis, value in entry.items() if axis in axes}):
            if all(axis in axes for axis in entry) and not study.changed:
                message = f'this include of step "{name}" adds nothing: the matrix has it already'
                yield study.error(where, message, hint="Remove it, or change a value.")
            continue
        if missing := [axis for axis in (*axes, *extra) if axis not in entry]:
            hint = f"It is one more task, and every task needs a value for each axis: {quoted([*axes, *extra])}."
            yield study.error(where, f'this include of step "{name}" gives no value for {quoted(missing)}', hint=hint)
            return
    for axis in extra if axes else ():
        entries = [entry for entry in step.include if axis in entry]
        if (bare := _not_covered(step, axes, entries)) is not None:
            at = ", ".join(f"{one} is {show(value)}" for one, value in bare.items()) or "nothing else is given"
            hint = "Include it there as well; or use zip, which gives each value of one axis one of another."
            message = f'include gives "{axis}" to some tasks of step "{name}" only: it has no value where {at}'
            yield study.error(path, message, hint=hint, key=True)


def _is_there(step: Step, part: _Point) -> bool:
    """Whether the matrix, less what is excluded, can have a point with these values."""
    return can_match(step, part) and not any(_agrees(part, entry) for entry in step.exclude)


def _agrees(point: _Point, entry: _Point) -> bool:
    return all(axis in point and same_value(point[axis], value) for axis, value in entry.items())


def _not_covered(step: Step, axes: Mapping[str, object], entries: list[dict[str, Value]]) -> _Point | None:
    """A point of the matrix to which none of the entries is added, as far as the axes that they speak of go."""
    spoken = {axis for entry in entries for axis in entry if axis in axes}
    dimensions: list[list[_Point]] = [
        [{axis: value} for value in values] for axis, values in step.matrix.items() if axis in spoken
    ]
    if "seed" in spoken and step.seeds is not None:
        dimensions.append([{"seed": seed} for seed in step.seeds])
    for group in step.zip:
        if spoken & set(group):
            length = len(next(iter(group.values())))
            dimensions.append([{axis: values[i] for axis, values in group.items()} for i in range(length)])
    for parts in itertools.islice(itertools.product(*dimensions), _MOST_POINTS):
        point = {axis: value for part in parts for axis, value in part.items()}
        if any(_agrees(point, entry) for entry in step.exclude):
            continue
        if not any(all(same_value(point[axis], entry[axis]) for axis in entry if axis in spoken) for entry in entries):
            return {axis: value for axis, value in point.items() if axis in spoken}
    return None
