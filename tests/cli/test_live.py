"""What a person who watches a run sees."""

from __future__ import annotations

from rich.console import Console

from shoal.cli.live import draw
from shoal.runner.progress import Phase, Progress, StepProgress


def lines(progress: Progress, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(draw(progress))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_what_is_queued_is_told_from_what_runs_and_gpus_are_named_by_type() -> None:
    step = StepProgress("train")
    step.counts.update({Phase.DONE: 6, Phase.RUNNING: 3, Phase.QUEUED: 9, Phase.WAITING: 6})
    progress = Progress("pond", run=1, executor="kubernetes", steps={"train": step})
    progress.gpus = {"l40": 8, "a100": 24, "a10": 8}
    head, bar, gpus = lines(progress)
    assert head.startswith("pond  run 1 on kubernetes")
    assert bar == "  train  ██████▒▒▒░░░░░░░░░░░░░░░  6 done · 3 running · 9 queued · 6 waiting"
    assert gpus == "  GPUs in use: 24 a100, 8 a10, 8 l40"
    progress.gpus = {}
    assert len(lines(progress)) == 2
