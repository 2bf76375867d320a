"""``shoal-earth predict``: a trained model's own answers, on a raster and on a satellite product."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import torch

from shoal_earth.rasters.composites import write_composite
from shoal_earth.rasters.masks import HIDDEN
from shoal_earth.rasters.normalise import fit_scale
from shoal_earth.rasters.predict import NOTHING
from shoal_earth.rasters.scenes import read_scene
from shoal_earth.rasters.statistics import normalise
from shoal_earth.rasters.synthetic import World
from shoal_earth.segmentation.models import build_model
from shoal_earth.training.checkpoint import save_checkpoint

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, world: World) -> tuple[Path, torch.nn.Module, list]:
    """The folder of a trial with an untrained model, and the model."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model("unet", "tu-resnet10t", bands=3, classes=2, depth=3, width=16).eval()
    scale = fit_scale(world.scenes[:2], "ngb").bands
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
        (("--model", tmp_path / "bad.pt", "--scene", world.scenes[0]), "bad.pt: cannot be read as a checkpoint"),
        (("--model", folder, "--scene", tmp_path / "none.tif"), "none.tif: there is no such raster"),
        (("--model", folder, "--scene", tmp_path / "ndvi.tif", "--overlap", 1), "the overlap is a share"),
    ):
        code, _, err = cli("predict", *arguments, "--out", tmp_path / "out")
        assert code == 2
        assert match in err
        assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
