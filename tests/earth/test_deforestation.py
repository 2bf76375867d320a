"""Deforestation, from polygons and a catalogue to chips and a map, on a small generated world in the true formats."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine, array_bounds
from shapely import box

from shoal.errors import UsageError
from shoal_earth.deforestation.chips import cut_pairs, label_pairs
from shoal_earth.deforestation.composites import BANDS, read_composite, write_composites
from shoal_earth.deforestation.pairs import chosen_pairs, clearest, propose
from shoal_earth.deforestation.prodes import find_units, read_prodes, save_units
from shoal_earth.deforestation.search import find_candidates
from shoal_earth.deforestation.synthetic import make_deforestation_world
from shoal_earth.rasters.composites import composite
from shoal_earth.rasters.cutting import CutRules
from shoal_earth.rasters.fetch import fetch_items
from shoal_earth.rasters.items import item_orbit, item_tile
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.shards import ShardReader

RULES = CutRules(32, 21, present=(0, 1), max_hidden=0.1, normalise="chip")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline up to labels: world, units, scenes, pairs, choose, composites, labels."""
    folder = tmp_path_factory.mktemp("deforestation")
    world = folder / "world"
    make_deforestation_world(world, tiles=4, size=150, clearings=10, image="tif", seed=3)
    save_units(find_units(world / "units.shp", world / "prodes.shp", 2021), folder / "units")
    items = find_candidates(folder / "units", str(world / "catalog.json"), 2021)
    fetch_items(items, folder / "scenes", bands=("blue", "green", "red", "nir", "scl"))
    propose(folder / "scenes", folder / "pairs", 2021)
    clearest(folder / "pairs", folder / "choose")
    pairs = chosen_pairs(folder / "pairs", folder / "choose", folder / "scenes")
    write_composites(pairs, folder / "composites")
    label_pairs(pairs, folder / "composites", world / "prodes.shp", folder / "labels")
    return folder


def pairs_of(made: Path) -> list:
    return chosen_pairs(made / "pairs", made / "choose", made / "scenes")


def test_protected_areas_are_ranked_by_deforested_hectares(made: Path) -> None:
    units = geopandas.read_file(made / "units" / "units.gpkg")
    clearings = geopandas.read_file(made / "units" / "clearings.gpkg")
    assert sorted(units["unit"]) == ["SYNTHETIC RESERVE EAST", "SYNTHETIC RESERVE WEST"]
    assert units["hectares"].is_monotonic_decreasing
    prodes = geopandas.read_file(made / "world" / "prodes.shp")
    of_year = prodes[prodes["year"] == 2021]
    assert units["clearings"].sum() == len(clearings) >= len(of_year)
    assert units["hectares"].sum() == pytest.approx(of_year["area_km"].sum() * 100, rel=0.01)
    for row in units.itertuples():
        days = clearings[clearings["unit"] == row.unit]["image_date"].astype(str).str[:10]
        assert (row.first, row.last) == (days.min(), days.max())
    assert len(find_units(made / "world" / "units.shp", made / "world" / "prodes.shp", 2021, top=1).units) == 1


def test_candidates_have_both_years_of_one_tile_and_orbit(made: Path) -> None:
    items = find_candidates(made / "units", str(made / "world" / "catalog.json"), 2021)
    seen: dict = {}
    for item in items:
        assert item["properties"]["eo:cloud_cover"] <= 20
        seen.setdefault((item_tile(item), item_orbit(item)), set()).add(item["properties"]["datetime"][:4])
    assert all(years == {"2020", "2021"} for years in seen.values())
    assert {orbit for _, orbit in seen} == {"R067"}
    with pytest.raises(UsageError, match=r"(?s)no tile and orbit has some of both 2020 and 2021.*--cloud"):
        find_candidates(made / "units", str(made / "world" / "catalog.json"), 2021, cloud=0.01)


