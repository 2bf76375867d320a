"""Labels with dates and an ignore class; chips by tile that share no ground; the layouts other programs read."""

from __future__ import annotations

import datetime as dt
import tracemalloc
from contextlib import ExitStack
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import from_origin
from rasterio.windows import Window
from shapely.geometry import box

from shoal.errors import UsageError
from shoal_earth.rasters.composites import composite
from shoal_earth.rasters.contact_sheet import find_pairs
from shoal_earth.rasters.cutting import COUNTS, PART, CutRules, Layer, cut_layers, cut_part
from shoal_earth.rasters.dated_labels import change_labels, scene_labels
from shoal_earth.rasters.grids import Grid, Pixels
from shoal_earth.rasters.labels import IGNORE, read_polygons
from shoal_earth.rasters.layouts import export_chips
from shoal_earth.rasters.masks import HIDDEN, mask
from shoal_earth.rasters.normalise import step_of
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.predict import CompositeSource, PairSource
from shoal_earth.rasters.shards import INDEX, ShardReader
from shoal_earth.rasters.synthetic import World


def test_labels_of_a_change_are_polygons_of_the_right_dates(world: World) -> None:
    polygons = read_polygons(world.clearings)
    with read_scene(world.scenes[0]) as first, read_scene(world.scenes[2]) as second:
        grid = first.grid()
        made = change_labels(polygons, first, second, grid, column="image_date", smooth=1)
        frame = geopandas.read_file(world.clearings).to_crs(grid.crs)
        chosen = frame[(frame["image_date"] > "2019-06-10") & (frame["image_date"] <= "2020-12-31")]
        expected = rasterize(chosen.geometry, (120, 120), transform=grid.transform)
        ignored = np.isin(first.classes(grid=grid), (0, *HIDDEN)) | np.isin(second.classes(grid=grid), (0, *HIDDEN))
        assert 0 < ignored.mean() < 1
        assert ((made.values == IGNORE) == ignored).all()
        assert (made.values[~ignored] == expected[~ignored]).all()
        assert made.polygons == sum(chosen.intersects(box(*grid.bounds)))
        strict = change_labels(polygons, first, second, grid, column="image_date", whole_year=False, smooth=1)
        assert strict.polygons < made.polygons, "some clearings come after the second image's day"
        with pytest.raises(UsageError, match=r"T21LXF.* is not before .*: the dates are reversed"):
            change_labels(polygons, second, first, grid, column="image_date")


def test_the_median_filter_removes_specks_and_never_mixes_with_what_is_ignored(world: World, tmp_path: Path) -> None:
    with read_scene(world.scenes[0]) as first, read_scene(world.scenes[1]) as second:
        grid = first.grid()
        left, _, _, top = grid.bounds
        speck = box(left + 300, top - 320, left + 320, top - 300)
        block = box(left + 600, top - 900, left + 900, top - 600)
        geopandas.GeoDataFrame({"d": ["2019-07-01"] * 2}, geometry=[speck, block], crs=grid.crs).to_file(
            tmp_path / "p.gpkg"
        )
        polygons = read_polygons(tmp_path / "p.gpkg")
        rough = change_labels(polygons, first, second, grid, column="d", smooth=1, hidden=())
        smooth = change_labels(polygons, first, second, grid, column="d", smooth=5, hidden=())
        assert (rough.values[30:32, 30:32] == 1).all()
        assert (smooth.values[28:34, 28:34] == 0).all()
        assert (smooth.values[62:88, 62:88] == 1).all()
        hidden = change_labels(polygons, first, second, grid, column="d", smooth=5)
        visible = hidden.values != IGNORE
        assert (hidden.values[visible] == smooth.values[visible]).all()


def test_labels_of_one_scene_count_what_happened_before_it(world: World) -> None:
    polygons = read_polygons(world.fires)
    counts = []
    for path in world.scenes[:4]:
        with read_scene(path) as scene:
            counts.append(scene_labels(polygons, scene, scene.grid(), column="date").polygons)
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] == 3
    with read_scene(world.scenes[3]) as scene:
        late = scene_labels(polygons, scene, scene.grid(), column="date", after=dt.date(2020, 1, 1))
        assert 0 < late.polygons < 3
        assert scene_labels(polygons, scene, scene.grid()).polygons == 3


