"""(d) The common training loop against a bare one: runs ``bench/training.py``, which can also be run by itself."""

from __future__ import annotations

import json
from pathlib import Path

from measure import BENCH, PYTHON, Aim, BenchError, Part, Row, command


def measure(folder: Path, quick: bool) -> Part:
    """Run it as a process of its own: PyTorch takes hold of threads and memory."""
    answer = folder / "training.json"
    few = ["--turns", "2", "--steps", "1"] if quick else []
    command([PYTHON, BENCH / "training.py", "--json", answer, *few], cwd=BENCH.parent)
    found = json.loads(answer.read_text())
    try:
        low, high = found["quartiles"]
        ratio = f"{found['ratio']:.3f} (middle half {low:.3f}..{high:.3f})"
        part = Part("Training loop", figures=found)
        part.rows = [
            Row("d", f"floor: bare PyTorch loop, {found['model']}", {"images/s": f"{found['bare_images_per_second']}"}),
            Row(
                "d",
                f"shoal_earth.training, {found['model']}",
                {
                    "images/s": f"{found['loop_images_per_second']}",
                    "x floor": ratio,
                    "x floor, CPU": f"{found['cpu_time_ratio']:.3f}",
                },
            ),
        ]
        text = f"speed of the loop at least {found['aim']} of a bare loop"
        reached = f"{ratio}, of CPU time {found['cpu_time_ratio']:.3f}"
        part.aims = [Aim("d", text, reached, found["ratio"] >= found["aim"])]
        part.notes = [
            f"One process, one thread; the loops take turns of {found['steps_a_turn']} steps, {found['turns']} times; the ratio "
            "is the median over the turns (above 1, Shoal's is the faster one). Same chips, same model, same optimizer. For "
            "other models, a GPU, bf16: `python bench/training.py --help`.",
        ]
    except KeyError as error:
        raise BenchError(f"bench/training.py wrote no {error}") from error
    return part
