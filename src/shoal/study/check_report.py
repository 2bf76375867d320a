"""The report's tables and objective: every axis they name must be one, and every cell must have a value to show."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.errors import StudyError
from shoal.study.axes import step_axes
from shoal.study.problems import Problems, did_you_mean, quoted
from shoal.study.schema import Scatter, Study, Table
from shoal.study.template import Value
from shoal.study.values import same_value, show, value_key

__all__ = ["check_report"]


def check_report(study: Study, problems: Problems) -> None:
    """Add what is wrong with the report. Metrics are known only when tasks have run, and are not checked."""
    axes: dict[str, dict[object, Value]] = {}
    for step in study.steps:
        for name, values in step_axes(study, step).items():
            axes.setdefault(name, {}).update({value_key(value): value for value in values})
    for place, table in enumerate(study.report.tables):
        for error in (*_table(study, place, table, axes), *_groups(study, place, table, axes)):
            problems.add(error)
    for place, chart in enumerate(study.report.scatter):
        for error in _scatter(study, place, chart, axes):
            problems.add(error)


def _table(study: Study, place: int, table: Table, axes: dict[str, dict[object, Value]]) -> Iterator[StudyError]:
    path = ("report", "tables", place)
    said = f"table {place + 1}"
    named: list[tuple[tuple[str | int, ...], str]] = [
        ((key, number), axis)
        for key, names in (("rows", table.rows), ("columns", table.columns), ("over", table.over))
        for number, axis in enumerate(names)
    ]
    if table.best is not None:
        named += [(("best", "over", number), axis) for number, axis in enumerate(table.best.over)]
    roles: dict[str, str] = {}
    for where, axis in named:
        role = str(where[0])
        if axis not in axes:
            hint = did_you_mean(axis, axes, "Axes of this study") or "No step of this study has an axis."
            yield study.error(
                (*path, *where), f'{said} names "{axis}" in {role}, which is no axis of any step', hint=hint
            )
        elif (other := roles.setdefault(axis, role)) != role:
            hint = "An axis makes rows, or columns, or is averaged over, or is chosen from."
            yield study.error((*path, *where), f'{said} names "{axis}" in {other} and in {role}', hint=hint)
    for axis, value in table.where.items():
        if axis not in axes:
            hint = did_you_mean(axis, axes, "Axes of this study") or "No step of this study has an axis."
            yield study.error(
                (*path, "where", axis), f'{said} chooses by "{axis}", which is no axis', hint=hint, key=True
            )
        elif not study.changed and not any(_chosen(value, one) for one in axes[axis].values()):
            hint = f"Values of {axis}: {quoted([show(one) for one in axes[axis].values()], 20)}."
            yield study.error(
                (*path, "where", axis), f"{said} would be empty: {axis} is never {show(value)}", hint=hint
            )
    objective = study.report.objective
    if table.value is None and objective is None:
        hint = "Give the table a value: METRIC, or the report an objective."
        yield study.error(path, f"{said} does not say which metric it shows", hint=hint)
    if table.best is not None and table.best.goal is None:
        metric = table.best.by or table.value
        if objective is None or (metric is not None and metric != objective.metric):
            hint = "Add goal: max, or goal: min."
            yield study.error(
                (*path, "best"), f'"best" of {said} does not say whether more of the metric is better', hint=hint
            )
    if not table.rows and not table.columns:
        yield study.error(path, f'{said} has neither "rows" nor "columns"', hint="Name an axis: rows: model")


def _chosen(wanted: Value, value: Value) -> bool:
    """Whether a table's ``where`` keeps a value: the one it names, or one of its list."""
    return same_value(wanted, value) or (isinstance(wanted, list) and any(same_value(one, value) for one in wanted))


def _groups(study: Study, place: int, table: Table, axes: dict[str, dict[object, Value]]) -> Iterator[StudyError]:
    path = ("report", "tables", place, "groups")
    said = f"table {place + 1}"
    for axis, named in table.groups.items():
        if axis not in (*table.rows, *table.columns):
            hint = did_you_mean(axis, [*table.rows, *table.columns], "Its rows and columns")
            yield study.error(
                (*path, axis), f'{said} groups "{axis}", which makes neither its rows nor its columns', hint=hint
            )
            continue
        if not isinstance(named, dict) or not all(isinstance(members, list) and members for members in named.values()):
            hint = "Write the groups as names with lists of values: {first: [a, b], second: [c]}."
            yield study.error((*path, axis), f"{said}: the groups of {axis} are no lists of values by name", hint=hint)
            continue
        seen: dict[object, str] = {}
        for name, members in named.items():
            for member in members:
                known = axes.get(axis, {})
                if not study.changed and not any(same_value(member, one) for one in known.values()):
                    hint = f"Values of {axis}: {quoted([show(one) for one in known.values()], 20)}."
                    yield study.error((*path, axis, name), f"{said}: {axis} is never {show(member)}", hint=hint)
                if (other := seen.setdefault(value_key(member), name)) != name:
                    yield study.error(
                        (*path, axis, name), f"{said}: {show(member)} is in the groups {other} and {name}"
                    )


def _scatter(study: Study, place: int, chart: Scatter, axes: dict[str, dict[object, Value]]) -> Iterator[StudyError]:
    path = ("report", "scatter", place)
    said = f"chart {place + 1}"
    for key, axis in (("colour", chart.colour), ("label", chart.label)):
        if axis is not None and axis not in axes:
            hint = did_you_mean(axis, axes, "Axes of this study") or "No step of this study has an axis."
            yield study.error((*path, key), f'{said} names "{axis}" in {key}, which is no axis of any step', hint=hint)
    if chart.y is None and study.report.objective is None:
        yield study.error(
            path, f"{said} does not say which metric it shows", hint="Give it y: METRIC, or the report an objective."
        )
    for number, name in enumerate(chart.log):
        if name not in ("x", "y"):
            yield study.error((*path, "log", number), f'{said}: log is x, y or both, not "{name}"')
