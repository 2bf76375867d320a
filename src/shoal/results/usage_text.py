"""Usage as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shoal.results.data import amount, duration
from shoal.results.formats import narrow_table
from shoal.units import format_size

if TYPE_CHECKING:
    from rich.console import RenderableType
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
    what = f"{total.gpu:,.1f} GPU-hours" if total.gpu else f"{duration(total.run)} of run time"
    text = f"{what} in {duration(usage.wall)} of wall-clock"
    if usage.speedup and usage.speedup > 1.1:
        text += f"; one after another {duration(total.run)}, {usage.speedup:.1f} times as long"
    if total.wasted:
        lost = f"{total.gpu_wasted:,.1f} GPU-h" if total.gpu_wasted else duration(total.wasted)
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
        f"{duration(total.queue)} for {'a GPU' if total.gpu else 'a place'}",
        f"{duration(total.pull)} for the image",
    ]
    if total.prepare > _WORTH_SAYING * whole:
        parts.append(f"{duration(total.prepare)} for inputs")
    return f"waited {duration(whole)}: {', '.join(parts)}"


def usage_rich(usage: Usage) -> RenderableType:
    """Return headline, one table a grouping, and advice."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(headline(usage)), Text("")]
    parts += [_table(name, groups) for name, groups in usage.by.items() if groups]
    parts += [Text(f"advice  {text}") for text in usage.advice]
    return Group(*parts)


def _table(name: str, groups: list[Hours]) -> RichTable:
    from rich.text import Text

    gpu, pull = any(g.gpu for g in groups), any(g.pull for g in groups)
    heads = [
        "tasks",
        "attempts",
        "queued",
        *(["image"] if pull else []),
        "run",
        "wasted",
        *(["GPU-h", "GPU use"] if gpu else []),
        "CPU-h",
        "memory",
    ]
    lines = []
    for g in groups:
        cells = [f"{g.tasks:,}", f"{g.attempts:,}", duration(g.queue)]
        cells += [duration(g.pull)] if pull else []
        cells += [duration(g.run), duration(g.wasted)]
        if gpu:
            cells += [amount(g.gpu), "" if g.gpu_use is None else f"{g.gpu_use:.0%}"]
        cells += [amount(g.cpu), "" if g.memory_peak is None else format_size(g.memory_peak)]
        lines.append([Text(cell) for cell in (g.name, *cells)])
    return narrow_table([f"by {name}"], heads, lines)
