"""Axes of a step: declared once, under names that are free, used by something; include and exclude that fit them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shoal.errors import StudyError
from shoal.study.axes import can_match, declared_axes, inherited_axes, step_axes
from shoal.study.check_include import check_include
from shoal.study.problems import Problems, did_you_mean, nearest, quoted
from shoal.study.schema import Step, Study
from shoal.study.slips import slip_for
from shoal.study.template import PLACES, Template, TemplateError, Value
from shoal.study.values import same_value, show

__all__ = ["RESERVED", "check_axes", "check_use"]

RESERVED = frozenset((*PLACES, "inputs", "data", "include", "exclude", "zip"))
"""Names that no axis and no variable can have."""

_Path = tuple[str | int, ...]


def check_axes(study: Study, name: str, problems: Problems) -> bool:
    """Add what is wrong with the axes of one step whose needs are sound; whether anything is."""
    step = study.steps[name]
    found = [*_twice(study, name, step), *_names(study, name, step), *_one_text(study, name, step)]
    found = found or [*_excludes(study, name, step), *check_include(study, name)]
    for error in found:
        problems.add(error, error.message.replace(f' of step "{name}"', ""))
    return bool(found)


def check_use(study: Study, name: str, problems: Problems) -> None:
    """Add the axes of one step whose values would make no difference."""
    for error in _unused(study, name, study.steps[name]):
        problems.add(error)


def _declared(step: Step, *, include: bool = False) -> Iterator[tuple[str, _Path]]:
    """The step's own axes, as often as they are declared, and where in the step; on demand those of include as well."""
    for axis in step.matrix:
        yield axis, ("matrix", axis)
    for place, group in enumerate(step.zip):
        for axis in group:
            yield axis, ("zip", place, axis)
    if step.seeds is not None:
        yield "seed", ("seeds",)
    if include:
        known = set(declared_axes(step))
        for place, entry in enumerate(step.include):
            yield from ((axis, ("include", place, axis)) for axis in entry if axis not in known)
            known.update(entry)


def _twice(study: Study, name: str, step: Step) -> Iterator[StudyError]:
    inherited = inherited_axes(study, name)
    seen: set[str] = set()
    for axis, where in _declared(step):
        path = ("steps", name, *where)
        if axis in seen:
            hint = "An axis stands in the matrix or in one zip" + (
                ', and "seed" comes from seeds.' if axis == "seed" else "."
            )
            yield study.error(path, f'axis "{axis}" of step "{name}" is declared twice', hint=hint, key=True)
        elif axis in inherited:
            hint = "Remove it here, or give it another name."
            message = f'axis "{axis}" of step "{name}" is inherited from "{step.for_each}" already'
            yield study.error(path, message, hint=hint, key=True)
        seen.add(axis)


def _names(study: Study, name: str, step: Step) -> Iterator[StudyError]:
    for axis, where in _declared(step, include=True):
        path = ("steps", name, *where)
        if axis in RESERVED:
            hint = f"These names have a meaning already: {quoted(sorted(RESERVED))}."
            yield study.error(path, f'an axis cannot be named "{axis}", as in step "{name}"', hint=hint, key=True)
        elif axis in study.vars:
            hint = f"The variable is at {study.mark('vars', axis)}. Rename one of them."
            yield study.error(path, f'axis "{axis}" of step "{name}" has the name of a variable', hint=hint, key=True)


def _one_text(study: Study, name: str, step: Step) -> Iterator[StudyError]:
    """``model: unet, fpn``, which is one text to YAML."""
    for axis, values in step.matrix.items():
        path = ("steps", name, "matrix", axis)
        text = values[0]
        if isinstance(text, str) and ", " in text and (study.written(*path) or "")[:1] not in ("", "'", '"', "|", ">"):
            message = f'axis "{axis}" of step "{name}" has one value, the text {show(text)}'
            hint = f"Several values are a list: {axis}: [{text}]. If it is meant as one text, put it in quotes."
            yield study.error(path, message, hint=hint)


def _excludes(study: Study, name: str, step: Step) -> Iterator[StudyError]:
    axes = declared_axes(step)
    inherited = inherited_axes(study, name)
    for place, entry in enumerate(step.exclude):
        path = ("steps", name, "exclude", place)
        wrong = False
        for axis in entry:
            if axis not in axes:
                wrong = True
                if axis in inherited:
                    message = f'axis "{axis}" is inherited from "{step.for_each}", step "{name}" cannot exclude by it'
                    hint = f'Write the exclude into step "{step.for_each}".'
                else:
                    message = f'the exclude of step "{name}" has "{axis}", which is no axis of the step'
                    hint = did_you_mean(axis, axes, "Axes of this step")
                yield study.error((*path, axis), message, hint=hint, key=True)
        if not wrong:
            yield from _no_match(study, name, path, entry, step)


def _no_match(study: Study, name: str, path: _Path, entry: Mapping[str, Value], step: Step) -> Iterator[StudyError]:
    """An exclude that no point of the matrix can agree with."""
    if study.changed or can_match(step, entry):
        return  # a profile that keeps one model need not drop what excludes the others
    axes = declared_axes(step)
    for axis, value in entry.items():
        if not any(same_value(value, one) for one in axes[axis]):
            hint = f"Values of {axis}: {quoted([show(one) for one in axes[axis]], 20)}."
            message = f'this exclude of step "{name}" matches nothing: {axis} is never {show(value)}'
            yield study.error((*path, axis), message, hint=hint)
            return
    tied = {axis for group in step.zip for axis in group if axis in entry}
    pairs = " and ".join(f"{axis} {show(value)}" for axis, value in entry.items() if axis in tied)
    hint = "Axes that move together by zip meet only in values at the same place of their lists."
    yield study.error(path, f'this exclude of step "{name}" matches nothing: {pairs} never meet', hint=hint)


def _unused(study: Study, name: str, step: Step) -> Iterator[StudyError]:
    if step.params == "task":
        return
    used: set[str] = set()
    for _, text in step.templates():
        try:
            used.update(reference.name for reference in Template.parse(text).names)
        except TemplateError:
            return  # told by the check of names
    for need in step.needs:
        used.update(step_axes(study, need))
    places = dict(_declared(step, include=True))
    for axis, where in places.items():
        if axis in used:
            continue
        path = ("steps", name, *where)
        if step.gate is not None:
            message = f'axis "{axis}" of the gate "{name}" has no part in what it needs'
            yield study.error(
                path, message, hint="The axes of a gate are those of the steps it needs; remove this one.", key=True
            )
            continue
        said = "seeds are given" if where == ("seeds",) else f'axis "{axis}" is declared'
        near = nearest(axis, (used | set(places)) - {axis})
        slip = slip_for(axis, (text for _, text in step.templates()))
        if slip is not None:
            message = f'axis "{axis}" of step "{name}" is not filled in: {slip} is not {{{axis}}}'
            hint = f"Write {{{axis}}}: one pair of braces, no spaces, no $."
            yield study.error(path, message, hint=hint, key=True)
            continue
        hint = f"Use it as {{{axis}}} in run, env or resources" + (f"; or did you mean {near}? " if near else ". ")
        hint += "If the script reads its parameters by shoal.task().params, say so: params: task."
        message = f'{said}, but step "{name}" uses {{{axis}}} nowhere: all its values would do the same'
        yield study.error(path, message, hint=hint, key=True)