def test_a_unit_without_a_season_in_the_year_is_named(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clearings = geopandas.read_file(made / "units" / "clearings.gpkg")
    east = clearings["unit"] == "SYNTHETIC RESERVE EAST"
    clearings.loc[east, "image_date"] = "2020-09-01"
    clearings.to_file(tmp_path / "clearings.gpkg")
    catalogue = str(made / "world" / "catalog.json")
    tiles = {item_tile(item) for item in find_candidates(made / "units", catalogue, 2021)}
    assert {item_tile(item) for item in find_candidates(tmp_path, catalogue, 2021)} < tiles
    assert "SYNTHETIC RESERVE EAST: its last clearing is of 2020-09-01" in caplog.text
    assert "SYNTHETIC RESERVE WEST" not in caplog.text


def test_a_person_chooses_pairs_on_a_page(made: Path, tmp_path: Path) -> None:
    page = (made / "pairs" / "index.html").read_text()
    with (made / "pairs" / "choose.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert page.count("<img data-of=") == 2 * len(rows)
    assert page.count("data:image/webp;base64") == len({row[which] for row in rows for which in ("first", "second")})
    assert {row["choose"] for row in rows} == {""}
    with pytest.raises(UsageError, match=r"(?s)choose.csv: nothing is chosen.*yes"):
        chosen_pairs(made / "pairs", made / "pairs", made / "scenes")
    # By hand, one row; by rule, one of each tile and orbit.
    rows[-1]["choose"] = "yes"
    with (tmp_path / "mine.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (chosen,) = chosen_pairs(made / "pairs", tmp_path / "mine.csv", made / "scenes")
    assert chosen.id == rows[-1]["id"]
    assert chosen.group == f"{rows[-1]['tile']}-R067"
    # A browser that has saved one before calls it otherwise; approved, it lies in a folder.
    shutil.copyfile(tmp_path / "mine.csv", tmp_path / "other.txt")
    assert chosen_pairs(made / "pairs", tmp_path, made / "scenes") == [chosen]
    shutil.copyfile(tmp_path / "mine.csv", tmp_path / "choose (1).csv")
    with pytest.raises(UsageError, match=r"more than one table: choose \(1\).csv, mine.csv"):
        chosen_pairs(made / "pairs", tmp_path, made / "scenes")
    assert sorted(pair.group for pair in pairs_of(made)) == sorted({f"{row['tile']}-R067" for row in rows})


def test_composites_are_what_the_scenes_show(made: Path) -> None:
    pair = pairs_of(made)[0]
    with read_scene(pair.first) as scene, read_composite(made / "composites" / f"{pair.first.name}.tif") as stored:
        assert stored.acquired == scene.acquired
        grid = scene.grid(BANDS)
        for kind in ("ngb", "ndvi", "evi"):
            wanted, got = composite(scene, kind, None, grid), composite(stored, kind)
            np.testing.assert_array_equal(got.valid, wanted.valid)
            np.testing.assert_allclose(got.values, wanted.values, atol=1e-6)
        np.testing.assert_array_equal(stored.classes(), scene.classes(None, grid))


def test_labels_are_dated_clearings_and_what_is_hidden_is_ignored(made: Path) -> None:
    prodes = geopandas.read_file(made / "world" / "prodes.shp")
    counted = 0
    for pair in pairs_of(made):
        with rasterio.open(made / "labels" / f"{pair.id}.tif") as file:
            label, transform, crs = file.read(1), file.transform, file.crs
        day = pair.id.split("-")[1]
        hidden = np.zeros(label.shape, bool)
        for path in (pair.first, pair.second):
            with read_composite(made / "composites" / f"{path.name}.tif") as scene:
                hidden |= mask(scene.classes(), (*HIDDEN, 0))
        np.testing.assert_array_equal(label == 255, hidden)
        clearings = prodes.to_crs(crs)
        for row in clearings.itertuples():
            # Well inside of a shape, where the median filter changes nothing.
            middle = row.geometry.buffer(-30)
            if middle.is_empty:
                continue
            point = middle.representative_point()
            column, line = (int(x) for x in ~transform @ (point.x, point.y))
            if not (0 <= line < 150 and 0 <= column < 150) or hidden[line, column]:
                continue
            later = str(row.image_date).replace("-", "")[:8] > day
            if later or clearings[clearings.contains(point)]["uid"].size == 1:
                assert label[line, column] == later, row
                counted += 1
    assert counted > 10


@pytest.mark.parametrize("kind", ["ngb", "ndvi"])
def test_no_pixel_of_a_test_or_validation_tile_is_in_training(made: Path, tmp_path: Path, kind: str) -> None:
    # The same pairs once more as another orbit's: their ground is seen twice.
    twice = tmp_path / "pairs"
    shutil.copytree(made / "pairs", twice)
    entries = json.loads((twice / "pairs.json").read_text())
    chosen = {pair.id for pair in pairs_of(made)}
    copied = [e for e in entries["pairs"] if e["id"] in chosen][:1]
    entries["pairs"] = [e for e in entries["pairs"] if e["id"] in chosen] + [
        {**e, "id": f"{e['id']}-b", "group": f"{e['group'].partition('-')[0]}-R110"} for e in copied
    ]
    (twice / "pairs.json").write_text(json.dumps(entries))
    (twice / "choose.csv").write_text("id,choose\n" + "".join(f"{e['id']},yes\n" for e in entries["pairs"]))
    labels = tmp_path / "labels"
    shutil.copytree(made / "labels", labels)
    for entry in copied:
        shutil.copy(labels / f"{entry['id']}.tif", labels / f"{entry['id']}-b.tif")
    pairs = chosen_pairs(twice, twice, made / "scenes")
    crossed = 0
    for seed in range(3):
        rules = CutRules(32, 21, seed=seed, max_hidden=1, present=())
        out = tmp_path / f"chips-{seed}"
        cut = cut_pairs(pairs, made / "composites", labels, out, rules, kind=kind)
        with ShardReader(out) as reader:
            scenes = {scene["name"]: Affine(*scene["transform"]) for scene in reader.index["scenes"]}
            ground = {"train": [], "val": [], "test": []}
            for chip in reader.chips:
                corner = scenes[chip["scene"]] @ Affine.translation(chip["column"], chip["row"])
                ground[chip["split"]].append(box(*array_bounds(32, 32, corner)))
            for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
                both = (
                    geopandas.GeoSeries(ground[one])
                    .union_all()
                    .intersection(geopandas.GeoSeries(ground[other]).union_all())
                )
                assert both.area == 0
            crossed += cut.skipped["ground of a later split"]
            assert reader.index["bands"] == {"ngb": 6, "ndvi": 2}[kind]
            assert reader.index["dates"] == 2
    assert crossed > 0


def test_chips_keep_the_papers_rules_and_a_killed_run_ends_in_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal_earth.rasters.shards import ShardWriter

    pairs = pairs_of(made)
    cut_pairs(pairs, made / "composites", made / "labels", tmp_path / "whole", RULES, kind="ngb")
    with ShardReader(tmp_path / "whole") as reader:
        assert reader.index["normalise"] == "chip"
        for position, chip in enumerate(reader.chips):
            label = reader.read(position, "label")
            assert (label == 255).mean() <= 0.1
            if chip["split"] == "train":
                assert {0, 1} <= set(np.unique(label))
        count = len(reader.chips)
    add = ShardWriter.add
    for killed in (1, count // 2, count - 1):
        left = [killed]

        def dies(self: ShardWriter, *arguments: object, left: list = left, **facts: object) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            add(self, *arguments, **facts)

        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "add", dies)
            with pytest.raises(KeyboardInterrupt):
                cut_pairs(pairs, made / "composites", made / "labels", tmp_path / "parts", RULES, kind="ngb")
        with pytest.raises(UsageError, match="no folder of chips"):
            ShardReader(tmp_path / "parts")
        cut_pairs(pairs, made / "composites", made / "labels", tmp_path / "parts", RULES, kind="ngb")
        files = {path.name: path.read_bytes() for path in sorted((tmp_path / "whole").iterdir())}
        assert files == {path.name: path.read_bytes() for path in sorted((tmp_path / "parts").iterdir())}


def test_bad_input_is_named(made: Path, tmp_path: Path) -> None:
    world = made / "world"
    prodes, areas = world / "prodes.shp", world / "units.shp"
    with pytest.raises(UsageError, match=r"units.shp: has no column \"image_date\""):
        read_prodes(areas)
    with pytest.raises(UsageError, match=r"prodes.shp: has no deforestation of the year 1999, but of 2020, 2021"):
        read_prodes(prodes, 1999)
    with pytest.raises(UsageError, match=r"units.shp: has no column \"nome_x\""):
        find_units(areas, prodes, 2021, name="nome_x")
    frame = geopandas.read_file(prodes)
    frame.assign(main_class="HIDROGRAFIA").to_file(tmp_path / "water.gpkg")
    with pytest.raises(UsageError, match=r"water.gpkg: none of its \d+ polygons has the main_class DESMATAMENTO"):
        read_prodes(tmp_path / "water.gpkg")
    frame.iloc[:0].to_file(tmp_path / "empty.gpkg")
    with pytest.raises(UsageError, match=r"empty.gpkg: holds no polygons"):
        read_prodes(tmp_path / "empty.gpkg")
    far = frame.set_geometry(frame.translate(20, 10))
    far.to_file(tmp_path / "far.gpkg")
    with pytest.raises(UsageError, match=r"far.gpkg: none of its \d+ clearings of 2021 lies in an area of .*units.shp"):
        find_units(areas, tmp_path / "far.gpkg", 2021)
    pairs = pairs_of(made)
    with pytest.raises(UsageError, match=r"far.gpkg: none of its \d+ clearings is seen in a pair"):
        label_pairs(pairs, made / "composites", tmp_path / "far.gpkg", tmp_path / "labels")
    # Dates reversed; another tile, and so another grid; another CRS.
    from dataclasses import replace

    swapped = replace(pairs[0], first=pairs[0].second, second=pairs[0].first)
    with pytest.raises(UsageError, match=r"is not before .*the dates are reversed"):
        label_pairs([swapped], made / "composites", prodes, tmp_path / "labels")
    mixed = replace(pairs[0], second=pairs[1].second)
    with pytest.raises(UsageError, match="cannot be a pair: their corners are"):
        write_composites([mixed], tmp_path / "composites")
    with rasterio.open(made / "composites" / f"{pairs[0].second.name}.tif") as file:
        profile, values, tags = file.profile, file.read(), file.tags()
        names = file.descriptions
    shutil.copytree(made / "composites", tmp_path / "other")
    profile.update(driver="GTiff", crs="EPSG:32722")
    with rasterio.open(tmp_path / "other" / f"{pairs[0].second.name}.tif", "w", **profile) as file:
        file.write(values)
        file.update_tags(**tags)
        file.descriptions = names
    with pytest.raises(UsageError, match="one is in EPSG:32721, the other in EPSG:32722"):
        label_pairs(pairs, tmp_path / "other", prodes, tmp_path / "labels")
    (tmp_path / "other" / f"{pairs[1].first.name}.tif").unlink()
    with pytest.raises(UsageError, match=r"(?s)there is no such composite.*deforestation composites"):
        cut_pairs(pairs[1:], tmp_path / "other", made / "labels", tmp_path / "chips", RULES, kind="ngb")
    with pytest.raises(UsageError, match=r"(?s)there are no such labels.*deforestation labels"):
        cut_pairs(pairs, made / "composites", tmp_path, tmp_path / "chips", RULES, kind="ngb")
    with pytest.raises(UsageError, match=r"(?s)pairs.json: cannot be read.*deforestation pairs"):
        chosen_pairs(tmp_path, made / "choose", made / "scenes")
    (tmp_path / "choose.csv").write_text("id,choose\nnowhere,yes\n")
    with pytest.raises(UsageError, match=r"choose.csv:2: there is no candidate \"nowhere\""):
        chosen_pairs(made / "pairs", tmp_path, made / "scenes")
    with pytest.raises(UsageError, match=r"there is no such scene, but the pair .* was chosen"):
        chosen_pairs(made / "pairs", made / "choose", tmp_path)


def test_two_scenes_become_a_map_of_clearings(made: Path, tmp_path: Path, cli) -> None:
    rules = CutRules(32, 24, present=(0, 1), max_hidden=0.1, normalise="percentile")
    cut_pairs(pairs_of(made), made / "composites", made / "labels", tmp_path / "chips", rules, kind="ngb")
    train = ["change", "train", "--chips", tmp_path / "chips", "--model", "fc-siam-diff", "--width", 4, "--epochs", 12]
    how = ["--lr", 1e-2, "--batch-size", 4, "--loss", "ce+miou", "--evaluate-every", 4, "--device", "cpu"]
    code, _, error = cli(*train, *how, "--out", tmp_path / "trial")
    assert code == 0, error
    pair = pairs_of(made)[0]
    start = ["predict", "--model", tmp_path / "trial", "--device", "cpu", "--out", tmp_path / "map"]
    code, out, error = cli(*start, "--scene", pair.first, "--scene", pair.second, "--skip-hidden")
    assert code == 0, error
    assert "deforested.gpkg" in out
    found = geopandas.read_file(tmp_path / "map" / "deforested.gpkg")
    with rasterio.open(tmp_path / "map" / "classes.tif") as file:
        classes = file.read(1)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(made / "labels" / f"{pair.id}.tif") as file:
        label = file.read(1)
    seen = label != 255
    np.testing.assert_array_equal(classes == 255, ~seen)
    hit, either = ((classes == 1) & (label == 1)).sum(), (((classes == 1) | (label == 1)) & seen).sum()
    assert hit / either > 0.3
    assert found["hectares"].sum() == pytest.approx((classes == 1).sum() * 0.01, rel=0.01)
    for scenes, message in (
        ([pair.first], "the model looks at 2 scenes; given: 1"),
        ([pair.second, pair.first], "the dates are reversed"),
    ):
        code, _, error = cli(*start, *(word for scene in scenes for word in ("--scene", scene)))
        assert code == 2
        assert message in error