def pair_layers(world: World, stack: ExitStack, kind: str = "ngb") -> list[Layer]:
    polygons, layers = read_polygons(world.clearings), []
    for candidate in find_pairs(world.scenes):
        first, second = (stack.enter_context(read_scene(path)) for path in candidate.paths)
        grid = first.grid(["nir", "green", "blue"])
        sources = [CompositeSource(scene, kind, grid) for scene in (first, second)]
        labels = change_labels(polygons, first, second, grid, column="image_date", smooth=1)

        def hidden(window: Window, one: object = first, other: object = second, grid: Grid = grid) -> np.ndarray:
            return mask(one.classes(window, grid), HIDDEN) | mask(other.classes(window, grid), HIDDEN)

        layers.append(Layer(candidate.id, first.tile, PairSource(*sources), labels.values, hidden))
    return layers


RULES = CutRules(size=24, stride=16, shares=(0.5, 0, 0.5), max_hidden=0.3, present=(0, 1))


def test_pairs_become_chips_by_tile(world: World, tmp_path: Path) -> None:
    with ExitStack() as stack:
        layers = pair_layers(world, stack)
        cut = cut_layers(layers, tmp_path / "chips", RULES, kind="ngb", foreground="cleared")
        by_name = {layer.name: layer for layer in layers}
        assert sorted(cut.splits.values()) == ["test", "train"]
        assert min(cut.chips["train"], cut.chips["test"]) > 5
        with ShardReader(tmp_path / "chips") as reader:
            assert reader.index["bands"] == 6
            assert len(reader.index["scale"]) == 6
            assert reader.index["classes"] == ["background", "cleared"]
            for position, chip in enumerate(reader.chips):
                layer = by_name[chip["scene"]]
                assert chip["split"] == cut.splits[layer.group]
                window = Window(chip["column"], chip["row"], 24, 24)
                pixels = layer.source.read(window)
                image, label = reader.read(position, "image"), reader.read(position, "label")
                assert image.dtype == np.int16
                np.testing.assert_allclose(image.reshape(2, 3, 24, 24) / 10_000, pixels.values, atol=5.1e-5)
                assert pixels.valid.all()
                assert (label == layer.labels[window.toslices()]).all()
                assert layer.hidden(window).mean() <= 0.3
                if chip["split"] == "train":
                    assert {0, 1} <= set(np.unique(label).tolist())
    assert cut.skipped["less than 100% valid"] > 0
    assert cut.skipped["more than 30% hidden"] > 0


@pytest.mark.parametrize("kind", ["ngb", "ndvi", "swir22+nir+red", "tci"])
@pytest.mark.parametrize("resolution", [None, 20])
def test_whole_numbers_are_the_rounded_floats(world: World, kind: str, resolution: float | None) -> None:
    for path in (world.scenes[0], world.scenes[2], world.scenes[5]):  # both baselines, and an edge without data
        with read_scene(path) as scene:
            grid = scene.grid(resolution=resolution)
            step = step_of(kind)
            floats, whole = composite(scene, kind, grid=grid), composite(scene, kind, grid=grid, step=step)
        assert whole.values.dtype == np.int16
        assert (whole.valid == floats.valid).all()
        assert np.abs(whole.values * step - floats.values)[:, floats.valid].max() <= step * 0.51
        assert (whole.values[:, ~whole.valid] == 0).all()


