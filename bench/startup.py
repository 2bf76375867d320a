"""(c) What a person waits for: ``shoal --help`` and ``shoal plan`` of a 234-task study, as whole processes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import studies
from measure import PYTHON, SHOAL, Aim, Part, Row, command, interleave, ratios

AIMS = {"shoal --help": 0.2, "shoal plan": 0.5}
FLOORS = {
    "floor: python -c pass": [PYTHON, "-c", "pass"],
    "floor: python -c 'import typer, pydantic, yaml, rich'": [PYTHON, "-c", "import typer, pydantic, yaml, rich"],
}


def measure(folder: Path, rounds: int) -> Part:
    """Run each command ``rounds`` times, in turn."""
    study = folder / "paper.yaml"
    study.write_text(studies.paper())
    argvs: dict[str, list[str | Path]] = {
        **FLOORS,
        "shoal --help": [SHOAL, "--help"],
        "shoal plan": [SHOAL, "plan", study],
        "shoal plan --json": [SHOAL, "plan", "--json", study],
    }

    for argv in argvs.values():
        command(argv)  # so that the first round reads no more from the disk than the others
    found = interleave({name: partial(command, argv) for name, argv in argvs.items()}, rounds)
    part = Part("Start")
    floor = found[list(FLOORS)[1]]
    for name, timed in found.items():
        cells = {"total s": timed.wall.shown(3), "CPU s": timed.cpu.shown(3)}
        if name not in FLOORS:
            cells["x floor"] = ratios(timed.wall, floor.wall).shown(1)
        part.rows.append(Row("c", f"{name}{', 234 tasks' if ' plan' in name else ''}", cells))
    for name, aim in AIMS.items():
        timed = found[name]
        reached = f"{timed.wall.shown(3)} s (CPU {timed.cpu.median:.3f} s)"
        part.aims.append(Aim("c", f"`{name}` in under {aim:g} s", reached, timed.wall.median < aim))
    part.notes = [
        f"Whole processes, {rounds} of each in turn after one that is not counted, output to a pipe. The ratio is to importing "
        "the four libraries that the command line rests on. CPU time is user and system; on a busy machine it says more than "
        "wall-clock time does.",
    ]
    part.figures = {name: {"wall": timed.wall.values, "cpu": timed.cpu.values} for name, timed in found.items()}
    return part
