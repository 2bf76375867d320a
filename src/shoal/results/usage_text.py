"""Usage as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.results.data import amount, show_hours
from shoal.results.formats import narrow_table
from shoal.units import format_size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table as RichTable

    from shoal.results.usage import Hours, Usage

__all__ = ["headline", "usage_rich", "waited"]

#: Share of the wait that has to go to inputs to be named: starting Python takes some too.
_WORTH_SAYING = 0.05


def headline(usage: Usage) -> str:
    """Return one sentence on what the study cost."""
    total = usage.total
    if not total.attempts:
        return "Nothing has run yet."
    what = f"{total.gpu:,.1f} GPU-hours" if total.gpu else f"{show_hours(total.run)} of run time"
    text = f"{what} in {show_hours(usage.wall)} of wall-clock"
    if usage.speedup and usage.speedup > 1.1:
        text += f"; one after another {show_hours(total.run)}, {usage.speedup:.1f} times as long"
    if total.wasted:
        lost = f"{total.gpu_wasted:,.1f} GPU-h" if total.gpu_wasted else show_hours(total.wasted)
        text += f"; {lost} wasted"
    if waits := waited(total):
        text += f"; {waits}"
    recovered = sum(usage.recovered.values())
    if recovered:
        text += f"; {recovered} {'loss' if recovered == 1 else 'losses'} of a machine recovered"
    return text + "."


def waited(total: Hours) -> str:
    """Return what tasks waited for, all together: empty where only a cluster could tell one from the other, and there is none."""
    if not total.pull:
        return ""
    whole = total.queue + total.pull + total.prepare
    parts = [
        f"{show_hours(total.queue)} for {'a GPU' if total.gpu else 'a place'}",
        f"{show_hours(total.pull)} for the image",
    ]
    if total.prepare > _WORTH_SAYING * whole:
        parts.append(f"{show_hours(total.prepare)} for inputs")
    return f"waited {show_hours(whole)}: {', '.join(parts)}"


def usage_rich(usage: Usage) -> RenderableType:
    """Return headline, one table a grouping, and advice."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(headline(usage)), Text("")]
    parts += [_Hours(name, groups) for name, groups in usage.by.items() if groups]
    parts += [Text(f"advice  {text}") for text in usage.advice]
    return Group(*parts)


class _Hours:
    """A table of groups; where the console is too narrow for all of its columns, several, one below the other."""

    def __init__(self, name: str, groups: list[Hours]) -> None:
        self._name, self._groups = name, groups

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.measure import Measurement

        def fits(columns: dict[str, list[str]]) -> bool:
            least = Measurement.get(console, options.update(width=10_000), self._table(columns)).minimum
            return least <= options.max_width

        time, held = _columns(self._groups)
        for columns in [{**time, **held}] if fits({**time, **held}) else [time, held]:
            part: dict[str, list[str]] = {}
            for head, cells in columns.items():
                if part and not fits({**part, head: cells}):
                    yield self._table(part)
                    part = {}
                part[head] = cells
            yield self._table(part)

    def _table(self, columns: dict[str, list[str]]) -> RichTable:
        from rich.text import Text

        lines = zip([group.name for group in self._groups], *columns.values(), strict=True)
        return narrow_table([f"by {self._name}"], list(columns), [[Text(cell) for cell in line] for line in lines])


def _columns(groups: list[Hours]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Head to cells: of tasks and their time, and of what they held and used."""
    time = {
        "tasks": [f"{g.tasks:,}" for g in groups],
        "attempts": [f"{g.attempts:,}" for g in groups],
        "queued": [show_hours(g.queue) for g in groups],
    }
    if any(g.pull for g in groups):
        time["image"] = [show_hours(g.pull) for g in groups]
    time |= {"run": [show_hours(g.run) for g in groups], "wasted": [show_hours(g.wasted) for g in groups]}
    held: dict[str, list[str]] = {}
    if any(g.gpu for g in groups):
        held["GPU-h"] = [amount(g.gpu) for g in groups]
        held["GPU use"] = ["" if g.gpu_use is None else f"{g.gpu_use:.0%}" for g in groups]
    held["CPU-h"] = [amount(g.cpu) for g in groups]
    held["memory"] = ["" if g.memory_peak is None else format_size(g.memory_peak) for g in groups]
    return time, held
