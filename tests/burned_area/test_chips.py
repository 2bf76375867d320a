"""Chips of the study's own steps: no ground shared by splits, the same bytes however dealt or killed, and clear refusals."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from shapely.geometry import Polygon, box

from shoal.errors import UsageError
from shoal_earth.burned_area.chips import cut_chips
from shoal_earth.burned_area.fires import gather, load_fires
from shoal_earth.burned_area.labels import filter_scenes, find_scenes, kept_scenes, label_scenes
from shoal_earth.burned_area.places import PLACES, deal_places, load_labels, load_places
from shoal_earth.burned_area.search import find_items
from shoal_earth.burned_area.synthetic import BurnedWorld
from shoal_earth.rasters.choosing import CutRules
from shoal_earth.rasters.cutting import COUNTS, PART
from shoal_earth.rasters.fetch import fetch_windows
from shoal_earth.rasters.filters import Rules
from shoal_earth.rasters.joining import join_parts
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.shards import INDEX, ShardReader
from shoal_earth.rasters.stac import load_items

from .pipeline import SIZE, run

Cli = Callable[..., tuple[int, str, str]]


def grounds(folder: Path) -> dict[str, list]:
    """The ground of every chip by split, in one CRS."""
    with ShardReader(folder) as reader:
        scenes = {scene["name"]: scene for scene in reader.index["scenes"]}
        found: dict[str, list] = {"train": [], "val": [], "test": []}
        for chip in reader.chips:
            scene = scenes[chip["scene"]]
            left, top = Affine(*scene["transform"]) * (chip["column"], chip["row"])
            shape = box(left, top - SIZE * 10, left + SIZE * 10, top)
            found[chip["split"]].append(geopandas.GeoSeries([shape], crs=scene["crs"]).to_crs(32721).iloc[0])
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@pytest.mark.parametrize("imagery", ["img", "tci"])
def test_no_pixel_of_a_test_place_is_seen_in_training(made: Path, imagery: str) -> None:
    chips = grounds(made / imagery)
    assert all(len(chips[split]) >= 3 for split in chips)
    places = load_places(made)
    for split, later in (("train", ("val", "test")), ("val", ("test",))):
        for ground, of in places.held():
            if of in later:
                held = geopandas.GeoSeries([box(*ground.bounds)], crs=ground.crs).to_crs(32721).iloc[0]
                assert all(chip.intersection(held).area < 1 for chip in chips[split])
    # And what is held out was burnt by fires that no training chip is of.
    with ShardReader(made / imagery) as reader:
        groups = {split: {c["group"] for c in reader.chips if c["split"] == split} for split in chips}
    assert not groups["train"] & (groups["val"] | groups["test"])
    assert not groups["val"] & groups["test"]


def test_by_tile_no_pixel_of_a_test_scene_is_seen_in_training(burned: BurnedWorld, tmp_path: Path) -> None:
    run(burned.folder, tmp_path, 1, by="tile", imagery=("tci",))
    places = load_places(tmp_path)
    assert {place.window for place in places.places} == {(0, 0, 180, 180)}
    chips = grounds(tmp_path / "tci")
    for ground, of in places.held():
        held = geopandas.GeoSeries([box(*ground.bounds)], crs=ground.crs).to_crs(32721).iloc[0]
        for split in ("train", "val"):
            if of == "test" or (of == "val" and split == "train"):
                assert all(chip.intersection(held).area < 1 for chip in chips[split])
    with ShardReader(tmp_path / "tci") as reader:
        splits = {}
        for chip in reader.chips:
            assert splits.setdefault(chip["scene"], chip["split"]) == chip["split"]


def test_chips_are_the_scenes_pixels_and_labels(made: Path) -> None:
    with ShardReader(made / "img") as reader:
        scenes = {scene["name"]: scene for scene in reader.index["scenes"]}
        labels = {path.name: path for path in made.glob("set-*/*/labels/*.tif")}
        assert reader.index["classes"] == ["background", "burnt"]
        assert (reader.index["bands"], reader.index["normalise"]) == (3, "iqr")
        lows = {(band["low"], band["high"]) for band in reader.index["scale"]}
        assert len(lows) == 1, "one scale for all bands"
        for position, chip in enumerate(reader.chips):
            scene = scenes[chip["scene"]]
            with rasterio.open(labels[f"{scene['product']}.tif"]) as file:
                left, top = Affine(*scene["transform"]) * (chip["column"], chip["row"])
                row, column = file.index(left + 5, top - 5)
                expected = file.read(1, window=((row, row + SIZE), (column, column + SIZE)))
            got = reader.read(position, "label")
            seen = got != 255
            assert (got[seen] == expected[seen]).all()
            assert seen.mean() > 0.5
            if chip["split"] == "train":
                assert (got == 1).any()


def test_the_scale_comes_from_training_chips_alone(made: Path, tmp_path: Path) -> None:
    parts = sorted(path.parent for path in made.glob(f"set-*/*/img/{PART}"))
    with ShardReader(made / "img") as reader:
        train = [reader.read(i, "image") for i, chip in enumerate(reader.chips) if chip["split"] == "train"]
        scale = reader.index["scale"]
    values = np.concatenate([image.reshape(3, -1) for image in train], 1)
    quarters = np.percentile(values[:, (values > 0).all(0)], [25, 75], axis=1)
    reach = 1.5 * (quarters[1] - quarters[0])
    # Chips overlap, pixels are counted once: about the same.
    assert scale[0]["high"] == pytest.approx(min(values.max(), (quarters[1] + reach).max()), rel=0.15)
    counted = sum(int(np.load(part / COUNTS)[:, 2].sum()) for part in parts if (part / COUNTS).exists())
    assert 0 < counted <= values.size
    saved = json.loads((made / "img" / "scale.json").read_text())
    with ShardReader(made / "img") as reader:
        held = {chip["scene"] for chip in reader.chips if chip["split"] != "train"}
    assert saved["scenes"]
    assert not held & set(saved["scenes"])


def test_however_scenes_are_dealt_to_batches_the_dataset_is_the_same_bytes(
    burned: BurnedWorld, made: Path, tmp_path: Path
) -> None:
    run(burned.folder, tmp_path, 3)
    for imagery in ("img", "tci"):
        assert contents(tmp_path / imagery) == contents(made / imagery)


def kill_until_done(world: Path, out: Path, seed: int, kills: int) -> None:
    """Run the pipeline, kill it at random ``kills`` times, and let the last run end."""
    rng = random.Random(seed)
    command = [sys.executable, "-m", "tests.burned_area.pipeline", str(world), str(out), "2"]
    root = Path(__file__).parents[2]
    # How long a run takes once it has started, from the first one that was let go on.
    for number in range(kills):
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        # Work begins when the first file appears; imports alone are no work.
        deadline = time.monotonic() + 120
        before = {p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()} if out.exists() else set()
        while process.poll() is None and time.monotonic() < deadline:
            now = {p.stat().st_mtime_ns for p in list(out.rglob("*")) if p.is_file()} if out.exists() else set()
            if now - before:
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0.0, 1.5 + number))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for imagery in ("img", "tci"):
            # What is there may be read: it is whole, or it is no dataset.
            if (out / imagery / INDEX).exists():
                with ShardReader(out / imagery) as reader:
                    assert reader.read(0, "image").shape == (3, SIZE, SIZE)
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("done")


@pytest.mark.timeout(600)
def test_killed_anywhere_and_started_again_the_chips_are_the_same_bytes(
    burned: BurnedWorld, made: Path, tmp_path: Path
) -> None:
    kill_until_done(burned.folder, tmp_path, seed=1, kills=2)
    for imagery in ("img", "tci"):
        assert contents(tmp_path / imagery) == contents(made / imagery)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(4))
def test_killed_many_times(burned: BurnedWorld, made: Path, tmp_path: Path, seed: int) -> None:
    kill_until_done(burned.folder, tmp_path, seed=seed, kills=6)
    for imagery in ("img", "tci"):
        assert contents(tmp_path / imagery) == contents(made / imagery)


def test_parts_that_do_not_fit_are_refused(made: Path, tmp_path: Path) -> None:
    parts = sorted(path.parent for path in made.glob(f"set-*/*/img/{PART}"))
    filled = [part for part in parts if json.loads((part / PART).read_text())["chips"]]
    with pytest.raises(UsageError, match="both hold the chip"):
        join_parts([*parts, filled[0]], tmp_path / "x")
    other = next(part for part in (p.parent / "tci" for p in filled) if part.exists())
    with pytest.raises(UsageError, match=r"has (step|composite) .* but .* has"):
        join_parts([*filled[1:], other], tmp_path / "x")
    with pytest.raises(UsageError, match="is no folder of chips"):
        join_parts([tmp_path / "none"], tmp_path / "x")
    shutil.copytree(filled[0], tmp_path / "cut")
    shard = next((tmp_path / "cut").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(UsageError, match=rf"{shard.name}: should have \d+ bytes and is"):
        join_parts([tmp_path / "cut"], tmp_path / "x")
    assert not (tmp_path / "x" / INDEX).exists()


def test_windows_of_a_product_in_one_archive_are_refused(burned: BurnedWorld, made: Path, tmp_path: Path) -> None:
    items = [item for item in load_items(made / "set-1" / "items.geojson") if "zip" in json.dumps(item["assets"])]
    shapes = load_fires(made / "fires.gpkg").frame
    with pytest.raises(UsageError, match=r"S2Z_.*: the catalogue offers it as one archive") as caught:
        fetch_windows(items, shapes, tmp_path / "x", bands=["red"])
    assert "leave --places out" in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_a_classification_that_went_missing_is_not_taken_for_a_clear_sky(
    burned: BurnedWorld, made: Path, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes"
    for path in sorted(path for path in burned.scenes if path.is_dir() and "T21LXF" in path.name):
        shutil.copytree(path, scenes / path.name)
    fires = load_fires(made / "fires.gpkg")
    filter_scenes(scenes, tmp_path, Rules(max_cloud=1))
    kept = kept_scenes(scenes, tmp_path)
    label_scenes(kept, fires, tmp_path / "labels", part="a")
    places = deal_places([tmp_path / "labels"], fires, by="tile", shares=(1, 0, 0), margin=0, smallest=SIZE)
    for path in kept[-1].rglob("*_SCL_*"):
        path.unlink()
    with pytest.raises(UsageError, match=rf"{kept[-1].name}: its scene classification was there when its clouds were"):
        kept_scenes(scenes, tmp_path)
    with pytest.raises(UsageError, match=rf"{kept[-1].name}: its scene classification was there when it was labelled"):
        cut_chips(scenes, tmp_path / "labels", places, tmp_path / "chips", CutRules(SIZE, SIZE), imagery="img")
    assert not (tmp_path / "chips").exists()


def test_mistakes_on_the_command_line_are_one_message(
    burned: BurnedWorld,
    made: Path,
    tmp_path: Path,
    cli: Cli,
) -> None:
    fires, part = made / "fires.gpkg", made / "set-1" / "1"
    out = tmp_path / "out"

    def refused(*arguments: object) -> str:
        code, _, err = cli("burned-area", *arguments)
        assert code in (1, 2), err
        assert "Traceback" not in err
        assert not out.exists() or not [p for p in out.rglob("*") if p.name in (PLACES, INDEX, "labels.json")]
        return err

    assert 'has no set "set-9"' in refused("search", "--fires", fires, "--set", "set-9", "--out", out / "i.json")
    err = refused("search", "--fires", fires, "--catalogue", tmp_path / "none.json", "--out", out / "i.json")
    assert "none.json: there is no such catalogue" in err
    err = refused(
        "labels", "--scenes", part / "scenes", "--figures", tmp_path, "--fires", fires, "--part", "x", "--out", out
    )
    assert "figures.csv: cannot be read as the figures of scenes" in err
    (tmp_path / "figures.csv").write_text("scene,path,nodata,cloud,kept,reason\n")
    err = refused(
        "labels", "--scenes", part / "scenes", "--figures", tmp_path, "--fires", fires, "--part", "x", "--out", out
    )
    assert "says nothing of S2Z_" in err
    err = refused("split", part / "labels", "--fires", fires, "--by", "coin", "--out", out)
    assert "by fire or by tile" in err
    err = refused("split", part, "--fires", fires, "--out", out)
    assert "labels.json: cannot be read as labels" in err
    assert "--shares needs three numbers" in refused(
        "split", part / "labels", "--fires", fires, "--shares", "1", "--out", out
    )
    chips = ("chips", "--scenes", part / "scenes", "--labels", part / "labels", "--out", out)
    assert "places.json: cannot be read as places" in refused(*chips, "--places", tmp_path)
    assert 'there is no composite "infrared"' in refused(*chips, "--places", made, "--imagery", "infrared")
    (tmp_path / "empty").mkdir()
    err = refused("chips", "--scenes", tmp_path / "empty", "--labels", part / "labels", "--out", out, "--places", made)
    assert "empty: the scene S2Z_" in err
    assert "is not there" in err
    labels = tmp_path / "labels"
    shutil.copytree(part / "labels", labels)
    for path in labels.glob("*.tif"):
        path.write_bytes(path.read_bytes()[:400])
    err = refused("chips", "--scenes", part / "scenes", "--labels", labels, "--out", out, "--places", made)
    assert ".tif: cannot be read" in err


def test_a_damaged_product_is_named(burned: BurnedWorld, made: Path, tmp_path: Path, cli: Cli) -> None:
    product = next(path for path in burned.scenes if path.suffix == ".zip")
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / product.name).write_bytes(product.read_bytes()[:-5000])
    code, _, err = cli("burned-area", "filter", "--scenes", tmp_path / "scenes", "--out", tmp_path / "out")
    assert code == 2
    assert f"{product.name}: cannot be read as a zip" in err
    assert not (tmp_path / "out").exists()


def test_fires_that_no_scene_shows(burned: BurnedWorld, made: Path) -> None:
    fires = load_fires(made / "fires.gpkg")
    far = fires.frame.copy()
    far["geometry"] = far.geometry.translate(20, 10)
    with pytest.raises(UsageError, match="no scene shows any of the 20 fires"):
        find_items(type(fires)(fires.path, far), str(burned.catalogue))
    ended = fires.frame.assign(start=fires.frame["start"].where(fires.frame["fire"] == ""))
    assert find_items(type(fires)(fires.path, ended), str(burned.catalogue)), "the last day alone is a day, too"
    late = fires.frame.copy()
    for column in ("start", "end"):
        late[column] = late[column].astype("datetime64[us]") + np.timedelta64(900, "D")
    with pytest.raises(UsageError, match="from 0 days before to 60 days after"):
        find_items(type(fires)(fires.path, late), str(burned.catalogue))


def test_the_real_products_go_through_every_step(fixtures: Path, tmp_path: Path) -> None:
    """Three real Level-2A trees, JP2 and TIF, of old and new baselines; one lies on the antimeridian."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    shapes = []
    for path in sorted((fixtures / "safe" / "stactools_downsampled").glob("*.SAFE")):
        (folder / path.name).symlink_to(path)
        with read_scene(path) as scene:
            grid = scene.grid(["red"])
            left, bottom, right, top = grid.bounds
            # A triangle over about a third of the tile; where the date changes, on this side of it.
            left, right = left * 0.95 + right * 0.05, left * 0.2 + right * 0.8
            ring = [(left, top), (left, bottom), (right, bottom)]
            shapes.append(geopandas.GeoSeries([Polygon(ring)], crs=grid.crs).to_crs(4326).iloc[0])
            resolution, day = grid.resolution, scene.acquired.date()
            assert day.year >= 2019
    columns = {"FIRE_ID": ["a", "b", "c"], "REP_DATE": ["2018-07-01"] * 3}
    geopandas.GeoDataFrame(columns, geometry=shapes, crs=4326).to_file(tmp_path / "fires.gpkg")
    fires, _ = gather([tmp_path / "fires.gpkg"])
    lines = filter_scenes(folder, tmp_path / "figures", Rules())
    assert [line.split()[0] for line in lines] == ["drop", "drop", "keep"]
    assert "96.7% is no data, more than 80%" in lines[0]
    assert "99.5% of the valid pixels are cloud, more than 25%" in lines[1]
    assert ["T22HBD" in path.name for path in kept_scenes(folder, tmp_path / "figures")] == [True]
    # All three go on, so that each product is read by every step.
    label_scenes(find_scenes(folder), fires, tmp_path / "labels", part="real", resolution=resolution, fresh=None)
    entries = {entry["tile"]: sum(entry["burnt"].values()) for entry in load_labels(tmp_path / "labels")["scenes"]}
    assert set(entries) == {"07HFE", "01UBT", "22HBD"}
    assert entries["22HBD"] > 2000
    places = deal_places([tmp_path / "labels"], fires, margin=0, smallest=20, shares=(1, 0, 0), by="tile")
    for imagery, high in (("img", 2.0), ("tci", 255.0), ("swir22+nir+red", 2.0)):
        rules = CutRules(20, 20, (1, 0, 0), min_valid=0.0, max_hidden=1.0)
        cut_chips(folder, tmp_path / "labels", places, tmp_path / f"part-{imagery}", rules, imagery=imagery)
        made = join_parts([tmp_path / f"part-{imagery}"], tmp_path / imagery)
        assert made.chips == {"train": 75}
        with ShardReader(tmp_path / imagery) as reader:
            step = reader.index["step"]
            for position in range(len(reader.chips)):
                values = reader.read(position, "image") * step
                assert values.min() >= -0.2
                assert values.max() <= high
                assert set(np.unique(reader.read(position, "label"))) <= {0, 1, 255}
