"""How what is found is printed: a console, JSON, and numbers in words."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from shoal.units import format_size

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.plan import Resources


def console() -> Console:
    """A rich console; plain text when not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def print_json(data: Any) -> None:
    """Print JSON on standard output."""
    import json

    typer.echo(json.dumps(data, ensure_ascii=False, indent=None if len(str(data)) > 20_000 else 1))


def gpu_words(found: Mapping[str, int]) -> str:
    """GPUs by type in words, the most first: ``24 a100, 8 l40``."""
    return ", ".join(f"{count} {name}" for name, count in sorted(found.items(), key=lambda one: (-one[1], one[0])))


def duration(seconds: float) -> str:
    """A length of time for people: ``48 s``, ``3 min``, ``2 h 11 min``, ``3 d 4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def count_tasks(count: int) -> str:
    """So many tasks: ``1 task``, ``1,200 tasks``."""
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"


def asks(resources: Resources) -> str:
    """What a task asks for, in a few words: ``2 gpu 4 cpu 24Gi``."""
    words = []
    if resources.gpu:
        words.append(f"{resources.gpu} gpu")
    words.append(f"{resources.cpu:g} cpu")
    if resources.memory:
        words.append(format_size(resources.memory))
    if resources.nodes > 1:
        words.append(f"x {resources.nodes} nodes")
    return " ".join(words)
