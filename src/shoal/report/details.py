"""Curves and tables that tasks left beside their metrics: ``out/curves.json`` and ``out/tables.json``, see files.md.

The page knows nothing of what they mean. What a file holds beyond the limits, or is not as described, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.results.data import Task, finite
from shoal.store.index import read_json

__all__ = ["Details", "collect_details"]

#: Numbers and texts a page may hold, and the most of one file: charts, lines, points, rows, columns, letters of a text.
BUDGET = 60_000
CHARTS, LINES, POINTS, ROWS, COLUMNS, LETTERS = 6, 16, 200, 200, 16, 80
_LARGEST = 4_000_000


@dataclass
class Details:
    """By position of a trial: ``curves``, a list of ``{"title", "x", "y", "lines": [[name, xs, ys], ...]}``, and ``tables``, one
    of ``{"title", "columns", "rows", "more"}``; ``first`` is the trial to show before one is chosen.
    """

    trials: dict[int, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    first: int | None = None


def collect_details(data: StudyData, trials: Trials, also: list[int]) -> Details:
    """Read what the best, the worst and the most wanted trials left, as far as the page has room.

    Args:
        data: the study.
        trials: its trials.
        also: trials to take right after the best, most wanted first.
    """
    ranked = trials.ranked() or [i for i, state in enumerate(trials.states) if state == "done"]
    found = Details()
    room = BUDGET
    for i in dict.fromkeys([*ranked[:1], *also, *ranked[-1:], *ranked]):
        made = _read(data, trials.tasks[i])
        if not made:
            continue
        room -= _size(made)
        if room < 0 and found.trials:
            break
        found.trials[i] = made
        found.first = i if found.first is None else found.first
    return found


def _read(data: StudyData, task: Task) -> dict[str, list[dict[str, Any]]]:
    curves: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    for related in data.one_to_one(task):
        if related.state == "done":
            curves += [
                c for title, one in _entries(related.folder / "out" / "curves.json") if (c := _curve(title, one))
            ]
            tables += [
                t for title, one in _entries(related.folder / "out" / "tables.json") if (t := _table(title, one))
            ]
    return {"curves": curves[:CHARTS], "tables": tables[:CHARTS]} if curves or tables else {}


def _entries(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        if path.stat().st_size > _LARGEST:
            return []
    except OSError:
        return []
    content = read_json(path)
    found = content.items() if isinstance(content, dict) else ()
    return [(_text(title), one) for title, one in found if isinstance(one, dict)]


def _curve(title: str, one: dict[str, Any]) -> dict[str, Any] | None:
    given = one.get("lines")
    lines = []
    for name, points in list(given.items())[:LINES] if isinstance(given, dict) else ():
        pairs = [p for p in points if _is_point(p)] if isinstance(points, list) else []
        if len(pairs) > POINTS:
            pairs = [pairs[round(n * (len(pairs) - 1) / (POINTS - 1))] for n in range(POINTS)]
        if pairs:
            lines.append([_text(name), [_short(p[0]) for p in pairs], [_short(p[1]) for p in pairs]])
    return (
        {"title": title, "x": _text(one.get("x", "")), "y": _text(one.get("y", "")), "lines": lines} if lines else None
    )


def _table(title: str, one: dict[str, Any]) -> dict[str, Any] | None:
    columns, rows = one.get("columns"), one.get("rows")
    if not isinstance(columns, list) or not isinstance(rows, list) or not columns:
        return None
    heads = [_text(head) for head in columns[:COLUMNS]]
    whole = [row for row in rows if isinstance(row, list) and len(row) == len(columns)]
    shown = [[_cell(value) for value in row[:COLUMNS]] for row in whole[:ROWS]]
    return {"title": title, "columns": heads, "rows": shown, "more": len(whole) - len(shown)} if shown else None


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(finite(value) is not None for value in point)


def _cell(value: Any) -> float | str | None:
    if finite(value) is not None:
        return _short(value)
    return None if value is None or isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LETTERS else text[: LETTERS - 1] + "…"


def _short(value: float) -> float:
    return value if isinstance(value, int) and abs(value) < 1e15 else float(f"{value:.5g}")


def _size(made: dict[str, list[dict[str, Any]]]) -> int:
    points = sum(2 * len(xs) for curve in made["curves"] for _, xs, _ in curve["lines"])
    return points + sum(len(table["rows"]) * len(table["columns"]) for table in made["tables"])
