"""``shoal-earth predict``: a trained model's own answers, on a raster and on a satellite product."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch

from shoal_earth.rasters.composites import write_composite
from shoal_earth.rasters.cutting import CutRules, Layer, cut_layers
from shoal_earth.rasters.dated_labels import scene_labels
from shoal_earth.rasters.labels import read_polygons
from shoal_earth.rasters.masks import HIDDEN
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.predict import NOTHING, CompositeSource
from shoal_earth.rasters.statistics import normalise
from shoal_earth.rasters.synthetic import World, make_world
from shoal_earth.segmentation.dataset import ChipExamples
from shoal_earth.segmentation.models import build_model, load_model
from shoal_earth.training.checkpoint import save_checkpoint

from .conftest import fitted

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, world: World) -> tuple[Path, torch.nn.Module, list]:
    """The folder of a trial with an untrained model, and the model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("unet", "tu-resnet10t", bands=3, classes=2, depth=3, width=16).eval()
    scale = fitted(world.scenes[:2], "ngb").bands
    meta = {"kind": "segmentation", "model": "unet", "encoder": "tu-resnet10t", "bands": 3, "depth": 3, "width": 16}
    meta |= {"classes": ["background", "burnt"], "scale": scale, "size": 64, "resolution": None}
    folder = tmp_path_factory.mktemp("trial")
    save_checkpoint(folder / "out" / "best.pt", {"model": model.state_dict(), "meta": meta})
    return folder, model, scale


def test_a_product_and_its_composite_give_the_same_map(world: World, trial: tuple, tmp_path: Path, cli: Cli) -> None:
    folder, model, scale = trial
    path = next(path for path in world.scenes if (read_scene(path).classes() == 0).any())
    with read_scene(path) as scene:
        write_composite(scene, "ngb", tmp_path / "ngb.tif")
        classes = scene.classes(grid=scene.grid())
        nothing = ~scene.read(["nir", "green", "blue"]).valid
    maps = {}
    for name, arguments in (
        ("raster", ("--scene", tmp_path / "ngb.tif")),
        ("product", ("--scene", path, "--composite", "ngb")),
        ("clear", ("--scene", path, "--composite", "ngb", "--skip-hidden")),
    ):
        code, out, err = cli("predict", "--model", folder, *arguments, "--out", tmp_path / name)
        assert (code, err) == (0, "")
        with rasterio.open(tmp_path / name / "probability.tif") as file:
            maps[name] = file.read(1)
        frame = geopandas.read_file(tmp_path / name / "burnt.gpkg")
        assert out.startswith(f"{len(frame)} polygons, {frame['hectares'].sum():,.2f} hectares: ")
    assert (maps["raster"] == maps["product"]).all()
    assert ((maps["product"] == NOTHING) == nothing).all()
    hidden = np.isin(classes, HIDDEN)
    assert (hidden & ~nothing).any()
    assert ((maps["clear"] == NOTHING) == (nothing | hidden)).all()
    # Where one window alone decides (the corner that no other reaches), the map is the model's answer.
    with rasterio.open(tmp_path / "ngb.tif") as file:
        corner = normalise(file.read(window=rasterio.windows.Window(0, 0, 64, 64)), scale)
    with torch.inference_mode():
        expected = model(torch.from_numpy(corner)[None]).softmax(1)[0, 1].numpy()
    assert np.abs(maps["raster"][:40, :40] - expected[:40, :40] * 250).max() <= 0.51


def test_from_scenes_to_chips_to_a_model_to_a_map(tmp_path: Path, cli: Cli) -> None:
    """The map of a product is what the model says to the chips that were cut from it: no scale is lost on the way."""
    world = make_world(tmp_path / "world", tiles=3, size=120, dates=("2019-06-10", "2020-06-14"), image="tif")
    fires, layers = read_polygons(world.fires), []
    with ExitStack() as stack:
        for path in world.scenes:
            scene = stack.enter_context(read_scene(path))
            grid = scene.grid(["nir", "green", "blue"])
            labels = scene_labels(fires, scene, grid, column="date")
            source = CompositeSource(scene, "ngb", grid, lambda pixels: pixels)
            layers.append(Layer(scene.name, scene.tile, source, labels.values))
        splits = {"21LXF": "train", "21LYF": "val", "21LXG": "test"}
        rules = CutRules(size=64, stride=56, min_valid=0.5)
        cut_layers(layers, tmp_path / "chips", rules, kind="ngb", foreground="burnt", splits=splits)
    arguments = ["--model", "unet", "--encoder", "tu-resnet10t", "--depth", 3, "--width", 16, "--epochs", 1]
    code, _, err = cli(
        "segmentation", "train", "--chips", tmp_path / "chips", "--out", tmp_path / "t", "--device", "cpu", *arguments
    )
    assert code == 0, err
    product = next(path for path in world.scenes if "20200614" in path.name and "T21LXG" in path.name)
    for scene_path in (product, tmp_path / "ngb.tif"):
        if scene_path.suffix == ".tif":
            with read_scene(product) as scene:
                write_composite(scene, "ngb", scene_path)
        out = tmp_path / f"map-{scene_path.suffix}"
        code, _, err = cli("predict", "--model", tmp_path / "t", "--scene", scene_path, "--out", out, "--overlap", 0.1)
        assert code == 0, err
        with rasterio.open(out / "probability.tif") as file:
            corner = file.read(1, window=rasterio.windows.Window(0, 0, 50, 50)).astype(float)
        model, _ = load_model(tmp_path / "t" / "best.pt")
        examples = ChipExamples(tmp_path / "chips", "test")
        wanted = f"{product.stem}-000000-000000"
        first = next(i for i in range(len(examples)) if examples.chip(i)["key"] == wanted)
        image, _ = examples.get(first, np.random.default_rng(0))
        with torch.inference_mode():
            expected = model(image[None]).softmax(1)[0, 1].numpy()[:50, :50] * 250
        seen = corner != NOTHING
        assert seen.mean() > 0.5
        # The chip's numbers are rounded to steps of 1/10,000.
        assert np.abs(corner - expected)[seen].max() < 2
    code, _, err = cli("predict", "--model", tmp_path / "t", "--scene", product, "--composite", "rgb", "--out", "x")
    assert code == 2
    assert "the model was trained on the composite ngb, not on rgb" in err


def test_models_and_scenes_that_do_not_fit(world: World, trial: tuple, tmp_path: Path, cli: Cli) -> None:
    folder, *_ = trial
    with read_scene(world.scenes[0]) as scene:
        write_composite(scene, "ndvi", tmp_path / "ndvi.tif")
    (tmp_path / "bad.pt").write_bytes(b"no model")
    for arguments, match in (
        (
            ("--model", folder, "--scene", tmp_path / "ndvi.tif"),
            "ndvi.tif: has 1 band(s), but the model was trained on 3",
        ),
        (("--model", folder, "--scene", world.scenes[0], "--composite", "evi"), "has 1 band(s), but the model"),
        (("--model", tmp_path, "--scene", world.scenes[0]), "is neither a checkpoint nor the folder of a trial"),
        (
            ("--model", tmp_path / "bad.pt", "--scene", world.scenes[0]),
            "bad.pt: cannot be read as a checkpoint: it is no file of PyTorch",
        ),
        (("--model", folder, "--scene", tmp_path / "none.tif"), "none.tif: there is no such raster"),
        (("--model", folder, "--scene", tmp_path / "ndvi.tif", "--overlap", 1), "the overlap is a share"),
    ):
        code, _, err = cli("predict", *arguments, "--out", tmp_path / "out")
        assert code == 2
        assert match in err
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
