"""(d) The common training loop against a bare one: runs ``bench/training.py``, which can also be run by itself."""

from __future__ import annotations

import json
from pathlib import Path

from measure import BENCH, PYTHON, Aim, Part, Row, Spread, command


def measure(folder: Path, quick: bool) -> Part:
    """Run it as a process of its own: PyTorch takes hold of threads and memory."""
    answer = folder / "training.json"
    few = ["--turns", "1", "--steps", "4"] if quick else []
    command([PYTHON, BENCH / "training.py", "--json", answer, *few], cwd=BENCH.parent)
    found = json.loads(answer.read_text())
    ratio = Spread(tuple(found["ratios"]))
    part = Part("Training loop")
    part.rows = [
        Row("d", f"floor: bare PyTorch loop, {found['model']}", {"images/s": f"{found['bare_images_per_second']}"}),
        Row(
            "d",
            f"shoal_earth.training, {found['model']}",
            {"images/s": f"{found['loop_images_per_second']}", "x floor": ratio.shown(3)},
        ),
    ]
    text = f"speed of the loop at least {found['aim']} of a bare loop"
    part.aims = [Aim("d", text, ratio.shown(3), ratio.median >= found["aim"])]
    part.notes = [
        f"One process, one thread, {len(ratio.values)} turns of {found['steps']} steps each, who goes first alternates; "
        "same chips, same model, same optimizer. More of it (other models, GPU, bf16): `python bench/training.py --help`."
    ]
    part.figures = found
    return part
