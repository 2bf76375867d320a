"""The study's data steps in one process, as its commands do them: run by tests, and killed by some.

python pipeline.py WORLD OUT BATCHES
"""

from __future__ import annotations

import sys
from pathlib import Path

from shoal_earth.burned_area.chips import cut_chips
from shoal_earth.burned_area.fires import Fires, gather, load_fires, save_fires
from shoal_earth.burned_area.labels import filter_scenes, kept_scenes, label_scenes
from shoal_earth.burned_area.places import PLACES, deal_places, load_places
from shoal_earth.burned_area.search import find_items
from shoal_earth.rasters.choosing import CutRules
from shoal_earth.rasters.fetch import fetch_items
from shoal_earth.rasters.filters import Rules
from shoal_earth.rasters.joining import join_parts
from shoal_earth.rasters.stac import batch, load_items, save_items

MARGIN, SIZE = 150.0, 48


def run(world: Path, out: Path, batches: int, *, by: str = "fire", imagery: tuple[str, ...] = ("img", "tci")) -> None:
    """From fire polygons to ``out/img`` and ``out/tci``."""
    fires, _ = gather([world / "fires"], margin=MARGIN)
    save_fires(fires, out / "fires.gpkg")
    fires = load_fires(out / "fires.gpkg")
    parts = []
    for name, rows in fires.frame.groupby("set"):
        items = out / name / "items.geojson"
        save_items(find_items(Fires(fires.path, rows.reset_index(drop=True)), str(world / "catalog.json")), items)
        for number in range(1, batches + 1):
            part = out / name / str(number)
            fetch(load_items(items), number, batches, part)
            filter_scenes(part / "scenes", part, Rules())
            kept = kept_scenes(part / "scenes", part)
            label_scenes(kept, fires, part / "labels", part=f"{name}-{number}")
            parts.append(part)
    places = deal_places(
        [part / "labels" for part in parts], fires, margin=MARGIN, smallest=SIZE, shares=(0.6, 0.2, 0.2), by=by
    )
    places.save(out / PLACES)
    places = load_places(out)
    rules = CutRules(SIZE, SIZE * 3 // 4, min_valid=0.75, max_hidden=0.25, present=(1,))
    for kind in imagery:
        for part in parts:
            cut_chips(part / "scenes", part / "labels", places, part / kind, rules, imagery=kind)
        join_parts([part / kind for part in parts], out / kind)


def fetch(items: list, number: int, of: int, part: Path) -> None:
    wanted = ["red", "green", "blue", "visual", "scl"]
    (part / "scenes").mkdir(parents=True, exist_ok=True)
    fetch_items(batch(items, number, of), part / "scenes", bands=wanted, resolution=10)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    print("done")
