"""Tables across tasks: rows x columns of one metric, with mean and spread over axes that were named.

Nothing is averaged silently. An axis that varies inside a cell must be in ``rows``, ``columns``, ``over``,
``where`` or ``best``; otherwise the table is refused with the axis's name.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from shoal.results.data import STATES, Objective, StudyData, Task, json_key, show_value
from shoal.results.errors import ResultError, did_you_mean
from shoal.results.metrics import MetricRef, find_metric, metric_names, metric_value
from shoal.results.tables import NO_GOAL, Best, Cell, Key, Table, digits_for, names_of
from shoal.results.versions import mixed_code

__all__ = ["build_table"]


def build_table(
    data: StudyData,
    *,
    rows: str | Sequence[str],
    columns: str | Sequence[str] | None = None,
    value: str | Sequence[str] | None = None,
    over: str | Sequence[str] | None = None,
    where: Mapping[str, Any] | None = None,
    best: Best | Mapping[str, Any] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    title: str = "",
    goal: str | None = None,
) -> Table:
    """Build a table of one metric over the tasks of the step that reports it.

    Args:
        data: the study.
        rows, columns: axes whose values are the rows and columns.
        value: metric, see :mod:`shoal.results.metrics`; the study's objective when absent. Several
            metrics stand side by side, as the first level of the columns.
        over: axes to take mean and standard deviation over.
        where: axis to the value (or list of values) to keep.
        best: ``{"over": axes, "by": metric, "goal": "max" | "min"}``: for each cell, the values of these
            axes for which ``by`` is best (on the mean over ``over``) are chosen, and only their tasks are
            shown. Without ``by`` it is the shown metric, and a note says so.
        groups: axis to name of a group to the values in it: the group stands for them in rows and columns, with mean
            and standard deviation over them. Values in no group stand for themselves.
        title: heading.
        goal: ``max`` or ``min``, for ranks; the objective's when the value is the objective, else none.

    Raises:
        ResultError: unknown names, nothing left, or an axis that varies inside a cell and was not named.
    """
    objective = data.objective
    values_asked = names_of(value)
    if len(values_asked) > 1:
        made = [
            build_table(
                data, rows=rows, columns=columns, value=one, over=over, where=where, best=best, groups=groups, goal=goal
            )
            for one in values_asked
        ]
        return _side_by_side(made, title)
    value = values_asked[0] if values_asked else None
    if value is None:
        if objective is None:
            raise ResultError(
                "the table says no value, and the study names no objective",
                hint="Add value: STEP/METRIC to the table, or report: {objective: {metric: STEP/METRIC, goal: max}}.",
            )
        value = objective.metric
    known = metric_names(data)
    ref = find_metric(data, value, known)
    if goal is None and objective is not None:
        same = find_metric(data, objective.metric, known)
        goal = objective.goal if (same.step, same.name) == (ref.step, ref.name) else None
    chosen = _best_of(best, value, objective)
    row_axes, column_axes, over_axes = names_of(rows), names_of(columns), names_of(over)
    _check_names(data, ref.step, row_axes, column_axes, over_axes, where or {}, chosen)
    tasks = _keep(data.of_step(ref.step), where or {}, ref.step)
    values = {task.id: metric_value(data, task, ref) for task in tasks}

    params = _grouped(tasks, groups or {}, (*row_axes, *column_axes))
    cells_of: dict[tuple[Key, Key], list[Task]] = {}
    row_labels: dict[Key, tuple[str, ...]] = {}
    column_labels: dict[Key, tuple[str, ...]] = {}
    for task in tasks:
        point = params[task.id]
        row, column = _key(point, row_axes), _key(point, column_axes)
        row_labels.setdefault(row, _labels(point, row_axes))
        column_labels.setdefault(column, _labels(point, column_axes))
        cells_of.setdefault((row, column), []).append(task)

    by = find_metric(data, chosen.by, known) if chosen else None
    _refuse_unnamed(cells_of.values(), {*row_axes, *column_axes, *over_axes, *(chosen.over if chosen else ())}, ref)
    cells: dict[tuple[Key, Key], Cell] = {}
    odd = 0
    for place, group in cells_of.items():
        picked: dict[str, Any] = {}
        numbers: list[float | None] = []
        if chosen and by:
            # Without any value to choose by, the cell stays empty rather than mixing what was to be chosen from.
            kept, picked = _choose(data, group, chosen, by)
            group = kept or group
            numbers = [values[t.id] for t in kept]
        else:
            numbers = [values[t.id] for t in group]
        finite = tuple(v for v in numbers if v is not None and math.isfinite(v))
        odd += sum(v is not None and not math.isfinite(v) for v in numbers)
        fates = Counter(map(data.fate, group))
        cells[place] = Cell(
            mean=statistics.fmean(finite) if finite else None,
            sd=statistics.stdev(finite) if len(finite) > 1 else None,
            n=len(finite),
            expected=len(group),
            tasks=tuple(t.id for t in group),
            values=finite,
            picked=picked,
            states={state: fates[state] for state in STATES if fates[state]},
        )
    table = Table(
        title=title,
        value=value,
        goal=goal,
        rows=row_axes,
        columns=column_axes,
        over=over_axes,
        where=dict(where or {}),
        best=chosen,
        groups={axis: dict(named) for axis, named in (groups or {}).items()},
        row_keys=list(row_labels),
        column_keys=list(column_labels),
        row_labels=row_labels,
        column_labels=column_labels,
        cells=cells,
    )
    digits = digits_for(c.mean for c in cells.values() if c.mean is not None)
    table.digits = dict.fromkeys(column_labels, digits)
    _rank(table)
    _hours(data, table)
    circular = by is not None and (by.step, by.name) == (ref.step, ref.name)
    _notes(data, table, tasks, values, odd, circular)
    return table


def _side_by_side(tables: list[Table], title: str) -> Table:
    """Join tables of several metrics: the metric becomes the first level of the columns."""
    first = tables[0]
    joined = replace(
        first,
        title=title,
        value=", ".join(t.value for t in tables),
        columns=("metric", *first.columns),
        column_keys=[],
        column_labels={},
        cells={},
        digits={},
        notes=[],
    )
    for table in tables:
        for row in table.row_keys:
            if row not in joined.row_labels:
                joined.row_keys.append(row)
                joined.row_labels[row] = table.row_labels[row]
                joined.row_rank[row] = None
                joined.row_hours[row] = table.row_hours[row]
        for column in table.column_keys:
            key = (json_key(table.value), *column)
            joined.column_keys.append(key)
            joined.column_labels[key] = (table.value, *table.column_labels[column])
            joined.digits[key] = table.digits[column]
        joined.cells |= {(row, (json_key(table.value), *column)): cell for (row, column), cell in table.cells.items()}
        joined.notes += [note for note in table.notes if note not in joined.notes]
    ranked = next((t for t in tables if t.goal is not None), first)
    order = {row: i for i, row in enumerate(ranked.row_keys)}
    joined.goal, joined.row_rank = ranked.goal, {r: ranked.row_rank.get(r) for r in joined.row_keys}
    joined.row_keys.sort(key=lambda row: order.get(row, len(order)))
    if any(t.goal is not None for t in tables):
        silent = [t.value for t in tables if t.goal is None]
        joined.notes = [n for n in joined.notes if n != NO_GOAL]
        if silent:
            joined.notes.append(f"Ranks are by {ranked.value}.")
    return joined


def _best_of(best: Best | Mapping[str, Any] | None, value: str, objective: Objective | None) -> Best | None:
    if best is None or isinstance(best, Best):
        return best
    over = names_of(best.get("over"))
    if not over:
        raise ResultError("best says no axes to choose over", hint="Write best: {over: [lr], by: val/iou, goal: max}.")
    by = str(best.get("by") or value)
    goal = best.get("goal")
    if goal is None and objective is not None and by.split("/")[-1] == objective.metric.split("/")[-1]:
        goal = objective.goal
    if goal not in ("max", "min"):
        raise ResultError(
            f"best: it is not said whether more or less of {by!r} is better",
            hint="Add goal: max or goal: min to best.",
        )
    return Best(over, by, goal)


def _check_names(
    data: StudyData,
    step: str,
    rows: Key,
    columns: Key,
    over: Key,
    where: Mapping[str, Any],
    best: Best | None,
) -> None:
    axes = list(dict.fromkeys(name for task in data.of_step(step) for name in task.params))
    parts = {
        "rows": rows,
        "columns": columns,
        "over": over,
        "where": tuple(where),
        "best": best.over if best else (),
    }
    used: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name not in axes:
                raise ResultError(
                    f"{part}: step {step!r} has no axis {name!r}",
                    hint=did_you_mean(name, axes, f"axes of {step}"),
                )
            if part != "where":
                if name in used:
                    raise ResultError(f"axis {name!r} is in both {used[name]} and {part}", hint="Name it once.")
                used[name] = part


def _keep(tasks: list[Task], where: Mapping[str, Any], step: str) -> list[Task]:
    kept = tasks
    for axis, wanted in where.items():
        options = wanted if isinstance(wanted, list | tuple | set) else [wanted]
        # A list may be one value of the axis as well as several values to keep; text is what a command line gives.
        keys = {json_key(o) for o in options} | {json_key(wanted if not isinstance(wanted, set) else list(wanted))}
        texts = {o for o in options if isinstance(o, str)}
        for text in texts:
            with contextlib.suppress(ValueError):
                keys.add(json_key(float(text)))
        before = kept
        kept = [
            t
            for t in before
            if axis in t.params and (json_key(t.params[axis]) in keys or show_value(t.params[axis]) in texts)
        ]
        if before and not kept:
            there = dict.fromkeys(show_value(t.params[axis]) for t in before if axis in t.params)
            raise ResultError(
                f"where: no task of {step} is left with {axis} = {show_value(wanted)}",
                hint=f"Values of {axis} here: {', '.join(there) or 'none'}.",
            )
    return kept


def _key(params: Mapping[str, Any], axes: Key) -> Key:
    return tuple(json_key(params[a]) if a in params else "" for a in axes)


def _labels(params: Mapping[str, Any], axes: Key) -> tuple[str, ...]:
    return tuple(show_value(params[a]) if a in params else "–" for a in axes)


def _grouped(tasks: list[Task], groups: Mapping[str, Mapping[str, Any]], axes: Key) -> dict[str, Mapping[str, Any]]:
    """Return the parameters of each task, with the name of a group in place of the values in it."""
    names: dict[tuple[str, str], str] = {}
    for axis, named in groups.items():
        if axis not in axes:
            raise ResultError(f"groups: {axis!r} is neither in rows nor in columns", hint="Name it in one of them.")
        for name, members in named.items():
            for member in members if isinstance(members, list | tuple) else [members]:
                names[axis, json_key(member)] = name
    return {
        task.id: {a: names.get((a, json_key(v)), v) if a in groups else v for a, v in task.params.items()}
        for task in tasks
    }


def _refuse_unnamed(groups: Iterable[list[Task]], named: set[str], ref: MetricRef) -> None:
    unnamed: dict[str, dict[str, None]] = {}
    for group in groups:
        for axis in dict.fromkeys(name for task in group for name in task.params if name not in named):
            found = dict.fromkeys(show_value(t.params[axis]) if axis in t.params else "–" for t in group)
            if len(found) > 1:
                unnamed.setdefault(axis, {}).update(found)
    if not unnamed:
        return
    axis, found = next(iter(unnamed.items()))
    values = ", ".join(list(found)[:6]) + (", …" if len(found) > 6 else "")
    others = f" (and over {', '.join(list(unnamed)[1:])})" if len(unnamed) > 1 else ""
    raise ResultError(
        f"this table would average {ref.label} over {axis!r} ({values}){others}, which it does not name",
        hint=f"Name it: rows or columns: {axis} to show it; over: {axis} to average; "
        f"where: {{{axis}: {next(iter(found))}}} to keep one; "
        f"best: {{over: {axis}, by: a validation metric}} to choose one.",
    )


def _choose(data: StudyData, group: list[Task], best: Best, by: MetricRef) -> tuple[list[Task], dict[str, Any]]:
    options: dict[Key, list[Task]] = {}
    for task in group:
        options.setdefault(_key(task.params, best.over), []).append(task)
    scores: dict[Key, float] = {}
    for key, tasks in options.items():
        found = [v for t in tasks if (v := metric_value(data, t, by)) is not None and math.isfinite(v)]
        if found:
            scores[key] = statistics.fmean(found)
    if not scores:
        return [], {}
    top = (max if best.goal == "max" else min)(scores, key=lambda key: scores[key])
    first = options[top][0]
    return options[top], {a: first.params.get(a) for a in best.over}


def _rank(table: Table) -> None:
    if table.goal is not None:
        for column in table.column_keys:
            cells = [cell for row in table.row_keys if (cell := table.cells.get((row, column))) is not None]
            means = sorted((c.mean for c in cells if c.mean is not None), reverse=table.goal == "max")
            places: dict[float, int] = {}
            for place, mean in enumerate(means, 1):
                places.setdefault(mean, place)  # equal ones share the first of their places
            for cell in cells:
                cell.rank = None if cell.mean is None else places[cell.mean]
    for row in table.row_keys:
        ranks = [c.rank if (c := table.cells.get((row, column))) else None for column in table.column_keys]
        table.row_rank[row] = (
            statistics.fmean(r for r in ranks if r is not None) if ranks and None not in ranks else None
        )
    if table.goal is not None:

        def order(row: Key) -> tuple[bool, float]:
            rank = table.row_rank[row]
            known = [c.rank for k in table.column_keys if (c := table.cells.get((row, k))) and c.rank is not None]
            return not known, rank if rank is not None else statistics.fmean(known or [0]) + 0.5

        table.row_keys.sort(key=order)


def _hours(data: StudyData, table: Table) -> None:
    serves: dict[str, set[Key]] = {}
    for (row, _), cell in table.cells.items():
        for key in cell.tasks:
            serves.setdefault(key, set()).add(row)
            for above in data.ancestors(data.tasks[key]):
                serves.setdefault(above, set()).add(row)
    gpu = dict.fromkeys(table.row_keys, 0.0)
    run = dict.fromkeys(table.row_keys, 0.0)
    for key, rows in serves.items():
        # What several rows share (chips made once for all) is nobody's cost alone.
        if len(rows) == 1:
            (row,) = rows
            gpu[row] += data.tasks[key].gpu_hours
            run[row] += data.tasks[key].run_hours
    table.hours_of = "GPU-h" if any(gpu.values()) else "run time"
    table.row_hours = gpu if any(gpu.values()) else run


def _notes(
    data: StudyData,
    table: Table,
    tasks: list[Task],
    values: dict[str, float | None],
    odd: int,
    circular: bool,
) -> None:
    missing = [t for t in tasks if values[t.id] is None]
    if missing:
        # One sentence for the whole table, in the reader's word: a trial.
        fates = [data.fate(t) for t in missing]
        counts = {s: fates.count(s) for s in STATES}
        silent = counts.pop("done")
        parts = [f"{c:,} {s}" for s, c in counts.items() if c]
        if silent:
            parts.append(f"{silent} done but without {table.value}")
        verb = f"{'trial' if len(tasks) == 1 else 'trials'} {'is' if len(missing) == 1 else 'are'}"
        short = any(0 < c.n < c.expected for c in table.cells.values())
        end = ": cells that rest on fewer values carry their n." if short else "."
        table.notes.append(f"{len(missing):,} of {len(tasks):,} {verb} missing ({', '.join(parts)}){end}")
    if odd:
        table.notes.append(f"{odd} {'value' if odd == 1 else 'values'} of NaN or infinity left out.")
    if circular:
        table.notes.append(f"Chosen by {table.value} itself: the numbers shown are optimistic.")
    table.notes += mixed_code(data, (task for task in tasks if values[task.id] is not None))
    if table.goal is None:
        table.notes.append(NO_GOAL)
