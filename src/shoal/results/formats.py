"""Write one table in the form that a terminal, a program, a README or a paper wants."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from shoal.results.data import amount, show_hours
from shoal.results.errors import ResultError
from shoal.results.tables import Cell, Key, Table, axis_values

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

__all__ = [
    "FORMATS",
    "cell_text",
    "column_head",
    "escape_latex",
    "has_ranks",
    "hours_text",
    "narrow_table",
    "rank_text",
    "render_table",
    "table_json",
    "table_rich",
]

# Less of a name says nothing.
_NAME_WIDTH = 8

FORMATS = ("table", "csv", "json", "md", "latex")


def render_table(table: Table, format: str = "table", *, width: int = 120) -> str:
    """Return a table as text.

    Args:
        table: from :func:`shoal.results.build.build_table`.
        format: ``table`` (plain text), ``csv`` (one line a cell, full precision), ``json``, ``md``,
            ``latex`` (booktabs).
        width: columns of the terminal, for ``table``.

    Raises:
        ResultError: no such format.
    """
    if format == "table":
        return _plain(table, width)
    if format == "csv":
        return _csv(table)
    if format == "json":
        return json.dumps(table_json(table), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if format == "md":
        return _markdown(table)
    if format == "latex":
        return _latex(table)
    raise ResultError(f"unknown format {format!r}", hint=f"Formats: {', '.join(FORMATS)}.")


def cell_text(cell: Cell | None, digits: int) -> str:
    """Return a cell for people: ``0.742 ±0.003``, with ``n=2`` where values are still missing."""
    if cell is None:
        return ""
    if cell.mean is None:
        return "–"
    text = f"{cell.mean:.{digits}f}"
    if cell.sd is not None:
        text += f" ±{cell.sd:.{digits}f}"
    if cell.n < cell.expected:
        text += f" n={cell.n}"
    return text


def column_head(table: Table, column: Key) -> str:
    """Return the heading of a column: its axis values, or the metric when there are no column axes."""
    if not table.columns:
        return table.value
    labels = table.column_labels[column]
    return " · ".join(
        f"{axis}={label}" if _is_bare(label) else label for axis, label in zip(table.columns, labels, strict=True)
    )


def _is_bare(label: str) -> bool:
    """Whether a value says nothing without its axis: a number, or true, false and none."""
    try:
        float(label)
    except ValueError:
        return label in ("true", "false", "none")
    return True


def has_ranks(table: Table) -> bool:
    """Whether a column of ranks says something: there is a goal and more than one row."""
    return table.goal is not None and len(table.row_keys) > 1


def hours_text(table: Table, row: Key) -> str:
    """Return what a row cost, for people."""
    hours = table.row_hours[row]
    return amount(hours) if table.hours_of == "GPU-h" else show_hours(hours)


def rank_text(rank: float | None) -> str:
    """Return a rank, or mean rank, for people."""
    return "–" if rank is None else f"{rank:g}" if rank == int(rank) else f"{rank:.1f}"


def table_json(table: Table) -> dict[str, Any]:
    """Return the table for programs: each cell with mean, sd, n, expected, rank, best and ids of tasks."""
    cells: list[dict[str, Any]] = []
    for row in table.row_keys:
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            if cell is not None:
                cells.append(
                    {
                        "row": axis_values(table.rows, row),
                        "column": axis_values(table.columns, column),
                        "mean": cell.mean,
                        "sd": cell.sd,
                        "n": cell.n,
                        "expected": cell.expected,
                        "rank": cell.rank,
                        "best": cell.is_best,
                        "picked": cell.picked,
                        "states": cell.states,
                        "tasks": list(cell.tasks),
                    }
                )
    return {
        "title": table.title,
        "value": table.value,
        "goal": table.goal,
        "rows": list(table.rows),
        "columns": list(table.columns),
        "over": list(table.over),
        "where": table.where,
        "best": None
        if table.best is None
        else {"over": list(table.best.over), "by": table.best.by, "goal": table.best.goal},
        "cells": cells,
        "row_hours": [
            {"row": axis_values(table.rows, r), "of": table.hours_of, "hours": h} for r, h in table.row_hours.items()
        ],
        "notes": table.notes,
    }


def table_rich(table: Table) -> Group:
    """Return heading, table and notes for a rich console: best in bold."""
    from rich.console import Group
    from rich.text import Text

    heads = [column_head(table, column) for column in table.column_keys]
    heads += [*(["rank"] if has_ranks(table) else []), table.hours_of]
    lines = []
    for row in table.row_keys:
        line = [Text(label) for label in table.row_labels[row]]
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            line.append(Text(cell_text(cell, table.digits[column]), style="bold" if cell and cell.is_best else ""))
        if has_ranks(table):
            line.append(Text(rank_text(table.row_rank[row])))
        line.append(Text(hours_text(table, row)))
        lines.append(line)
    rich = narrow_table([*table.rows], heads, lines)
    notes = [Text(note, style="dim") for note in table.notes]
    return Group(Text(_heading(table), style="bold"), rich, *notes)


def narrow_table(names: list[str], numbers: list[str], lines: list[list[Text]]) -> RichTable:
    """Return a table for a rich console. Where that is narrow, names and heads are broken, and numbers stay whole.

    Args:
        names: heads of the columns of names, at the left.
        numbers: heads of the columns of numbers.
        lines: the cells of each line, names first.
    """
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rich = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, head in enumerate([*names, *numbers]):
        longest = max((line[place].cell_len for line in lines), default=0)
        if place < len(names):
            rich.add_column(Text(head), overflow="fold", min_width=min(longest, _NAME_WIDTH))
        else:
            rich.add_column(Text(head), justify="right", overflow="fold", min_width=longest)
    for line in lines:
        rich.add_row(*line)
    return rich


def _heading(table: Table) -> str:
    return f"{table.title}: {table.caption}" if table.title else table.caption


def _plain(table: Table, width: int) -> str:
    from rich.console import Console
    from rich.measure import Measurement

    out = io.StringIO()
    drawn = table_rich(table)
    console = Console(file=out, width=10_000, color_system=None, force_terminal=False, legacy_windows=False)
    # A file has no edge: what is wider than the width is not cut.
    console.width = max(width, *(Measurement.get(console, console.options, part).maximum for part in drawn.renderables))
    console.print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n") + "\n"


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = [*table.rows, *table.columns]
    fixed = ["value", "mean", "sd", "n", "expected", "rank"]
    writer.writerow([*(f"params.{a}" if a in fixed else a for a in axes), *fixed])
    for row in table.row_keys:
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            if cell is not None:
                labels = [*table.row_labels[row], *table.column_labels[column]]
                numbers = ["" if v is None else repr(v) for v in (cell.mean, cell.sd)]
                writer.writerow([*labels, table.value, *numbers, cell.n, cell.expected, cell.rank or ""])
    return out.getvalue()


def _markdown(table: Table) -> str:
    ranks = has_ranks(table)
    head = [*table.rows, *(column_head(table, c) for c in table.column_keys)]
    head += (["rank"] if ranks else []) + [table.hours_of]
    rule = ["---"] * len(table.rows) + ["---:"] * (len(head) - len(table.rows))
    lines = [_md_row(map(_escape_md, head)), _md_row(rule)]
    for row in table.row_keys:
        parts = [_escape_md(label) for label in table.row_labels[row]]
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            text = cell_text(cell, table.digits[column])
            parts.append(f"**{text}**" if cell and cell.is_best else text)
        if ranks:
            parts.append(rank_text(table.row_rank[row]))
        lines.append(_md_row([*parts, hours_text(table, row)]))
    notes = [_escape_md(note) for note in table.notes]
    return "\n".join([_escape_md(_heading(table)), "", *lines, *([""] if notes else []), *notes]) + "\n"


def _md_row(parts: Any) -> str:
    return "| " + " | ".join(parts) + " |"


def _escape_md(text: str) -> str:
    text = " ".join(text.split())
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, "\\" + mark)
    return text


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "–": "--",
    "…": r"\ldots{}",
}


def escape_latex(text: str) -> str:
    """Return text with every character that LaTeX would act on made harmless."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _latex(table: Table) -> str:
    ranks = has_ranks(table)
    columns = len(table.column_keys)
    spec = "l" * len(table.rows) + "r" * (columns + ranks)
    head = [*map(escape_latex, table.rows), *(escape_latex(column_head(table, c)) for c in table.column_keys)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"  \centering",
        rf"  \caption{{{escape_latex(_heading(table))}}}",
        rf"  \begin{{tabular}}{{{spec}}}",
        r"    \toprule",
        "    " + " & ".join(head + (["rank"] if ranks else [])) + r" \\",
        r"    \midrule",
    ]
    for row in table.row_keys:
        parts = [escape_latex(label) for label in table.row_labels[row]]
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            text = _latex_cell(cell, table.digits[column])
            parts.append(rf"\textbf{{{text}}}" if cell and cell.is_best else text)
        if ranks:
            parts.append(escape_latex(rank_text(table.row_rank[row])))
        lines.append("    " + " & ".join(parts) + r" \\")
    lines += [r"    \bottomrule", r"  \end{tabular}"]
    lines += [rf"  % {escape_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _latex_cell(cell: Cell | None, digits: int) -> str:
    if cell is None or cell.mean is None:
        return "--"
    text = f"{cell.mean:.{digits}f}"
    if cell.sd is not None:
        text += rf" {{\footnotesize$\pm${cell.sd:.{digits}f}}}"
    if cell.n < cell.expected:
        text += rf" {{\footnotesize($n={cell.n}$)}}"
    return text
