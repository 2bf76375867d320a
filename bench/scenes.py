"""(g) satellite scenes: runs ``bench/scene_data.py``, which can also be run by itself."""

from __future__ import annotations

import json
from pathlib import Path

from measure import BENCH, PYTHON, Aim, Part, Row, command

AIM = 0.8


def measure(folder: Path, quick: bool) -> Part:
    """Chips, labels, windows over HTTP and maps, as a process of its own."""
    answer = folder / "scene-data.json"
    few = ["--side", "1536", "--map-side", "512", "--turns", "1"] if quick else []
    command([PYTHON, BENCH / "scene_data.py", "--json", answer, *few], cwd=BENCH.parent, timeout=1800)
    found = json.loads(answer.read_text())
    chips, scaling, labels, remote, maps = (found[key] for key in ("chips", "scaling", "labels", "remote", "maps"))
    side = f"{found['side']} px, 4 bands"
    low, high = chips["spread"]
    part = Part("Satellite scenes", figures=found)
    part.rows = [
        Row("g", f"floor: decoding alone, {side}", {"MB/s": f"{chips['decode_mb_per_second']}"}),
        Row(
            "g",
            f"chips of 256, {side}",
            {
                "MB/s": f"{chips['mb_per_second']}",
                "chips/s": f"{chips['chips_per_second']}",
                "x floor": f"{chips['ratio']:.3f} ({low:.3f}..{high:.3f})",
                "x floor, CPU": f"{chips['cpu_ratio']:.3f}",
            },
        ),
        Row(
            "g",
            f"peer: one warp a chip and band (the paper's way), {chips['paper_chips']} chips",
            {"chips/s": f"{chips['paper_chips_per_second']}"},
        ),
        Row(
            "g",
            "one process, a scene",
            {"chips/s": f"{scaling['chips_per_second_one']}", "peak MiB": f"{scaling['peak_mib']}"},
        ),
        Row(
            "g",
            f"{scaling['processes']} processes, a scene each",
            {
                "chips/s": f"{scaling['chips_per_second']}",
                "x floor": f"{scaling['ratio']:.3f}",
                "x one process": f"{scaling['times_one']}",
            },
        ),
        Row("g", f"floor: {labels['polygons']} polygons burnt for each chip, tree", {"s": f"{labels['per_chip_s']}"}),
        Row("g", f"{labels['polygons']} polygons burnt once", {"s": f"{labels['per_scene_s']}"}),
        Row(
            "g",
            f"{remote['windows']} windows of 256 x 256 x 4 over HTTP",
            {
                "MB fetched": f"{remote['fetched_mb']}",
                "MB of the blocks touched": f"{remote['blocks_mb']}",
                "MB of pixels": f"{remote['pixels_mb']}",
            },
        ),
    ]
    names = {
        "pipeline": "map, a threshold as model",
        "pipeline_small": "map, a threshold as model",
        "network": "map, unet resnet18 on the CPU",
    }
    for key, name in names.items():
        own = maps[key]
        cells = {"scenes/h": f"{own['scenes_per_hour']}", "peak MiB": f"{own['peak_mib']}"}
        part.rows.append(Row("g", f"{name}, {own['side']} px", cells))
    part.aims = [
        Aim(
            "g",
            f"chips of scenes at least {AIM} as fast as decoding them",
            f"{chips['ratio']:.3f} ({low:.3f}..{high:.3f})",
            chips["ratio"] >= AIM,
        )
    ]
    part.notes = [
        "A generated scene: deflated GeoTIFFs of 512-pixel tiles, a file a band. Chips get labels, a judgement of hidden pixels "
        "and statistics, and are written to disk and flushed; decoding alone writes nothing. GDAL decodes a dataset in one "
        "thread on all sides. One process decodes while it writes, so the ratio needs a second core that is free; *x floor, CPU* "
        "is of CPU time and needs none. Several processes are set beside as many that decode the same scene at the same time, "
        "and are limited by the cores: one alone uses more than one.",
        "The peer opens every band for every chip, warps it to the chip's grid and writes the stack as a GeoTIFF. Labels burnt "
        f"once and for each chip differ in {labels['pixels_that_differ']} pixels.",
        f"Maps: scenes of {found['side']} x {found['side']} pixels an hour, from smaller ones by their area.",
    ]
    return part
