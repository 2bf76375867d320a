"""Published datasets in their own layout, as small copies: pair folders, LEVIR-CD, OSCD, HLS Burn Scars, CaBuAr."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from geotiff import write_geotiff
from needs import require
from shoal.errors import UsageError
from shoal_earth.change.folders import FolderReader, convert, open_chips
from shoal_earth.rasters.shards import ShardReader
from shoal_earth.segmentation.dataset import ChipExamples

from .pairs import write_pairs

FIXTURES = Path(os.environ.get("SHOAL_FIXTURES", "nowhere"))


def png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def tif(path: Path, values: np.ndarray, **more: Any) -> Path:
    return write_geotiff(path, values, **{"crs": "EPSG:32610", "pixel": 30, **more})


def levir(folder: Path, rng: np.random.Generator) -> Path:
    """As downloaded: train/, val/, test/ with A/, B/, label/, pictures of 1024 pixels (here 512), labels of 0 and 255."""
    for split in ("train", "val", "test"):
        for number in (1, 2):
            name = f"{split}_{number}.png"
            for date in ("A", "B"):
                png(folder / split / date / name, rng.integers(0, 255, (512, 512, 3), np.uint8))
            label = np.zeros((512, 512), np.uint8)
            label[300:340, 10:60] = 255
            png(folder / split / "label" / name, label)
    return folder


def oscd(folder: Path, rng: np.random.Generator) -> Path:
    """As downloaded: 13 bands of two dates resampled to one grid, labels of 1 and 2, cities listed with commas."""
    cities = {
        "train": ["abudhabi", "beihai", "bercy", "bordeaux", "cupertino", "mumbai"],
        "test": ["brasilia", "dubai"],
    }
    images = folder / "Onera Satellite Change Detection dataset - Images"
    names = [f"B{n:02d}" for n in range(1, 9)] + ["B8A", "B09", "B10", "B11", "B12"]
    for split, listed in cities.items():
        for city in listed:
            size = (int(rng.integers(130, 160)), int(rng.integers(130, 160)))
            for date in (1, 2):
                for number, name in enumerate(names):
                    values = rng.integers(100 * number, 100 * number + 50, (1, *size)).astype(np.uint16)
                    tif(images / city / f"imgs_{date}_rect" / f"{name}.tif", values)
            label = np.ones((1, *size), np.uint8)
            label[0, 20:40, 100:140] = 2
            part = f"Onera Satellite Change Detection dataset - {split.title()} Labels"
            tif(folder / part / city / "cm" / f"{city}-cm.tif", label)
        (images / f"{split}.txt").write_text(",".join(listed))
    return folder


def burn_scars(folder: Path, rng: np.random.Generator) -> Path:
    """As downloaded, with the real mask of the fixtures among the generated ones if it is there."""
    for part, count in (("training", 11), ("validation", 2)):
        for number in range(count):
            stem = f"subsetted_512x512_HLS.S30.T10TGS.20182{number:02d}.v1.4"
            tif(folder / part / f"{stem}_merged.tif", rng.random((6, 512, 512), np.float32))
            mask = np.zeros((1, 512, 512), np.int16)
            mask[:, 100:200, 100:300], mask[:, :, 500:] = 1, -1
            tif(folder / part / f"{stem}.mask.tif", mask)
    return folder


def test_levir_cd_is_read_in_windows_of_256(tmp_path: Path) -> None:
    reader = FolderReader(levir(tmp_path / "LEVIR-CD", np.random.default_rng(0)))
    index = reader.index
    assert (index["dataset"], index["size"], index["bands"], index["dates"], index["resolution"]) == (
        "LEVIR-CD",
        256,
        6,
        2,
        0.5,
    )
    assert [sum(chip["split"] == split for chip in reader.chips) for split in ("train", "val", "test")] == [8, 8, 8]
    at = next(
        i
        for i, chip in enumerate(reader.chips)
        if (chip["scene"], chip["row"], chip["column"]) == ("train-train_2", 256, 0)
    )
    label = reader.read(at, "label")
    assert (np.unique(label).tolist(), int((label == 1).sum())) == ([0, 1], 40 * 50)
    assert reader.chips[at]["share"] == pytest.approx(2000 / 256**2, abs=1e-6)
    before = np.asarray(Image.open(tmp_path / "LEVIR-CD" / "train" / "A" / "train_2.png"))[256:, :256]
    np.testing.assert_array_equal(reader.read(at, "image")[:3], before.transpose(2, 0, 1))
    image, _ = ChipExamples(tmp_path / "LEVIR-CD", "train").get(0, np.random.default_rng(0))
    assert (float(image.min()), float(image.max())) == pytest.approx((-1, 1), abs=0.02)


def test_oscd_has_13_bands_a_date_and_edges_to_ignore(tmp_path: Path) -> None:
    folder = oscd(tmp_path / "oscd", np.random.default_rng(1))
    reader = FolderReader(folder)
    assert (reader.index["bands"], reader.index["dates"], reader.index["size"]) == (26, 2, 128)
    splits = {chip["scene"]: chip["split"] for chip in reader.chips}
    assert {city for city, split in splits.items() if split == "val"} == {"cupertino"}
    assert {city for city, split in splits.items() if split == "test"} == {"brasilia", "dubai"}
    total = 0
    for position, chip in enumerate(reader.chips):
        image, label = reader.read(position, "image"), reader.read(position, "label")
        assert image.shape == (26, 128, 128)
        # B8A stands behind B08, before B09.
        assert [int(band.mean()) // 100 for band in image] == [*range(13)] * 2
        total += int((label == 1).sum()) if chip["scene"] == "dubai" else 0
    assert total == 20 * 40
    image, _ = ChipExamples(folder, "test").get(0, np.random.default_rng(0))
    assert abs(float(image.mean())) < 0.5


def test_hls_burn_scars_are_one_date_of_six_bands_with_missing_pixels_ignored(tmp_path: Path) -> None:
    folder = burn_scars(tmp_path / "hls", np.random.default_rng(2))
    real = FIXTURES / "burned" / "terratorch" / "subsetted_512x512_HLS.S30.T10TGS.2018285.v1.4.mask.tif"
    require("fixtures", real.is_file(), "SHOAL_FIXTURES does not name the sample data")
    shutil.copy(real, folder / "training" / real.name)
    with rasterio.open(real) as file:
        mask, profile = file.read(1), {"crs": file.crs, "transform": file.transform}
    merged = real.name.replace(".mask.tif", "_merged.tif")
    tif(folder / "training" / merged, np.random.default_rng(3).random((6, *mask.shape), np.float32), **profile)
    reader = FolderReader(folder)
    assert (reader.index["bands"], reader.index["dates"], reader.index["classes"]) == (6, 1, ["background", "burned"])
    counts = [sum(chip["split"] == split for chip in reader.chips) for split in ("train", "val", "test")]
    assert counts == [11, 1, 2]
    at = next(i for i, chip in enumerate(reader.chips) if chip["scene"] + "_merged.tif" == merged)
    label = reader.read(at, "label")
    for stored, meant in ((-1, 255), (0, 0), (1, 1)):
        np.testing.assert_array_equal(label == meant, mask == stored)


def test_what_is_exported_to_a_pair_folder_is_read_again_and_becomes_shards_again(tmp_path: Path, cli) -> None:
    chips = write_pairs(tmp_path / "chips")
    code, out, error = cli("change", "export", "--chips", chips, "--layout", "change", "--out", tmp_path / "folder")
    assert (code, out) == (0, f"16 chips: {tmp_path / 'folder'}\n"), error
    with ShardReader(chips) as shards:
        reader = open_chips(tmp_path / "folder")
        assert isinstance(reader, FolderReader)
        assert len(reader.chips) == len(shards.chips)
        places = {f"{c['split']}-{c['key']}-000000-000000": i for i, c in enumerate(shards.chips)}
        for position, chip in enumerate(reader.chips):
            own = places[chip["key"]]
            np.testing.assert_array_equal(reader.read(position, "label"), shards.read(own, "label"))
    code, out, error = cli("change", "import", tmp_path / "folder", "--out", tmp_path / "again")
    assert (code, out.strip()) == (0, "10 chips for train, 2 chips for val, 4 chips for test"), error
    with ShardReader(tmp_path / "again") as again:
        assert again.index["scale"] == reader.index["scale"]
        for position in range(len(again.chips)):
            for kind in ("image", "label"):
                np.testing.assert_array_equal(again.read(position, kind), reader.read(position, kind))
    code, _, error = cli(
        "change", "train", "--chips", tmp_path / "folder", "--model", "fc-siam-diff", "--width", 4, "--epochs", 1,
        "--batch-size", 4, "--device", "cpu", "--out", tmp_path / "trial",
    )  # fmt: skip
    assert code == 0, error


def cabuar(path: Path, *, kind: str, size: int = 80) -> dict[str, dict[str, np.ndarray]]:
    """As published: BZip2 by hdf5plugin, 16 bits, (height, width, 12). ``whole``: fires by fold, masks of two axes; ``patched``
    and ``chabud``: with their fold as an attribute, masks with a third axis of one."""
    import h5py
    import hdf5plugin

    rng = np.random.default_rng(0)
    made: dict[str, dict[str, np.ndarray]] = {}
    with h5py.File(path, "w") as file:
        for fold in ["chabud"] if kind == "chabud" else range(5):
            for number in range(2):
                name = f"{fold}fa08801-64b1-4d11-a3fc-0efaad1f4274_{number}"
                fire = {
                    date: rng.integers(1, 9000, (size, size, 12)).astype(np.uint16)
                    for date in ("pre_fire", "post_fire")
                }
                fire["mask"] = np.zeros((size, size), np.uint16)
                fire["mask"][20:40, 60:70] = 1
                fire["post_fire"][30:36, 61:63] = 0
                if fold == 3 and number:
                    del fire["pre_fire"]
                group = file.create_group(f"{fold}/{name}" if kind == "whole" else name)
                if kind != "whole":
                    group.attrs["fold"] = fold if kind == "chabud" else np.int64(fold)
                for key, values in fire.items():
                    stored = values[..., None] if key == "mask" and kind != "whole" else values
                    group.create_dataset(key, data=stored, chunks=(40, 40, *stored.shape[2:]), **hdf5plugin.BZip2())
                made[name] = fire
    return made


@pytest.mark.parametrize("kind", ["whole", "patched", "chabud"])
def test_cabuar_becomes_pairs_of_twelve_bands(tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    require("h5py", importlib.util.find_spec("hdf5plugin"), "h5py and hdf5plugin are not installed")
    monkeypatch.setattr("shoal_earth.change.cabuar._SIDE", 64)
    fires = cabuar(tmp_path / "512x512.hdf5", kind="whole" if kind == "whole" else "patched")
    given, splits, counts = tmp_path / "512x512.hdf5", {"0": "test", "1": "val"}, {"train": 10, "test": 4, "val": 4}
    if kind == "chabud":
        fires |= cabuar(tmp_path / "chabud_test.h5", kind="chabud")
        given, splits, counts = tmp_path, {"0": "val", "c": "test"}, {"train": 14, "test": 4, "val": 4}
    code, out, error = cli("change", "import", given, "--out", tmp_path / "chips")
    # Two windows of each fire have burnt ground; one of the fires has no image from before.
    assert code == 0, error
    assert sorted(out.strip().split(", ")) == sorted(f"{count} chips for {split}" for split, count in counts.items())
    with ShardReader(tmp_path / "chips") as reader:
        assert (reader.index["bands"], reader.index["dates"], reader.index["size"]) == (24, 2, 64)
        assert len(reader.index["scale"]) == 24
        for position, chip in enumerate(reader.chips):
            fire = fires[chip["scene"]]
            assert splits.get(chip["scene"][0], "train") == chip["split"]
            image, label = reader.read(position, "image"), reader.read(position, "label")
            rows, columns = (slice(chip[k], min(chip[k] + 64, 80)) for k in ("row", "column"))
            height, width = rows.stop - rows.start, columns.stop - columns.start
            for number, date in enumerate(("pre_fire", "post_fire")):
                expected = np.moveaxis(fire[date][rows, columns], -1, 0)
                np.testing.assert_array_equal(image[number * 12 : number * 12 + 12, :height, :width], expected)
            there = fire["post_fire"][rows, columns].any(-1)
            wanted = np.where(there, fire["mask"][rows, columns], 255)
            np.testing.assert_array_equal(label[:height, :width], wanted)
            assert (label[height:] == 255).all()
            assert (label[:, width:] == 255).all()
    whole = (tmp_path / "512x512.hdf5").read_bytes()
    (tmp_path / "512x512.hdf5").write_bytes(whole[: len(whole) // 2])
    code, _, error = cli("change", "import", tmp_path / "512x512.hdf5", "--out", tmp_path / "again")
    assert code == 2
    assert "512x512.hdf5: cannot be read as CaBuAr" in error
    assert list((tmp_path / "again").glob("*.tar")) == []


def test_damaged_datasets_are_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"(?s)no folder of chips.*OSCD"):
        open_chips(tmp_path)
    with pytest.raises(UsageError, match="there is no such folder"):
        open_chips(tmp_path / "nowhere")
    folder = levir(tmp_path / "levir", rng)
    (folder / "val" / "B" / "val_1.png").unlink()
    with pytest.raises(
        UsageError, match=r"B/val_1.png: there is no such file, but val-val_1 of the split val needs it"
    ):
        FolderReader(folder)
    png(folder / "val" / "B" / "val_1.png", rng.integers(0, 255, (500, 512, 3), np.uint8))
    reader = FolderReader(folder)
    at = next(i for i, chip in enumerate(reader.chips) if chip["scene"] == "val-val_1")
    with pytest.raises(
        UsageError, match=r"B/val_1.png: differs from .*A/val_1.png: 512 x 512 of 3 band\(s\) and 512 x 500"
    ):
        reader.read(at, "image")
    png(folder / "val" / "label" / "val_1.png", np.zeros((256, 512), np.uint8))
    with pytest.raises(UsageError, match=r"label/val_1.png: has 512 x 256 pixels, but .*A/val_1.png 512 x 512"):
        FolderReader(folder)
    png(folder / "val" / "label" / "val_1.png", np.full((512, 512), 77, np.uint8))
    with pytest.raises(UsageError, match=r"(?s)labels hold the values 0, 77, 255.*0 and 255"):
        FolderReader(folder)
    (folder / "val" / "label" / "val_1.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"label/val_1.png: cannot be read as an image"):
        FolderReader(folder)
    pairs = tmp_path / "pairs"
    for name in ("A", "B", "label", "list"):
        (pairs / name).mkdir(parents=True)
    with pytest.raises(UsageError, match=r"list/train.txt: there is no such file"):
        FolderReader(pairs)
    (pairs / "list" / "train.txt").write_text("../../secret.png\n")
    with pytest.raises(UsageError, match="leaves the folder"):
        FolderReader(pairs)
    with pytest.raises(UsageError):
        convert(pairs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
