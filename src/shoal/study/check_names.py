"""Names in commands, environments and resources: each ``{name}`` must be known, and each variable and place used."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from shoal.errors import StudyError
from shoal.study.axes import Axes, needed_steps, step_axes
from shoal.study.check_axes import RESERVED
from shoal.study.problems import Problems, did_you_mean, nearest, quoted
from shoal.study.schema import Resources, Study
from shoal.study.slips import spaced
from shoal.study.template import PLACES, Reference, Template, TemplateError, Value, value_text
from shoal.study.values import show

__all__ = ["check_names", "check_variables"]

_MOST_COMBINATIONS = 1000
_Path = tuple[str | int, ...]
_WHERE = {"run": "the command", "env": "the environment", "resources": "the resources"}


def check_names(study: Study, problems: Problems) -> set[str]:
    """Add what is wrong with the names in a study whose steps and needs are sound; the steps that have such names."""
    misspelt: set[str] = set()
    for step in study.steps:
        for error in _step(study, step):
            problems.add(error, error.message.replace(f' of step "{step}"', ""))
            misspelt.add(step)
    return misspelt


def check_variables(study: Study, problems: Problems) -> None:
    """Add variables and data that nothing uses, in a study that has no other problem."""
    used = {
        reference.name
        for step in study.steps.values()
        for _, text in step.templates()
        for reference in Template.parse(text).names
    }
    for name in study.vars:
        if name in RESERVED:
            hint = f"These names have a meaning already: {quoted(sorted(RESERVED))}."
            problems.add(study.error(("vars", name), f'a variable cannot be named "{name}"', hint=hint, key=True))
    for name in study.vars:
        if name not in used:
            hint = f"Use it as {{{name}}} in run, env or resources of a step, or remove it."
            problems.add(study.error(("vars", name), f'nothing uses the variable "{name}"', hint=hint, key=True))
    # A script that reads shoal.task() finds all data there.
    by_script = any(step.params == "task" for step in study.steps.values())
    for reference in () if by_script else _data_names(study):
        if reference not in used:
            path = ("data",) if reference == "data" else ("data", reference.removeprefix("data."))
            hint = f"Use it as {{{reference}}} in run or env of a step, so that Shoal knows who reads it; or remove it."
            problems.add(study.error(path, f"no step uses the data {{{reference}}}", hint=hint, key=True))


def _known(study: Study, step: str) -> list[str]:
    """Every name that the command of a step can use: axes, variables, inputs, data, and places that Shoal gives."""
    inputs = [f"inputs.{need}" for need in needed_steps(study.steps[step])]
    return [*step_axes(study, step), *study.vars, *inputs, *_data_names(study), *PLACES]


def _data_names(study: Study) -> list[str]:
    return ["data"] if isinstance(study.data, str) else [f"data.{name}" for name in study.data]


def _step(study: Study, step: str) -> Iterator[StudyError]:
    axes = step_axes(study, step)
    constant: Axes = {name: (value,) for name, value in study.vars.items()}
    everything = _known(study, step)
    for where, text in study.steps[step].templates():
        path = ("steps", step, *where)
        place = f'{_WHERE[str(where[0])]} of step "{step}"'
        try:
            template = Template.parse(text)
        except TemplateError as error:
            span = (error.offset, error.offset + error.length)
            yield study.error(path, f"{error.message}, in {place}", span=span)
            continue
        # Resources decide where a task runs: they are settled before it has a place of its own.
        known = [*axes, *study.vars] if where[0] == "resources" else everything
        unknown = False
        for name, start, end in spaced(text, known):
            message = f"{text[start:end]} is not filled in: the spaces make it text for the shell, in {place}"
            yield study.error(path, message, hint=f"Write {{{name}}}.", span=(start, end))
        if where == ("run",):
            yield from _doubled(study, step, path, text)
        for reference in template.names:
            span = (reference.start, reference.end)
            if reference.name not in known:
                unknown = True
                message = f"unknown name {{{reference.name}}} in {place}"
                hint = _unknown(study, step, reference.name, known, everything)
                yield study.error(path, message, hint=hint, span=span)
            elif where == ("run",) and reference.inside is not None:
                yield from _unsafe(study, path, place, reference, {**constant, **axes}.get(reference.name, ()))
        if where[0] == "resources" and not unknown:
            yield from _amounts(study, step, where[1:], template, {**constant, **axes})


def _doubled(study: Study, step: str, path: _Path, text: str) -> Iterator[StudyError]:
    """``{{out}}`` as in Jinja, in a step that has no ``{out}``: its tasks would all write into a folder of that odd name."""
    used = {one.name for _, other in study.steps[step].templates() for one in Template.parse(other).names}
    for name in ("out", "checkpoints"):
        start = text.find(f"{{{{{name}}}}}")
        # In quotes it is meant as text, as in what `shoal import` writes.
        if start >= 0 and name not in used and "'" not in text[:start]:
            span = (start, start + len(name) + 4)
            message = f'{{{{{name}}}}} is the text {{{name}}}, not the folder, in the command of step "{step}"'
            yield study.error(path, message, hint=f"Write {{{name}}}, with one pair of braces.", span=span)


def _unsafe(
    study: Study, path: _Path, place: str, reference: Reference, values: tuple[Value, ...]
) -> Iterator[StudyError]:
    """A value that quotes cannot protect where it stands: only the whole list of values shows that."""
    alone = Template(reference.name, (reference,))
    for value in values:
        try:
            alone.render({reference.name: value}, shell=True)
        except TemplateError as error:
            message, _, advice = error.message.partition(": ")
            hint = advice[:1].upper() + advice[1:] + "."
            yield study.error(path, f"{message}, in {place}", hint=hint, span=(reference.start, reference.end))
            return


def _unknown(study: Study, step: str, name: str, known: list[str], everything: list[str]) -> str:
    """What to do about a name that a step does not know."""
    listed = (
        f"This step knows: {quoted(known)}."
        if known is everything
        else f"Resources know: {quoted(known) or 'nothing'}."
    )
    head, _, tail = name.partition(".")
    last = name.rpartition(".")[2]
    near = last if last in known else nearest(name, known)
    if name in everything:
        return f"{listed}  {{{name}}} is known only when the task has been placed."
    if head == "inputs":
        if tail in study.steps and tail != step:
            return f'Step "{step}" does not need "{tail}": add it to needs.'
        inputs = [one for one in everything if one.startswith("inputs.")]
        if not inputs:
            return f'Step "{step}" needs no other step: give it needs: STEP.'
        return did_you_mean(name, inputs, "Its inputs", "{%s}")
    if name == "data" and isinstance(study.data, dict) and study.data:
        return f"The data has names: {quoted('{' + one + '}' for one in _data_names(study))}."
    if name in needed_steps(study.steps[step]):
        return f"{listed}  Did you mean {{inputs.{name}}}?"
    if head == "data" and not study.data:
        return 'The study has no "data": add data: PATH at the top of the file.'
    if near is not None:
        return f"{listed}  Did you mean {{{near}}}?"
    if name == "seed":
        return f"{listed}  Give the step seeds: 3 to have it."
    owners = [other for other in study.steps if name in step_axes(study, other)]
    if owners and owners[0] in needed_steps(study.steps[step]):
        said = f'"{name}" is an axis of "{owners[0]}", whose tasks this step gets all at once'
        return f"{listed}  {said}: with for_each: {owners[0]} it would run for each of them."
    if owners:
        return f'{listed}  "{name}" is an axis of step "{owners[0]}" only.'
    return f"{listed}  For the text {{{name}}} itself, write {{{{{name}}}}}."


def _amounts(study: Study, step: str, where: _Path, template: Template, values: Axes) -> Iterator[StudyError]:
    """Values of axes that make no amount in the resources."""
    names = list(dict.fromkeys(reference.name for reference in template.names))
    field = str(where[0])
    for combination in itertools.islice(itertools.product(*(values[name] for name in names)), _MOST_COMBINATIONS):
        chosen = dict(zip(names, combination, strict=True))
        try:
            Resources.model_validate({field: _filled(template, chosen)})
        except ValidationError as error:
            context = error.errors(include_url=False)[0].get("ctx", {})
            said = ", ".join(f"{name} is {show(value)}" for name, value in chosen.items())
            message = f'"{field}" of the resources of step "{step}" {context.get("message", "is wrong")}, where {said}'
            yield study.error(("steps", step, "resources", *where), message, hint=context.get("hint"))
            return


def _filled(template: Template, values: Mapping[str, Value]) -> object:
    if len(template.parts) == 1 and isinstance(reference := template.parts[0], Reference):
        value = values[reference.name]
        return value_text(value) if value is None or isinstance(value, bool) else value
    return template.render(values, shell=False)
