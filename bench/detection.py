"""(e) detection data and (f) detectors in training: runs ``bench/detection_data.py`` and ``bench/detector_training.py``."""

from __future__ import annotations

import json
from pathlib import Path

from measure import BENCH, PYTHON, Aim, Part, Row, command

AIM = 0.8


def measure_data(folder: Path, quick: bool) -> Part:
    """Chips against decoding alone, random reads, evaluation against pycocotools; as a process of its own."""
    answer = folder / "detection-data.json"
    few = ["--images", "2", "--side", "1024", "--turns", "2", "--scored", "100"] if quick else []
    command([PYTHON, BENCH / "detection_data.py", "--json", answer, *few], cwd=BENCH.parent)
    found = json.loads(answer.read_text())
    part = Part("Detection data", figures=found)
    for suffix in ("png", "tif"):
        own = found[suffix]
        what = f"{suffix.upper()}, {found['images']} of {found['side']} px"
        part.rows.append(
            Row("e", f"floor: decoding alone, {what}", {"MB/s of source": f"{own['decode_mb_per_second']}"})
        )
        for name in ("plain", "overlapping"):
            low, high = own[name]["spread"]
            cells = {
                "MB/s of source": f"{own[name]['mb_per_second']}",
                "chips/s": f"{own[name]['chips_per_second']}",
                "x floor": f"{own[name]['ratio']:.3f} ({low:.3f}..{high:.3f})",
                "x floor, CPU": f"{own[name]['cpu_time_ratio']:.3f}",
                "random read": f"{own['random_read_ms']} ms",
            }
            part.rows.append(Row("e", f"shoal-earth detection prepare, {what}, {name}", cells))
        reached = f"{own['plain']['ratio']:.3f}"
        part.aims.append(
            Aim(
                "e",
                f"chips of {suffix.upper()}s at least {AIM} as fast as decoding them",
                reached,
                own["plain"]["ratio"] >= AIM,
            )
        )
    scored = found["evaluation"]
    low, high = scored["spread"]
    what = f"{scored['images']:,} images, {scored['predictions']:,} predictions"
    part.rows += [
        Row("e", f"peer: pycocotools, {what}", {"total s": f"{scored['pycocotools_seconds']}"}),
        Row(
            "e",
            f"shoal-earth detection evaluate, {what}",
            {"total s": f"{scored['seconds']}", "x peer": f"{1 / scored['times_faster']:.2f}"},
        ),
    ]
    part.notes = [
        "*plain*: chips of 512 pixels without overlap, so that each pixel is written once as it is decoded once; *overlapping*: "
        "by an eighth, where more is written than read. *prepare* does all of its work: labels read and checked, chips cut and "
        "written, index, findings. Both decode in one thread; *prepare* cuts and writes in another meanwhile. "
        "Random reads find the page cache emptied.",
        f"Evaluation is {scored['times_faster']} times as fast as pycocotools ({low}..{high}), with F1 over all thresholds on "
        "top, and the same AP.",
    ]
    return part


def measure_training(folder: Path, quick: bool) -> Part:
    """Each detector in the common loop against a bare loop; as a process of its own."""
    answer = folder / "detector-training.json"
    few = ["--turns", "1", "--steps", "1", "--models", "fcos,yolov3"] if quick else []
    command([PYTHON, BENCH / "detector_training.py", "--json", answer, *few], cwd=BENCH.parent)
    found = json.loads(answer.read_text())
    part = Part("Detectors in training", figures=found)
    for name, own in found["models"].items():
        low, high = own["spread"]
        cells = {
            "loop, images/s": f"{own['loop_images_per_second']}",
            "bare, images/s": f"{own['bare_images_per_second']}",
            "ratio": f"{own['ratio']:.3f} ({low:.3f}..{high:.3f})",
            "ratio of CPU time": f"{own['cpu_time_ratio']:.3f}",
        }
        part.rows.append(Row("f", f"{name}, {found['what']}", cells))
    worst = min(found["models"], key=lambda name: found["models"][name]["ratio"])
    least = found["models"][worst]["ratio"]
    least_cpu = min(own["cpu_time_ratio"] for own in found["models"].values())
    reached = f"{least:.3f} for {worst}, the slowest; median {found['median_ratio']:.3f}; of CPU time at least {least_cpu:.3f}"
    part.aims = [
        Aim("f", f"each detector in the loop at least {found['aim']} as fast as bare", reached, least >= found["aim"])
    ]
    part.notes = [
        f"One process, one thread; loop and bare loop take turns of {found['steps_a_turn']} steps, {found['turns']} times. Both "
        "read, vary and collate the same chips, in the same batches; the bare loop is forward, backward, step of the same model. "
        "The published sizes on a GPU: `python bench/detector_gpu.py` (not measured here: this machine has none).",
    ]
    return part
