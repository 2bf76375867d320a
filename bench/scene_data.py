"""Chips, labels, windows and maps of satellite scenes against what they cannot be faster than, and against the paper's way.

The scene is generated: four bands of a Sentinel-2 tile as deflated GeoTIFFs, the classification at half their resolution, and
their STAC item. Sides take turns; a figure is the median over the turns of the ratio within each. GDAL has the same settings on
all sides: 512 MiB for decoded blocks, and one thread for a dataset (GDAL_NUM_THREADS is not set).

    python bench/scene_data.py [--json PATH] [--side 10980] [--turns 5] [--map-side 2048]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from shapely import STRtree, box
from shapely.geometry import Point

from shoal_earth.rasters.choosing import CutRules, Layer
from shoal_earth.rasters.cutting import cut_layers
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.predict import CompositeSource, predict_scene

BANDS = (("B02", "blue", 800), ("B03", "green", 900), ("B04", "red", 700), ("B08", "nir", 3000))
KIND = "nir+red+green+blue"
CHIP = 256
os.environ.setdefault("GDAL_CACHEMAX", "512")


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - cpu


def make_scene(folder: Path, side: int) -> Path:
    """Smooth ground under a noise of some percent, so that it deflates about as real scenes do."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    coarse = rng.normal(0, 1, (side // 64 + 2, side // 64 + 2)).clip(-2, 2).astype(np.float32)
    ground = coarse.repeat(64, 0).repeat(64, 1)[:side, :side]
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "crs": "EPSG:32614", "nodata": 0, "compress": "DEFLATE"}
    profile |= {"tiled": True, "blockxsize": 512, "blockysize": 512}
    assets: dict[str, Any] = {}
    for name, common, mean in BANDS:
        place = {"height": side, "width": side, "transform": from_origin(500_000, 6_000_000, 10, 10)}
        with rasterio.open(folder / f"{name}.tif", "w", dtype="uint16", predictor=2, **profile, **place) as file:
            for row in range(0, side, 1024):
                part = ground[row : row + 1024]
                noise = rng.normal(0, mean * 0.06, part.shape)
                values = np.clip(mean * (1 + 0.3 * part) + noise, 1, 15_000).astype(np.uint16)
                file.write(values, 1, window=Window(0, row, side, len(part)))
        assets[name] = {
            "href": f"./{name}.tif",
            "type": "image/tiff; application=geotiff",
            "gsd": 10,
            "eo:bands": [{"name": name, "common_name": common}],
            "raster:bands": [{"scale": 1e-4, "offset": 0, "nodata": 0}],
        }
    half = side // 2
    place = {"height": half, "width": half, "transform": from_origin(500_000, 6_000_000, 20, 20)}
    classes = np.full((half, half), 4, np.uint8)
    classes[: half // 10, : half // 3] = 9
    with rasterio.open(folder / "SCL.tif", "w", dtype="uint8", **profile, **place) as file:
        file.write(classes, 1)
    assets["SCL"] = {"href": "./SCL.tif", "type": "image/tiff; application=geotiff", "gsd": 20}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "S2Z_SYNTHETIC_T14UNV", "geometry": None, "links": []}
    item |= {"properties": {"datetime": "2019-08-01T18:00:00Z"}, "collection": "sentinel-2-l2a", "assets": assets}
    (folder / "item.json").write_text(json.dumps(item))
    return folder


def decode(scene: Path) -> None:
    """The floor: every band once, in rows of chips, into memory."""
    for name, _, _ in BANDS:
        with rasterio.open(scene / f"{name}.tif") as file:
            for row in range(0, file.height, CHIP):
                file.read(1, window=Window(0, row, file.width, min(CHIP, file.height - row)))


