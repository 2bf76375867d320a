"""A table of results as a value: its cells, and what they rest on."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shoal.results.data import show_value

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NO_GOAL", "Best", "Cell", "Key", "Table", "axis_values", "digits_for", "names_of"]

Key = tuple[str, ...]

NO_GOAL = "No ranks: it is not said whether more or less of this metric is better."


@dataclass(frozen=True, slots=True)
class Best:
    """Choose the values of some axes by a metric, cell by cell, before looking at the table's own."""

    over: tuple[str, ...]
    by: str
    goal: str = "max"


@dataclass(slots=True)
class Cell:
    """One number of a table.

    Attributes:
        mean: mean over the cell's values, None when there is none yet.
        sd: sample standard deviation; None for fewer than two values.
        n: how many values it rests on; ``expected``: how many the plan has for it.
        rank: 1 for the best of its column (equal values share a rank); None without a goal or value.
        tasks: ids of the tasks it stands for, ``picked``: the axis values that ``best`` chose.
        states: how many of its tasks are in which state.
    """

    mean: float | None
    sd: float | None
    n: int
    expected: int
    tasks: tuple[str, ...]
    values: tuple[float, ...] = ()
    rank: int | None = None
    picked: dict[str, Any] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)

    @property
    def is_best(self) -> bool:
        """Whether no other cell of its column is better."""
        return self.rank == 1


@dataclass(slots=True, repr=False)
class Table:
    """A finished table; :func:`shoal.results.formats.render_table` writes it.

    Attributes:
        rows, columns: axes; ``row_keys``, ``column_keys``: their values (for people: ``row_labels`` ...),
            best row first.
        cells: by (row key, column key); a combination that is not in the plan is absent.
        row_rank: mean rank of a row over the columns, None unless it has a value in each.
        row_hours: GPU-hours (``hours_of`` says "GPU-h", else hours of "run time") spent on this row alone.
        notes: sentences that belong under the table.
        digits: decimals that make the numbers of a column comparable.
    """

    title: str
    value: str
    goal: str | None
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    over: tuple[str, ...]
    where: dict[str, Any]
    best: Best | None
    groups: dict[str, dict[str, Any]]
    row_keys: list[Key]
    column_keys: list[Key]
    row_labels: dict[Key, tuple[str, ...]]
    column_labels: dict[Key, tuple[str, ...]]
    cells: dict[tuple[Key, Key], Cell]
    row_rank: dict[Key, float | None] = field(default_factory=dict)
    row_hours: dict[Key, float] = field(default_factory=dict)
    hours_of: str = "GPU-h"
    notes: list[str] = field(default_factory=list)
    digits: dict[Key, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = f"{len(self.row_keys)} x {len(self.column_keys)}"
        return f"<table {self.caption}: {size}; .frame() has its cells>"

    def frame(self) -> pd.DataFrame:
        """Return one row a cell: the axes of its row and column, then ``mean``, ``sd`` (sample standard deviation), ``n`` and
        ``expected`` (values it rests on, and planned) and ``rank`` in its column; an axis with the name of one of these is
        called ``params.NAME``.
        """
        import pandas as pd

        numbers = ("mean", "sd", "n", "expected", "rank")
        axes = [f"params.{axis}" if axis in numbers else axis for axis in (*self.rows, *self.columns)]
        cells = [(row, column, self.cells.get((row, column))) for row in self.row_keys for column in self.column_keys]
        return pd.DataFrame(
            [
                [*axis_values(axes, (*row, *column)).values(), *(getattr(cell, name) for name in numbers)]
                for row, column, cell in cells
                if cell is not None
            ],
            columns=[*axes, *numbers],
        )

    @property
    def caption(self) -> str:
        """What the numbers are: ``test/iou, mean ± sd over seed``."""
        text = self.value
        over = [*self.over, *(f"each group of {axis}" for axis in self.groups)]
        if over:
            text += f", mean ± sd over {', '.join(over)}"
        if self.best:
            text += f", {', '.join(self.best.over)} chosen by {self.best.by}"
        if self.where:
            text += ", where " + " and ".join(f"{k} = {show_value(v)}" for k, v in self.where.items())
        return text


def axis_values(axes: Iterable[str], key: Key) -> dict[str, Any]:
    """Return axis to value of a row's or column's key; None where its tasks do not have the axis."""
    return {axis: json.loads(one) if one else None for axis, one in zip(axes, key, strict=True)}


def names_of(value: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return axis names given as one string, several or none, as a tuple without repeats."""
    if value is None:
        return ()
    return tuple(dict.fromkeys([value] if isinstance(value, str) else value))


def digits_for(numbers: Iterable[float]) -> int:
    """Return the decimals that give the largest of these numbers three or more significant digits."""
    top = max((abs(x) for x in numbers), default=0.0)
    return 3 if top == 0 else min(8, max(0, 2 - math.floor(math.log10(top))))