def test_whole_numbers_stay_in_their_range(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": 1, "width": 4, "crs": "EPSG:32721"}
    profile["transform"] = from_origin(0, 0, 10, 10)
    for dtype, offset, stored in (
        ("uint16", -0.1, [0, 1000, 40_000, 65_535]),
        ("uint16", 0.2, [0, 1000, 32_000, 65_535]),
        ("int16", -0.1, [-32_768, -1, 0, 32_767]),
        ("int16", 0.2, [-32_768, -1, 0, 32_767]),
    ):
        with rasterio.open(tmp_path / "r.tif", "w", dtype=dtype, **profile) as file:
            file.write(np.array([[stored]], dtype))
            file.scales, file.offsets = (1e-4,), (offset,)
        with read_scene(tmp_path / "r.tif") as scene:
            got = scene.read(["1"], step=1e-4).values[0, 0]
        expected = np.clip(np.array(stored, np.int64) + round(offset * 10_000), -32_768, 32_767)
        assert np.abs(got - expected).max() <= abs(round(offset * 10_000)), (dtype, offset)
        inside = np.abs(np.array(stored, np.int64)) < 32_000
        assert (got[inside] == expected[inside]).all()


class Memory:
    """A source in memory."""

    def __init__(self, values: np.ndarray, left: float = 600_000, epsg: int = 32721, top: float = 8_800_000) -> None:
        self.values = values
        self.grid = Grid(CRS.from_epsg(epsg), from_origin(left, top, 10, 10), *values.shape[-2:])
        self.reads = 0
        self.fail_at: int | None = None

    def read(self, window: Window) -> Pixels:
        self.reads += 1
        if self.fail_at is not None and self.reads > self.fail_at:
            raise KeyboardInterrupt
        part = self.values[(..., *window.toslices())]
        return Pixels(part, np.ones(part.shape[-2:], bool))


def simple(name: str, group: str, source: Memory) -> Layer:
    labels = np.zeros(source.values.shape[-2:], np.uint8)
    labels[::7, ::5] = 1
    return Layer(name, group, source, labels)


def ground(chip: dict, source: Memory, size: int) -> object:
    window = Window(chip["column"], chip["row"], size, size)
    return geopandas.GeoSeries([box(*source.grid.part(window).bounds)], crs=source.grid.crs).to_crs(32721).iloc[0]


def test_no_ground_of_a_test_scene_is_seen_in_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 1, 160, 160), dtype=np.float32)
    # Neighbouring tiles overlap by 50 pixels; one is in the next zone's CRS, as at the edge of a UTM zone.
    (x,), (y,) = rasterio.warp.transform("EPSG:32721", "EPSG:32722", [600_000 - 1100], [8_800_000])
    sources = {
        "a": Memory(values[0]),
        "b": Memory(values[1], left=600_000 + 1100),
        "c": Memory(values[2], left=x, top=y, epsg=32722),
    }
    layers = [simple(name, name, source) for name, source in sources.items()]
    splits = {"a": "train", "b": "test", "c": "val"}
    rules = CutRules(size=32, stride=16)
    cut = cut_layers(layers, tmp_path, rules, kind="ndvi", splits=splits)
    assert cut.skipped["ground of a later split"] > 20
    assert cut.chips["train"] > 10
    with ShardReader(tmp_path) as reader:
        seen = {split: [] for split in ("train", "val", "test")}
        for chip in reader.chips:
            seen[chip["split"]].append(ground(chip, sources[chip["scene"]], 32))
    held = box(*sources["b"].grid.bounds)
    corner = geopandas.GeoSeries([box(*sources["c"].grid.bounds)], crs=32722).to_crs(32721).iloc[0]
    for chip in seen["train"]:
        assert chip.intersection(held).area < 1
        assert chip.intersection(corner).area < 1
    for chip in seen["val"]:
        assert chip.intersection(held).area < 1
    tests = seen["test"]
    assert all(a.intersection(b).area < 1 for i, a in enumerate(tests) for b in tests[:i]), "each pixel is tested once"


