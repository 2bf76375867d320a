"""Chips of large images against decoding them alone, random reads of chips, and evaluation against pycocotools.

Sides take turns, and a figure is the median over the turns of the ratio within each: what slows the machine down for a while
slows both. Chipping and decoding read the same files (generated, so PNGs of noise-like ground, and GeoTIFFs), through the same
library; both find them in the page cache. Both are one process and decode in one thread; chipping writes in another meanwhile, so
the ratio of CPU time stands beside that of time.

    python bench/detection_data.py [--json PATH] [--images 10] [--side 2048] [--turns 7] [--scored 2000]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image

from shoal_earth.detection.chips import ChipRules
from shoal_earth.detection.evaluate import evaluate
from shoal_earth.detection.imagery import quiet
from shoal_earth.detection.prepare import prepare
from shoal_earth.detection.readers.dota import CLASSES
from shoal_earth.detection.shards import DetectionChips
from shoal_earth.detection.splits import SplitRules
from shoal_earth.detection.synthetic import make_scene


def timed(work: Callable[[], Any]) -> float:
    return timed_cpu(work)[0]


def timed_cpu(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and seconds of CPU of all threads."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - begun_cpu


def write_images(folder: Path, count: int, side: int, suffix: str) -> Path:
    """A dataset in DOTA's layout, one object in every 100 x 100 pixels (about xView's); the ground of a small scene
    repeated under fresh noise."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "labelTxt").mkdir()
    base = make_scene(rng, 512, 512, ["plane", "ship", "tank", "vehicle"]).pixels
    repeated = np.tile(base, (side // 512 + 1, side // 512 + 1, 1))[:side, :side].astype(np.int16)
    for number in range(count):
        pixels = np.clip(repeated + rng.integers(-6, 7, repeated.shape, np.int16), 0, 255).astype(np.uint8)
        path = folder / "images" / f"P{number:04d}.{suffix}"
        if suffix == "png":
            Image.fromarray(pixels).save(path, compress_level=6)
        else:
            profile = {
                "driver": "GTiff",
                "count": 3,
                "height": side,
                "width": side,
                "dtype": "uint8",
                "crs": "EPSG:4326",
            }
            with rasterio.open(path, "w", **profile, compress="lzw", photometric="RGB") as file:
                file.write(pixels.transpose(2, 0, 1))
        lines = []
        for left, top in rng.integers(0, side - 40, ((side // 100) ** 2, 2)):
            right, bottom = left + int(rng.integers(10, 40)), top + int(rng.integers(10, 40))
            label = CLASSES[int(rng.integers(15))]
            lines.append(f"{left} {top} {right} {top} {right} {bottom} {left} {bottom} {label} 0")
        (folder / "labelTxt" / f"P{number:04d}.txt").write_text("\n".join(lines) + "\n")
    return folder


def decode_all(folder: Path) -> None:
    """The floor: each image decoded whole, nothing else."""
    with quiet():
        for path in sorted((folder / "images").iterdir()):
            with rasterio.open(path) as file:
                file.read()


def chipping(folder: Path, suffix: str, args: argparse.Namespace) -> dict[str, Any]:
    source, out = write_images(folder / suffix, args.images, args.side, suffix), folder / "chips"
    # Without overlap every pixel is written once, as it is decoded once; with it more is written than read.
    rules = {"plain": ChipRules(512, 0), "overlapping": ChipRules(512, 64)}
    times: dict[str, list[tuple[float, float]]] = {"decode": [], **{name: [] for name in rules}}
    chips = {}
    for turn in range(args.turns + 1):
        own = {"decode": timed_cpu(lambda: decode_all(source))}
        for name, rule in rules.items():
            shutil.rmtree(out, ignore_errors=True)
            made: list[Any] = []
            own[name] = timed_cpu(
                lambda rule=rule, made=made: made.append(prepare("dota", source, out, rule, SplitRules((1, 0, 0))))
            )
            chips[name] = made[0].counts["chips/train"]
        if turn:  # the first is a warm-up
            for name, seconds in own.items():
                times[name].append(seconds)
    megabytes = args.images * args.side**2 * 3 / 1e6
    figures: dict[str, Any] = {
        "decode_mb_per_second": round(megabytes / statistics.median(own for own, _ in times["decode"]), 1)
    }
    for name in rules:
        pairs = list(zip(times["decode"], times[name], strict=True))
        ratios = [decode[0] / own[0] for decode, own in pairs]
        seconds = statistics.median(own for own, _ in times[name])
        figures[name] = {
            "chips_per_second": round(chips[name] / seconds, 1),
            "mb_per_second": round(megabytes / seconds, 1),
            "ratio": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
            # What is left where no second core decodes while this one writes.
            "cpu_time_ratio": round(statistics.median(decode[1] / own[1] for decode, own in pairs), 3),
        }
    figures["random_read_ms"] = round(random_reads(out) * 1e3, 3)
    return figures


def random_reads(folder: Path, count: int = 200) -> float:
    """Median seconds to read a chip with its boxes at random, the page cache told to forget the shards before each."""
    rng, times = random.Random(0), []
    with DetectionChips(folder) as chips:
        for _ in range(count):
            number = rng.randrange(len(chips))
            for shard in folder.glob("*.tar"):
                with shard.open("rb") as file, contextlib.suppress(OSError, AttributeError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            times.append(timed(lambda number=number: (chips.image(number), chips.boxes(number))))
    return statistics.median(times)


def scored(images: int, turns: int) -> dict[str, Any]:
    """Truth and predictions of so many chips, 15 classes, about 12 objects each; all of COCO's scores, both ways."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": n, "width": 512, "height": 512} for n in range(images)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "annotations": [],
    }
    predictions = []
    for image in range(images):
        for _ in range(int(rng.integers(4, 20))):
            box = [*rng.uniform(0, 440, 2), *rng.uniform(8, 70, 2)]
            own = {"image_id": image, "category_id": int(rng.integers(1, 16))}
            area = float(box[2] * box[3])
            truth["annotations"].append(
                {**own, "id": len(truth["annotations"]) + 1, "bbox": box, "area": area, "iscrowd": 0}
            )
            for _ in range(int(rng.integers(1, 4))):
                near = [float(v) for v in np.maximum(np.array(box) + rng.normal(0, 4, 4), 1)]
                predictions.append({**own, "bbox": near, "score": float(rng.random())})

    def theirs() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            known = COCO()
            known.dataset = truth
            known.createIndex()
            run = COCOeval(known, known.loadRes([dict(item) for item in predictions]), "bbox")
            run.evaluate()
            run.accumulate()
            run.summarize()
        return float(run.stats[0])

    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    scores: dict[str, float] = {}
    for _ in range(turns):
        found["ours"].append(timed(lambda: scores.__setitem__("ours", evaluate(truth, predictions).metrics["ap"])))
        found["theirs"].append(timed(lambda: scores.__setitem__("theirs", theirs())))
    assert abs(scores["ours"] - scores["theirs"]) < 1e-9, scores
    ratios = [theirs / ours for ours, theirs in zip(found["ours"], found["theirs"], strict=True)]
    return {
        "images": images,
        "predictions": len(predictions),
        "seconds": round(statistics.median(found["ours"]), 2),
        "pycocotools_seconds": round(statistics.median(found["theirs"]), 2),
        "times_faster": round(statistics.median(ratios), 2),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--scored", type=int, default=2000, help="images to evaluate")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "detection-data",
        "images": args.images,
        "side": args.side,
        "turns": args.turns,
    }
    for suffix in ("png", "tif"):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            result[suffix] = chipping(Path(folder), suffix, args)
    result["evaluation"] = scored(args.scored, max(1, args.turns // 2))
    print(
        "| chips of 512 | chips/s | MB/s of source | decoding alone, MB/s | ratio (median) | range | of CPU time | aim "
        "| random read |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for suffix in ("png", "tif"):
        for name in ("plain", "overlapping"):
            own, whole = result[suffix][name], result[suffix]
            low, high = own["spread"]
            print(
                f"| {suffix}, {args.images} of {args.side} px, {name} | {own['chips_per_second']} | {own['mb_per_second']} "
                f"| {whole['decode_mb_per_second']} | {own['ratio']:.3f} | {low:.3f} to {high:.3f} | {own['cpu_time_ratio']:.3f} "
                f"| >= 0.8 | {whole['random_read_ms']} ms |"
            )
    own = result["evaluation"]
    print(
        f"\nEvaluation of {own['images']} images, {own['predictions']} predictions: {own['seconds']} s, pycocotools "
        f"{own['pycocotools_seconds']} s, {own['times_faster']} times as fast ({own['spread'][0]} to {own['spread'][1]})"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
