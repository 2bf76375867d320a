"""The table, for a terminal and for RESULTS.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from measure import Part

HEAD = """# Measured

Written by `make bench`; do not edit. Times are wall-clock where no other is named; a cell is the median, with the least and
the greatest value in brackets. Ratios are taken within each round, then their median: what disturbs the machine for a while
disturbs both sides. Each part says when and on what machine it was measured.
"""
_PART = re.compile(r"^## \(([a-z])\) ", re.MULTILINE)


def markdown(
    parts: Mapping[str, Part], facts: Mapping[str, str], before: str = "", failed: Collection[str] = ()
) -> str:
    """The text of RESULTS.md.

    Args:
        parts: what was measured now, by letter.
        facts: the machine and the command.
        before: the text that is there; its parts that were not measured now stay as they are.
        failed: the letters of parts that could not be measured: what is there of them stays too.
    """
    kept = _parts_of(before)
    parts = {letter: part for letter, part in parts.items() if letter not in failed or letter not in kept}
    aims = {letter: rows for letter, (rows, _) in kept.items()} | {
        letter: _aims(part) for letter, part in parts.items()
    }
    sections = {letter: section for letter, (_, section) in kept.items()}
    sections |= {letter: _section(letter, part, facts) for letter, part in parts.items()}
    rows = [row for letter in sorted(aims) for row in aims[letter]]
    head = [HEAD, "## Aims\n", _lines([["part", "aim", "reached", ""], *rows]), ""]
    return "\n".join([*head, "\n\n".join(sections[letter] for letter in sorted(sections))]) + "\n"


def _section(letter: str, part: Part, facts: Mapping[str, str]) -> str:
    blocks = [f"## ({letter}) {part.title}\n"]
    if part.rows:
        columns = list(dict.fromkeys(name for row in part.rows for name in row.cells))
        blocks.append(_lines([["", *columns], *([row.what, *_cells(row.cells, columns)] for row in part.rows)]))
        blocks.append("")
    told = "; ".join(f"{name}: {value}" for name, value in facts.items() if name != "command")
    return "\n".join([*blocks, *(f"* {note}" for note in part.notes), f"* `{facts['command']}`, {told}"])


def _parts_of(text: str) -> dict[str, tuple[list[list[str]], str]]:
    """Of each part of a text as it is written here: its rows of the table of aims, and its section."""
    found = list(_PART.finditer(text))
    ends = [*(match.start() for match in found[1:]), len(text)] if found else []
    table = text[: found[0].start()] if found else ""
    rows = [re.split(r" ?\| ?", line.strip("| ")) for line in table.splitlines() if line.startswith("| (")]
    return {
        match[1]: ([row for row in rows if row[0] == f"({match[1]})"], text[match.start() : end].strip())
        for match, end in zip(found, ends, strict=True)
    }


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


def _aims(part: Part) -> list[list[str]]:
    return [[f"({aim.part})", aim.text, aim.reached, "met" if aim.met else "**missed**"] for aim in part.aims]


def _cells(cells: Mapping[str, str], columns: list[str]) -> list[str]:
    return [cells.get(name, "") for name in columns]


def _lines(rows: list[list[str]]) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])
