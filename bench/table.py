"""The table, for a terminal and for RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping

from measure import Part

HEAD = """# Measured

Written by `make bench`; do not edit. Times are wall-clock where no other is named; a cell is the median, with the least and
the greatest value in brackets. Ratios are taken within each round, then their median: what disturbs the machine for a while
disturbs both sides.
"""


def markdown(parts: Mapping[str, Part], facts: Mapping[str, str]) -> str:
    """The text of RESULTS.md."""
    blocks = [HEAD, "\n".join(f"* {name}: {value}" for name, value in facts.items()), "\n## Aims\n", _aims(parts)]
    for letter, part in parts.items():
        blocks.append(f"\n## ({letter}) {part.title}\n")
        if part.rows:
            columns = list(dict.fromkeys(name for row in part.rows for name in row.cells))
            blocks.append(_lines([["", *columns], *([row.what, *_cells(row.cells, columns)] for row in part.rows)]))
            blocks.append("")
        blocks += [f"* {note}" for note in part.notes]
    return "\n".join(blocks) + "\n"


def text(parts: Mapping[str, Part], facts: Mapping[str, str]) -> str:
    """All parts side by side: one line for each thing measured."""
    lines: list[list[str]] = []
    reasons: list[str] = []
    for letter, part in parts.items():
        for row in part.rows:
            cells = "   ".join(f"{name} {value}" for name, value in row.cells.items() if value)
            lines.append([f"({letter})", row.what, cells])
        if not part.rows:
            lines.append([f"({letter})", "not measured", ""])
            reasons += part.notes
    width = max(len(line[1]) for line in lines)
    told = [f"{mark:4}{what:{width}}  {cells}".rstrip() for mark, what, cells in lines]
    aims = [
        f"({aim.part}) {'met   ' if aim.met else 'missed'}  {aim.text}: {aim.reached}"
        for part in parts.values()
        for aim in part.aims
    ]
    return "\n".join([f"{facts['CPU']}, {facts['memory']}, Python {facts['Python']}", "", *told, "", *aims, *reasons])


def _aims(parts: Mapping[str, Part]) -> str:
    rows = [["part", "aim", "reached", ""]]
    for part in parts.values():
        rows += [[f"({aim.part})", aim.text, aim.reached, "met" if aim.met else "**missed**"] for aim in part.aims]
    return _lines(rows)


def _cells(cells: Mapping[str, str], columns: list[str]) -> list[str]:
    return [cells.get(name, "") for name in columns]


def _lines(rows: list[list[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])
