"""(b) Tasks that do nothing: what ``shoal run`` adds to each, against a bare pool, submitit and Snakemake."""

from __future__ import annotations

import itertools
import json
import shlex
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import peers
import studies
from measure import BENCH, PYTHON, SHOAL, Aim, BenchError, Part, Row, Spread, Timed, Took, command, interleave, ratios

PARALLEL = 2
AIM_RATIO = 1.5
_numbers = itertools.count()


def measure(folder: Path, tasks: int, peer_tasks: int, rounds: int) -> Part:
    """Run everything once a round.

    Args:
        folder: for studies and stores; each run has a fresh one.
        tasks: of the pool and Shoal.
        peer_tasks: of submitit and Snakemake; 0 leaves them out.
        rounds: how often.
    """
    part = Part("Tasks that do nothing")
    kinds = {"python -c pass": [PYTHON, "-c", "pass"], "true": [shutil.which("true") or "/bin/true"]}
    cases: dict[str, Callable[[], Took]] = {}
    for kind, argv in kinds.items():
        cases[f"pool, {kind}"] = partial(_pool, argv, tasks)
        cases[f"Shoal, {kind}"] = partial(_shoal, folder, argv, tasks)
    installed: dict[str, str] = {}
    if peer_tasks:
        try:
            interpreter = peers.python()
        except BenchError as error:
            part.notes.append(f"Without submitit and Snakemake: {error}")
        else:
            installed = peers.versions(interpreter)
            cases["submitit"] = partial(_submitit, folder, interpreter, peer_tasks)
            cases["Snakemake"] = partial(_snakemake, folder, interpreter, kinds["python -c pass"], peer_tasks)
    _shoal(folder, kinds["true"], 2)  # so that the first round reads no more from the disk than the others
    found = interleave(cases, rounds)
    _tell(part, found, tasks, peer_tasks, installed)
    return part


def _tell(part: Part, found: dict[str, Timed], tasks: int, peer_tasks: int, installed: dict[str, str]) -> None:
    for name, timed in found.items():
        tool, _, kind = name.partition(", ")
        count = tasks if kind else peer_tasks
        floor = found[f"pool, {kind or 'python -c pass'}"]
        wall, cpu = _each(timed.wall, count), _each(timed.cpu, count)
        cells = {"total s": timed.wall.shown(2), "ms a task": wall.shown(1), "CPU ms a task": cpu.shown(1)}
        if tool != "pool":
            wall_ratio = ratios(wall, _each(floor.wall, tasks))
            cpu_ratio = ratios(cpu, _each(floor.cpu, tasks))
            cells |= {"x pool": wall_ratio.shown(2), "x pool, CPU": cpu_ratio.shown(2)}
            if name == "Shoal, python -c pass":
                text = f"{tasks} no-op tasks within {AIM_RATIO:g} x of the bare pool"
                reached = f"x {wall_ratio.shown(2)} (CPU x {cpu_ratio.shown(2)})"
                part.aims.append(Aim("b", text, reached, wall_ratio.median <= AIM_RATIO))
        label = {"pool": "floor: bare pool"}.get(tool, tool)
        if tool.lower() in installed:
            label += f" {installed[tool.lower()]}"
        part.rows.append(Row("b", f"{label}, {count} x {kind or 'python no-op'}", cells))
        part.figures[name] = {"tasks": count, "wall": timed.wall.values, "cpu": timed.cpu.values}
    part.notes += [
        f"Whole commands, from the start of the process to its exit, {PARALLEL} tasks at a time, a fresh folder each time, "
        "everything once a round and round after round; ratios are those of each round (of time per task), then their median.",
        "*bare pool*: `ProcessPoolExecutor(2)` whose workers call `subprocess.run` with the argument list that Shoal starts too. "
        "*Shoal*: `shoal run -j 2`, local executor; each task gets an agent, a process group, a log, "
        "a digest of its outputs, and a result (one that took less than a second to make is not waited for on the disk).",
        "Where other work runs beside, it slows both sides by chance: the range of *x pool* shows how much. *x pool, CPU*, of "
        "the CPU time (user and system) of all processes, is the steadier figure.",
        "`python -c pass` is the least that a task of the field can be; `true` is no real task and shows the bare cost in "
        "milliseconds. *submitit*: `LocalExecutor`, a function that returns at once (its job is a Python process already); it "
        "has no bound on parallel jobs, so a loop keeps two alive, looking every 5 ms. *Snakemake*: `--cores 2`, one rule "
        "with a wildcard, `shell: python -c pass N`, and a `touch()` output, without which it has nothing to go by.",
    ]
    if peer_tasks and peer_tasks != tasks:
        part.notes.append(
            f"Peers ran {peer_tasks} tasks instead of {tasks}, to save time, so their own start (seconds for Snakemake) weighs "
            f"more in each task than it would in {tasks}: `--peer-tasks {tasks}` for the long way."
        )


def _each(spread: Spread, tasks: int) -> Spread:
    return Spread(tuple(1000 * seconds / tasks for seconds in spread.values))


def _fresh(folder: Path, name: str) -> Path:
    made = folder / f"{name}-{next(_numbers)}"
    made.mkdir(parents=True)
    return made


def _pool(argv: list[str], tasks: int) -> Took:
    return command([PYTHON, BENCH / "pool_bare.py", str(tasks), str(PARALLEL), *argv])


def _shoal(folder: Path, argv: list[str], tasks: int) -> Took:
    here = _fresh(folder, "shoal")
    study = here / "noop.yaml"
    study.write_text(studies.noop(argv, tasks))
    room = {"SHOAL_CPUS": str(PARALLEL)}  # two slots, however many cores there are
    took = command([SHOAL, "run", study, "--store", here / "runs", "-j", str(PARALLEL)], cwd=here, env=room)
    done = list((here / "runs" / "noop" / "noop").glob("*/result.json"))
    if len(done) != tasks or not all(json.loads(path.read_text())["attempt"] == 1 for path in done):
        raise BenchError(f"Shoal did {len(done)} of {tasks} tasks")
    return took


def _submitit(folder: Path, interpreter: Path, tasks: int) -> Took:
    here = _fresh(folder, "submitit")
    return command([interpreter, BENCH / "pool_submitit.py", str(tasks), str(PARALLEL), here / "jobs"], cwd=here)


def _snakemake(folder: Path, interpreter: Path, argv: list[str], tasks: int) -> Took:
    here = _fresh(folder, "snakemake")
    (here / "Snakefile").write_text(
        f"rule all:\n    input: expand('out/{{i}}', i=range({tasks}))\n\n"
        f"rule noop:\n    output: touch('out/{{i}}')\n    shell: {f'{shlex.join(argv)} {{wildcards.i}}'!r}\n"
    )
    path = interpreter.parent / "snakemake"
    took = command([path, "--cores", str(PARALLEL), "--quiet", "all"], cwd=here)
    made = sum(1 for _ in (here / "out").iterdir())
    if made != tasks:
        raise BenchError(f"Snakemake did {made} of {tasks} tasks")
    return took