def test_statistics_count_training_pixels_at_most_once_and_no_other(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    train, test = rng.uniform(0, 0.5, (1, 128, 128)), rng.uniform(5, 6, (1, 128, 128))
    layers = [
        simple("a", "a", Memory(train.astype(np.float32))),
        simple("b", "b", Memory(test.astype(np.float32), left=900_000)),
    ]
    for stride in (8, 32):
        rules = CutRules(size=32, stride=stride, normalise="percentile")
        cut_layers(layers, tmp_path / str(stride), rules, kind="ndvi", splits={"a": "train", "b": "test"})
        with ShardReader(tmp_path / str(stride)) as reader:
            (scale,) = reader.index["scale"]
        assert scale["low"] == pytest.approx(50, abs=5)
        assert scale["high"] == pytest.approx(4950, abs=5), "in steps of 1/10,000; nothing of the test scene"


@pytest.mark.parametrize(("size", "stride", "rows"), [(32, 32, 32), (64, 48, 48), (128, 128, 32), (128, 96, 32)])
def test_of_large_chips_some_rows_are_counted(tmp_path: Path, size: int, stride: int, rows: int) -> None:
    values = np.random.default_rng(1).uniform(0, 0.5, (1, 128, 128)).astype(np.float32)
    rules = CutRules(size=size, stride=stride)
    layer = simple("a", "a", Memory(values))
    cut = cut_part([layer], tmp_path, rules, kind="ndvi", splits={"a": "train"}, held=[])
    assert cut.chips["train"] == ((128 - size) // stride + 1) ** 2
    assert int(np.load(tmp_path / COUNTS)[:, 2].sum()) == cut.chips["train"] * rows * stride
    with ShardReader(tmp_path, index=PART) as reader:
        corner = reader.read(0, "image")[:, : stride : max(1, stride // 32), :stride]
    if cut.chips["train"] == 1:
        found = np.load(tmp_path / COUNTS)
        assert (np.repeat(found[:, 1], found[:, 2]) == np.sort(corner.ravel())).all()


def test_killed_and_started_again_the_chips_are_the_same_bytes(tmp_path: Path) -> None:
    def layers(fail_at: int | None = None) -> list[Layer]:
        rng = np.random.default_rng(2)
        values = rng.random((3, 2, 96, 96), dtype=np.float32)
        made = [simple(name, name, Memory(values[i], left=i * 1e5)) for i, name in enumerate("abc")]
        for layer in made:
            layer.source.fail_at = fail_at
        return made

    rules = CutRules(size=32, stride=16, seed=3)
    cut_layers(layers(), tmp_path / "whole", rules, kind="ngb")
    for fail_at in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            cut_layers(layers(fail_at), tmp_path / "killed", rules, kind="ngb")
        assert not (tmp_path / "killed" / INDEX).exists()
        with pytest.raises(UsageError, match="is no folder of chips"):
            ShardReader(tmp_path / "killed")
    cut_layers(layers(), tmp_path / "killed", rules, kind="ngb")
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == names
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """Beside the labels, a byte a pixel, which the caller holds: a few runs of chips, of which chance decides how many."""

    class Ground:
        def __init__(self, height: int) -> None:
            self.grid = Grid(CRS.from_epsg(32721), from_origin(600_000, 8_800_000, 10, 10), height, 512)

        def read(self, window: Window) -> Pixels:
            shape = (3, int(window.height), int(window.width))
            return Pixels(np.full(shape, 0.1, np.float32), np.ones(shape[1:], bool))

    peaks = []
    for height in (4096, 16 * 4096):
        source = Ground(height)
        labels = np.ones((height, 512), np.uint8)
        tracemalloc.start()
        cut_layers([Layer("a", "a", source, labels)], tmp_path, CutRules(128, 128, (1, 0, 0)), kind="rgb")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 2


def test_groups_are_dealt_by_their_foreground(tmp_path: Path) -> None:
    layers = []
    for number in range(10):
        source = Memory(np.full((1, 64, 64), number / 10, np.float32), left=number * 1e5)
        layers += [simple(f"s{number}-{date}", f"g{number}", source) for date in range(2)]
    cut = cut_layers(layers, tmp_path, CutRules(size=32, stride=32), kind="ndvi")
    assert sorted(cut.splits.values()).count("train") == 6
    assert sorted(cut.splits.values()).count("test") == 2
    with ShardReader(tmp_path) as reader:
        assert {(chip["group"], chip["split"]) for chip in reader.chips} == set(cut.splits.items())


def test_few_groups_still_fill_every_split(tmp_path: Path) -> None:
    for seed in range(4):
        layers = [simple(n, n, Memory(np.ones((1, 64, 64), np.float32), left=i * 1e5)) for i, n in enumerate("abc")]
        cut = cut_layers(layers, tmp_path / str(seed), CutRules(size=32, stride=32, seed=seed), kind="ndvi")
        assert sorted(cut.splits.values()) == ["test", "train", "val"]
    with pytest.raises(UsageError, match="no chip for test was kept: there are fewer groups than splits"):
        cut_layers(layers[:2], tmp_path / "x", CutRules(size=32, stride=32), kind="ndvi")


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    one = Memory(np.ones((1, 64, 64), np.float32))
    rules = CutRules(size=32, stride=32, shares=(1, 0, 0))
    for layers, match in (
        ([], "there is no scene"),
        ([simple("a", "a", one), simple("a", "b", one)], "two scenes are named a"),
        ([simple("a", "a", Memory(np.ones((1, 20, 64), np.float32)))], "a: has 64 x 20 pixels, less than a chip of 32"),
        ([Layer("a", "a", one, np.zeros((3, 3), np.uint8))], "its labels have another size"),
    ):
        with pytest.raises(UsageError, match=match):
            cut_layers(layers, tmp_path / "x", rules, kind="ndvi")
    with pytest.raises(UsageError, match="no chip for train was kept: 4 with no pixel of class 2"):
        cut_layers(
            [simple("a", "a", one)],
            tmp_path / "x",
            CutRules(size=32, stride=32, shares=(1, 0, 0), present=(2,)),
            kind="ndvi",
        )
    with pytest.raises(UsageError, match='the split of "a" is not known'):
        cut_layers([simple("a", "a", one)], tmp_path / "x", rules, kind="ndvi", splits={})
    assert not (tmp_path / "x" / INDEX).exists()


def test_the_layout_of_change_detection(tmp_path: Path) -> None:
    layers = []
    for name in "ab":
        source = Memory(np.random.default_rng(ord(name)).random((2, 3, 64, 64), dtype=np.float32), left=ord(name) * 1e4)
        layer = simple(name, name, source)
        layer.labels[:5, :5] = IGNORE
        layers.append(layer)
    rules = CutRules(size=32, stride=32, shares=(0.5, 0, 0.5), normalise="iqr")
    cut_layers(layers, tmp_path / "chips", rules, kind="ngb")
    count = export_chips(tmp_path / "chips", tmp_path / "out", "change")
    lists = {path.stem: path.read_text().split() for path in (tmp_path / "out" / "list").iterdir()}
    assert sorted(lists) == ["test", "train"]
    assert sum(map(len, lists.values())) == count
    with ShardReader(tmp_path / "chips") as reader:
        scale = reader.index["scale"]
        for position in (0, len(reader.chips) - 1):
            name = reader.chips[position]["key"] + ".png"
            label, image = reader.read(position, "label"), reader.read(position, "image")
            got = np.asarray(Image.open(tmp_path / "out" / "label" / name))
            assert (got == np.where(label == IGNORE, 2, label)).all()
            for folder, first in (("A", 0), ("B", 3)):
                picture = np.asarray(Image.open(tmp_path / "out" / folder / name))
                band = (image[first].astype(float) - scale[0]["low"]) / (scale[0]["high"] - scale[0]["low"])
                assert np.abs(picture[..., 0] - np.clip(band, 0, 1) * 255).max() <= 0.51
    assert {path.name for path in (tmp_path / "out" / "A").iterdir()} == {n for names in lists.values() for n in names}


def test_the_layout_of_geotiffs(tmp_path: Path) -> None:
    source = Memory(np.random.default_rng(0).random((3, 64, 96), dtype=np.float32))
    cut_layers(
        [simple("s", "s", source)], tmp_path / "chips", CutRules(size=32, stride=32, shares=(1, 0, 0)), kind="ngb"
    )
    assert export_chips(tmp_path / "chips", tmp_path / "out", "geotiff") == 6
    path = tmp_path / "out" / "train" / "s-000032-000064.tif"
    with rasterio.open(path) as file, rasterio.open(path.with_name("s-000032-000064.label.tif")) as label:
        assert file.bounds == label.bounds == (600_640, 8_799_360, 600_960, 8_799_680)
        np.testing.assert_allclose(file.read() / 10_000, source.values[:, 32:64, 64:96], atol=5.1e-5)
    with pytest.raises(UsageError, match="holds no pairs"):
        export_chips(tmp_path / "chips", tmp_path / "x", "change")
    with pytest.raises(UsageError, match='no layout "coco"'):
        export_chips(tmp_path / "chips", tmp_path / "x", "coco")