def cut(path: Path, out: Path) -> int:
    """All chips with labels, hidden pixels judged, statistics taken, written as shards."""
    with read_scene(path) as scene:
        grid = scene.grid()
        labels = np.zeros((grid.height, grid.width), np.uint8)
        labels[: grid.height // 3, : grid.width // 3] = 1

        def hidden(window: Window) -> np.ndarray[Any, Any]:
            return mask(scene.classes(window, grid), HIDDEN)

        layer = Layer(scene.name, "a", CompositeSource(scene, KIND, grid), labels, hidden)
        return sum(cut_layers([layer], out, CutRules(CHIP, CHIP, (1, 0, 0)), kind=KIND).chips.values())


def warp_per_chip(scene: Path, out: Path, chips: int) -> None:
    """The paper's way: for each chip every band is opened and warped to the chip's grid, and the stack is written as a file."""
    out.mkdir(parents=True, exist_ok=True)
    with rasterio.open(scene / "B02.tif") as file:
        grid, across = file.transform, file.width // CHIP
    for number in range(chips):
        row, column = number // across * CHIP, number % across * CHIP
        corner = grid @ grid.translation(column, row)
        place: dict[str, Any] = {"crs": "EPSG:32614", "transform": corner, "height": CHIP, "width": CHIP}
        stack = []
        for name, _, _ in BANDS:
            with rasterio.open(scene / f"{name}.tif") as file, WarpedVRT(file, **place) as view:
                stack.append(view.read(1))
        with rasterio.open(out / f"{number}.tif", "w", driver="GTiff", count=4, dtype="uint16", **place) as target:
            target.write(np.stack(stack))


def chipping(scene: Path, folder: Path, turns: int) -> dict[str, Any]:
    out = folder / "chips"
    megabytes = sum(rasterio.open(scene / f"{n}.tif").width ** 2 * 2 for n, _, _ in BANDS) / 1e6
    ratios, cpu_ratios, seconds, floors, chips = [], [], [], [], 0
    decode(scene)
    chips = cut(scene, out)
    for _ in range(turns):
        shutil.rmtree(out)
        floor, floor_cpu = timed(lambda: decode(scene))
        own, own_cpu = timed(lambda: cut(scene, out))
        ratios.append(floor / own)
        cpu_ratios.append(floor_cpu / own_cpu)
        seconds.append(own)
        floors.append(floor)
    few = min(chips, 200)
    paper, _ = timed(lambda: warp_per_chip(scene, folder / "paper", few))
    own = statistics.median(seconds)
    shutil.rmtree(out)
    return {
        "chips": chips,
        "chips_per_second": round(chips / own, 1),
        "mb_per_second": round(megabytes / own, 1),
        "decode_mb_per_second": round(megabytes / statistics.median(floors), 1),
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        "paper_chips": few,
        "paper_chips_per_second": round(few / paper, 1),
        "times_paper": round((chips / own) / (few / paper), 2),
    }


def worker(*words: object) -> list[str]:
    return [sys.executable, str(Path(__file__)), "--worker", *map(str, words)]


def scaling(scene: Path, folder: Path, chips: int, turns: int) -> dict[str, Any]:
    """One process that cuts the scene, as many as there are cores that cut it each for itself, and as many that decode it.

    One alone uses a second core (it decodes while it writes), so the decoders say more than the one does.
    """
    count = min(8, os.cpu_count() or 1)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Of a process that does nothing else: blocks that were decoded before stay in its memory.
    alone = subprocess.run(worker("alone", scene, folder / "alone"), capture_output=True, text=True, check=True)
    shutil.rmtree(folder / "alone")
    running = [subprocess.Popen(worker("serve", scene, folder / f"p{n}"), **pipes) for n in range(count)]
    one, together, of_floor = [], [], []
    try:
        for process in running:
            _told(process)

        def spent(what: str, number: int) -> float:
            for process in running[:number]:
                print(what, file=process.stdin, flush=True)
            return max(_told(process) for process in running[:number])

        for _ in range(turns):
            one.append(spent("cut", 1))
            floor = spent("decode", count)
            together.append(spent("cut", count))
            of_floor.append(floor / together[-1])
    finally:
        for process in running:
            process.communicate()
    for n in range(count):
        shutil.rmtree(folder / f"p{n}")
    return {
        "processes": count,
        "chips_per_second_one": round(chips / statistics.median(one), 1),
        "chips_per_second": round(count * chips / statistics.median(together), 1),
        "times_one": round(statistics.median(count * a / b for a, b in zip(one, together, strict=True)), 2),
        "ratio": round(statistics.median(of_floor), 3),
        "peak_mib": round(float(alone.stdout)),
    }


def _told(process: subprocess.Popen[str]) -> float:
    """The number that a worker says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process that cuts or decodes a scene has ended")
    return float(line)


def labels(side: int, polygons: int = 500) -> dict[str, Any]:
    """Polygons burnt once for the scene, and once for each chip with those that a tree finds there."""
    rng = np.random.default_rng(1)
    corner = from_origin(500_000, 6_000_000, 10, 10)
    places = rng.uniform(0, side * 10, (polygons, 2))
    shapes = [Point(500_000 + x, 6_000_000 - y).buffer(rng.uniform(100, 1500), quad_segs=16) for x, y in places]
    made: dict[str, np.ndarray[Any, Any]] = {}

    def once() -> None:
        # As labels are burnt: rasterize's own array of this size costs several times as much as what is drawn in it.
        made["scene"] = rasterize(shapes, out=np.zeros((side, side), np.uint8), transform=corner)

    def each() -> None:
        tree = STRtree(shapes)
        whole = np.zeros((side, side), np.uint8)
        for row in range(0, side - CHIP + 1, CHIP):
            for column in range(0, side - CHIP + 1, CHIP):
                own = corner @ corner.translation(column, row)
                ground = box(own.c, own.f - CHIP * 10, own.c + CHIP * 10, own.f)
                here = [shapes[n] for n in tree.query(ground, predicate="intersects")]
                if here:
                    whole[row : row + CHIP, column : column + CHIP] = rasterize(here, (CHIP, CHIP), transform=own)
        made["chips"] = whole

    once()
    turns = [(timed(once)[0], timed(each)[0]) for _ in range(3)]
    scene, chips = (statistics.median(times) for times in zip(*turns, strict=True))
    whole = side // CHIP * CHIP
    differ = int((made["scene"][:whole, :whole] != made["chips"][:whole, :whole]).sum())
    return {
        "polygons": polygons,
        "per_scene_s": round(scene, 2),
        "per_chip_s": round(chips, 2),
        "times": round(statistics.median(each / once for once, each in turns), 2),
        "pixels_that_differ": differ,
    }


class Counting(SimpleHTTPRequestHandler):
    """Serves files with ranges, and counts what it sends."""

    sent = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        data = path.read_bytes() if path.is_file() else b""
        span = self.headers.get("Range", "")
        first, last = 0, len(data) - 1
        if span.startswith("bytes="):
            begin, _, end = span[6:].partition("-")
            first, last = int(begin), min(int(end or last), last)
        if not data:
            self.send_error(404)
            return
        self.send_response(206 if span else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])
        type(self).sent += last - first + 1


def remote(scene: Path, windows: int = 8) -> dict[str, Any]:
    """Windows of a chip, each of four bands, read over HTTP from the files: bytes sent against bytes of the blocks touched."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(scene)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    rng = np.random.default_rng(2)
    touched: dict[tuple[str, int, int], int] = {}
    pixels = 0
    try:
        item = json.loads((scene / "item.json").read_text())
        for asset in item["assets"].values():
            asset["href"] = f"http://127.0.0.1:{server.server_address[1]}/{asset['href'][2:]}"
        path = scene / "remote.json"
        path.write_text(json.dumps(item))
        with read_scene(path) as opened:
            grid = opened.grid()
            Counting.sent = 0
            for _ in range(windows):
                row, column = (int(n) for n in rng.integers(0, grid.height - CHIP, 2))
                opened.read(["red", "green", "blue", "nir"], Window(column, row, CHIP, CHIP), grid, stored=True)
                pixels += CHIP * CHIP * 4 * 2
                for name, _, _ in BANDS:
                    with rasterio.open(scene / f"{name}.tif") as file:
                        for down in range(row // 512, (row + CHIP - 1) // 512 + 1):
                            for right in range(column // 512, (column + CHIP - 1) // 512 + 1):
                                touched[name, down, right] = file.block_size(1, down, right)
        path.unlink()
    finally:
        server.shutdown()
        server.server_close()
    needed = sum(touched.values())
    whole = sum((scene / f"{name}.tif").stat().st_size for name, _, _ in BANDS)
    return {
        "windows": windows,
        "fetched_mb": round(Counting.sent / 1e6, 2),
        "blocks_mb": round(needed / 1e6, 2),
        "pixels_mb": round(pixels / 1e6, 2),
        "times_blocks": round(Counting.sent / needed, 2),
        "share_of_files": round(Counting.sent / whole, 4),
    }


def mapped(path: Path, out: Path, network: bool) -> None:
    """A map of the scene: with a network, or with a threshold in its place, which leaves the pipeline alone."""
    model: Callable[[Any], Any]
    if network:
        import torch

        from shoal_earth.segmentation.models import build_model

        torch.set_num_threads(1)
        net = build_model("unet", "resnet18", bands=3, classes=2).eval().to(memory_format=torch.channels_last)

        def model(batch: Any) -> Any:
            with torch.inference_mode():
                return net(torch.from_numpy(batch)).softmax(1).numpy()
    else:

        def model(batch: Any) -> Any:
            # Of blocks of pixels: outlines of single ones would be a map that nobody makes.
            blocks = batch[:, 0].reshape(len(batch), CHIP // 32, 32, CHIP // 32, 32).mean((2, 4))
            chance = np.clip(blocks * 8, 0, 1).repeat(32, 1).repeat(32, 2)
            return np.stack([1 - chance, chance], 1)

    with read_scene(path) as scene:
        predict_scene(CompositeSource(scene, "rgb", scene.grid()), model, out, size=CHIP, overlap=64)


def maps(scene: Path, small: Path, folder: Path, full: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, path, network in (("pipeline", scene, False), ("pipeline_small", small, False), ("network", small, True)):
        done = subprocess.run(worker("map", path, folder / name, network), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        seconds, peak = (float(word) for word in done.stdout.split())
        with rasterio.open(path / "B02.tif") as file:
            tiles = (file.width / full) ** 2
        found[name] = {
            "side": round(full * tiles**0.5),
            "scenes_per_hour": round(3600 / seconds * tiles, 2),
            "peak_mib": round(peak),
        }
        shutil.rmtree(folder / name)
    return found


def work(words: list[str]) -> None:
    """What a process of its own does; prints its seconds (and peak memory in MiB)."""
    if words[0] == "alone":
        cut(Path(words[1]), Path(words[2]))
        print(peak_mib())
        return
    if words[0] == "serve":
        scene, out = Path(words[1]), Path(words[2])
        decode(scene)
        print(0, flush=True)
        for line in sys.stdin:
            what = line.strip()
            shutil.rmtree(out, ignore_errors=True)
            print(timed(lambda: cut(scene, out) if what == "cut" else decode(scene))[0], flush=True)  # noqa: B023
        return
    seconds, _ = timed(lambda: mapped(Path(words[1]), Path(words[2]), words[3] == "True"))
    print(seconds, peak_mib())


def peak_mib() -> float:
    """Most memory that this process has held. On Linux ``ru_maxrss`` begins with what the parent held when it started this."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--map-side", type=int, default=2048, help="of the scene that a network maps")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as name:
        folder = Path(name)
        scene, small = make_scene(folder / "scene", args.side), make_scene(folder / "small", args.map_side)
        chips = chipping(scene, folder, args.turns)
        result = {
            "side": args.side,
            "turns": args.turns,
            "chips": chips,
            "scaling": scaling(scene, folder, chips["chips"], min(args.turns, 3)),
            "labels": labels(args.side),
            "remote": remote(scene),
            "maps": maps(scene, small, folder, args.side),
        }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
