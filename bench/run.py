"""Measures Shoal against floors and neighbours, prints one table and writes it to bench/RESULTS.md.

    python bench/run.py [--quick] [--only a,b,c,d,e,f,g,h,i] [--rounds N] [--peer-tasks N] [--write FILE] [--update]

Parts: (a) planning, (b) tasks that do nothing, (c) start of the command line, (d) the training loop, (e) detection data, (f)
detectors in the training loop, (g) satellite scenes, (h) a cluster, (i) the paper's mix on one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cluster
import cluster_mix
import detection
import machine
import planning
import scenes
import startup
import table
import tasks
import trained
from measure import BENCH, BenchError, Part

RESULTS = BENCH / "RESULTS.md"
PARTS = ("a", "b", "c", "d", "e", "f", "g", "h", "i")


def main() -> int:
    """Measure what is asked for; exit with 1 if something could not be measured (not if an aim was missed)."""
    options = _options()
    before = machine.load()
    begin = time.perf_counter()
    found: dict[str, Part] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        for letter, measure in _parts(options, Path(name)).items():
            print(f"({letter}) ...", file=sys.stderr, flush=True)
            try:
                found[letter] = measure()
            except Exception as error:
                # One part that fails is told, and does not cost the minutes of the others.
                why = str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
                print(f"({letter}) was not measured: {why}", file=sys.stderr, flush=True)
                failed.append(letter)
                found[letter] = Part("Not measured", notes=[f"Not measured: {why}"])
    facts = machine.facts(before, machine.load(), time.perf_counter() - begin)
    print(table.text(found, facts))
    if options.write:
        results = Path(options.write)
        there = results.read_text() if options.update and results.exists() else ""
        results.write_text(table.markdown(found, facts, there, failed=failed))
        print(f"Written to {Path(options.write).name}.")
    if options.json:
        figures = {letter: part.figures for letter, part in found.items()}
        Path(options.json).write_text(json.dumps(figures, indent=1))
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does the bench work?")
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure, for example a,c")
    parser.add_argument("--rounds", type=int, help="rounds of every part [default: 3, of part c 15]")
    parser.add_argument("--sizes", help="tasks of the two plans of part a [default: 10000,100000]")
    parser.add_argument("--tasks", type=int, help="no-op tasks of part b [default: 500]")
    parser.add_argument("--peer-tasks", type=int, help="no-op tasks of the slow peers; 0: none [default: 500]")
    parser.add_argument("--cluster-tasks", type=int, help="no-op tasks of part h [default: 1000]")
    parser.add_argument("--cluster-cases", help=f"cases of part h [default: {','.join(cluster.CASES)}]")
    parser.add_argument(
        "--write", help="file for the results [default: bench/RESULTS.md if all parts are measured in full]"
    )
    parser.add_argument(
        "--update", action="store_true", help="leave the parts of that file that are not measured as they are"
    )
    parser.add_argument("--json", help="file for the raw figures")
    options = parser.parse_args()
    letters = [letter.strip() for letter in options.only.split(",") if letter.strip()]
    if unknown := [letter for letter in letters if letter not in PARTS]:
        parser.error(f"--only: there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    options.only = letters
    if options.write is None and not options.quick and set(letters) == set(PARTS) and not options.cluster_cases:
        options.write = str(RESULTS)
    if options.update and options.write is None:
        options.write = str(RESULTS)
    quick = options.quick
    options.sizes = [int(n) for n in (options.sizes or ("1000,10000" if quick else "10000,100000")).split(",")]
    if len(options.sizes) != 2 or options.sizes[0] >= options.sizes[1]:
        parser.error("--sizes: two numbers, the smaller one first")
    options.tasks = options.tasks or (20 if quick else 500)
    options.cases = (options.cluster_cases or ",".join(cluster.CASES)).split(",")
    if unknown := [name for name in options.cases if name not in cluster.CASES]:
        parser.error(f"--cluster-cases: there is no {unknown[0]!r}; cases are {', '.join(cluster.CASES)}")
    options.cluster_tasks = options.cluster_tasks or (40 if quick else 1000)
    if options.peer_tasks is None:
        options.peer_tasks = 10 if quick else 500
    return options


def _parts(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Part]]:
    rounds = options.rounds or (1 if options.quick else 3)
    starts = options.rounds or (2 if options.quick else 15)
    small, large = options.sizes
    every: dict[str, Callable[[], Part]] = {
        "a": lambda: planning.measure(folder, (small, large), rounds),
        "b": lambda: tasks.measure(folder, options.tasks, options.peer_tasks, rounds),
        "c": lambda: startup.measure(folder, starts),
        "d": lambda: trained.measure(folder, options.quick),
        "e": lambda: detection.measure_data(folder, options.quick),
        "f": lambda: detection.measure_training(folder, options.quick),
        "g": lambda: scenes.measure(folder, options.quick),
        "h": lambda: cluster.measure(
            folder,
            options.cluster_tasks,
            0 if options.quick else 10 * options.cluster_tasks,
            options.rounds or 1,
            20 if options.quick else 200,
            options.cases,
        ),
        "i": lambda: (
            cluster_mix.measure(folder, (16,), (0.05,), 12)
            if options.quick
            else cluster_mix.measure(folder, (64, 1300), (1.0, 1.25))
        ),
    }
    return {letter: measure for letter, measure in every.items() if letter in options.only}


if __name__ == "__main__":
    sys.exit(main())
