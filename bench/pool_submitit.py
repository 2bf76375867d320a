"""submitit's LocalExecutor: ``pool_submitit.py TASKS PARALLEL FOLDER`` runs a function that does nothing, so many times.

Its local executor has no bound on what runs at once (all jobs of an array start together), so the bound is kept here, by
looking at the two live jobs every 5 ms. A job of submitit's is a Python process that calls a function: the function
returns at once and starts nothing more, which is less than the others' tasks do.
"""

from __future__ import annotations

import sys
import time

import submitit


def noop(number: int) -> int:
    return number


def main(tasks: int, parallel: int, folder: str) -> None:
    executor = submitit.LocalExecutor(folder=folder)
    live: list[submitit.Job[int]] = []
    done = []
    for number in range(tasks):
        live.append(executor.submit(noop, number))
        while len(live) >= (parallel if number < tasks - 1 else 1):
            time.sleep(0.005)
            ended = [job for job in live if job.done()]
            done += [job.result() for job in ended]
            live = [job for job in live if job not in ended]
    assert sorted(done) == list(range(tasks))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
