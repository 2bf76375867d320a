"""A run as a person watches it: one line a step, redrawn a few times a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.cli.words import duration, gpu_words
from shoal.runner.progress import Phase, Progress, StepProgress

if TYPE_CHECKING:
    from shoal.runner import Runner

_WIDTH = 24
_WORDS = {
    Phase.DONE: ("done", "green"),
    Phase.RUNNING: ("running", "cyan"),
    Phase.QUEUED: ("queued", "blue"),
    Phase.READY: ("ready", "default"),
    Phase.WAITING: ("waiting", "dim"),
    Phase.GATE: ("for a person", "yellow"),
    Phase.FAILED: ("failed", "red"),
    Phase.CANCELLED: ("cancelled", "yellow"),
    Phase.BLOCKED: ("blocked", "yellow"),
    Phase.HALTED: ("stopped", "red"),
}
_MODES = {
    "draining": "starting nothing more; Ctrl-C again stops what runs",
    "stopping": "stopping what runs; Ctrl-C again kills it",
}


@contextlib.contextmanager
def watch(runner: Runner) -> Iterator[None]:
    """Draw the runner's progress on standard error while the block runs."""
    console = Console(stderr=True, highlight=False)
    view = _View(runner.progress)
    with Live(view, console=console, refresh_per_second=4, transient=False):
        yield


class _View:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich__(self) -> RenderableType:
        return draw(self._progress)


def draw(progress: Progress) -> RenderableType:
    """One picture of a run."""
    head = Text()
    head.append(progress.study, style="bold")
    head.append(f"  run {progress.run} on {progress.executor}   {duration(progress.elapsed)}")
    remaining = progress.remaining()
    if remaining and progress.mode == "running":
        end = time.strftime("%H:%M", time.localtime(time.time() + remaining))
        head.append(f"   ETA {end} (~{duration(remaining)})", style="dim")
    if progress.mode in _MODES:
        head.append(f"   {_MODES[progress.mode]}", style="yellow")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")  # where the terminal is narrow, names are broken, counts never
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for step in progress.steps.values():
        table.add_row(Text(f"  {step.name}", style="cyan"), bar(step), counts(step))
    parts: list[RenderableType] = [head, table]
    if progress.gpus:
        parts.append(Text(f"  GPUs in use: {gpu_words(progress.gpus)}"))
    if progress.best is not None:
        metric, value, label = progress.best
        parts.append(Text(f"  best {metric} {value:.4g}   {label}"))
    parts += [Text(f"  ! {problem}", style="red") for problem in progress.grouped_problems()[-3:]]
    return Group(*parts)


def bar(step: StepProgress) -> Text:
    """How much of a step is done, running and failed."""
    total = max(1, step.total)
    ended = sum(step.counts[phase] for phase in (Phase.FAILED, Phase.CANCELLED, Phase.BLOCKED, Phase.HALTED))
    done = round(_WIDTH * step.counts[Phase.DONE] / total)
    failed = min(_WIDTH - done, -(-_WIDTH * ended // total))
    running = min(_WIDTH - done - failed, -(-_WIDTH * step.counts[Phase.RUNNING] // total))
    text = Text()
    text.append("█" * done, style="green")
    text.append("▒" * running, style="cyan")
    text.append("×" * failed, style="red")
    text.append("░" * (_WIDTH - done - running - failed), style="dim")
    return text


def counts(step: StepProgress) -> Text:
    """Counts of a step's tasks in words."""
    text = Text()
    for phase, (word, style) in _WORDS.items():
        if step.counts[phase]:
            text.append(" · " if text else "").append(f"{step.counts[phase]} {word}", style=style)
    return text
