"""What a person who watches a run sees."""

from __future__ import annotations

from rich.console import Console

from shoal.cli.live import draw
from shoal.runner.progress import Phase, Problem, Progress, StepProgress


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


def test_failures_that_differ_in_numbers_alone_are_one_line_and_exit_codes_are_not_such_numbers() -> None:
    progress = Progress("pond")
    for number in range(1200):
        progress.problems.append(
            Problem("train", f"ValueError: loss was 0.{number} in /tmp/{number}/a.py", f"id{number}")
        )
    for code in (1, 2, 12, 1):
        progress.problems.append(Problem("train", f"The command ended with exit code {code}.", f"code{code}"))
    assert progress.grouped_problems() == [
        "1,200 tasks of train (id0, …): ValueError: loss was 0.0 in /tmp/0/a.py",
        "2 tasks of train (code1, …): The command ended with exit code 1.",
        "train code2: The command ended with exit code 2.",
        "train code12: The command ended with exit code 12.",
    ]
