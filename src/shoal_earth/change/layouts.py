"""Where the files of published datasets lie: which images belong together, with which label, in which split.

* A pair folder: ``A/``, ``B/`` and ``label/`` with the same file names, and ``list/train.txt``, ``val.txt``, ``test.txt`` with
  one name a line, as most code for change detection reads it; or these three folders in each of ``train/``, ``val/``,
  ``test/``, as LEVIR-CD (H. Chen and Z. Shi, "A spatial-temporal attention-based method", Remote Sensing 2020) comes.
* OSCD, the Onera satellite change detection dataset (R. C. Daudt et al., IGARSS 2018): Sentinel-2 at two dates of 24 cities, in
  folders ``... - Images``, ``... - Train Labels`` and ``... - Test Labels``.
* HLS Burn Scars (C. Phillips et al., IBM and NASA, 2023): ``training/`` and ``validation/`` with ``*_merged.tif`` of six bands
  and ``*.mask.tif``, -1 where there is no data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import UsageError

__all__ = ["Dataset", "Entry", "find_dataset"]

_SPLITS = ("train", "val", "test")
_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Entry:
    """One image, or pair, with its label. Each date is one file of all bands, or a file for each band."""

    key: str
    split: str
    dates: tuple[tuple[Path, ...], ...]
    label: Path


@dataclass(frozen=True)
class Dataset:
    """What was found.

    ``labels`` gives the meaning of a label's values (None: told from the values themselves), ``side`` of the windows that images
    are cut into, ``resolution`` the size of a pixel in metres where the dataset has one.
    """

    name: str
    entries: tuple[Entry, ...]
    side: int
    foreground: str = "change"
    labels: Mapping[int, int] | None = None
    resolution: float | None = None


def find_dataset(folder: Path) -> Dataset:
    """The dataset in a folder, by its layout.

    Raises:
        UsageError: the folder holds none that is known, or files of it are missing.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder of chips")
    kinds: tuple[Callable[[Path], Dataset | None], ...] = (_pairs, _oscd, _burn_scars)
    for kind in kinds:
        if (found := kind(folder)) is not None:
            for entry in found.entries:
                _exists(entry)
            return found
    raise UsageError(
        f"{folder}: is no folder of chips: it has neither index.json nor the layout of a dataset that is known",
        hint="Known are A/ B/ label/ list/ (also in train/ val/ test/, as LEVIR-CD), OSCD and HLS Burn Scars; "
        "shards are made with: shoal-earth segmentation chips",
    )


def _exists(entry: Entry) -> None:
    for path in (*(file for date in entry.dates for file in date), entry.label):
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file, but {entry.key} of the split {entry.split} needs it")


def _pairs(folder: Path) -> Dataset | None:
    if all((folder / name).is_dir() for name in ("A", "B", "label")):
        lists = {split: folder / "list" / f"{split}.txt" for split in _SPLITS}
        if not lists["train"].is_file() and not lists["test"].is_file():
            raise UsageError(
                f"{lists['train']}: there is no such file, so it is not known which pairs are for training"
            )
        entries = [
            _pair(folder, name, split) for split, path in lists.items() if path.is_file() for name in _names(path)
        ]
        return Dataset("pairs", tuple(entries), 256)
    inner = [split for split in _SPLITS if all((folder / split / name).is_dir() for name in ("A", "B", "label"))]
    if "train" not in inner:
        return None
    entries = [
        _pair(folder / split, path.name, split)
        for split in inner
        for path in sorted((folder / split / "A").iterdir())
        if path.suffix.lower() in _PICTURES
    ]
    # LEVIR-CD's pictures have 0.5 m; other datasets in this layout have pixels of their own.
    levir = "levir" in folder.name.lower()
    return Dataset("LEVIR-CD" if levir else "pairs", tuple(entries), 256, resolution=0.5 if levir else None)


def _names(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    # Some lists have more columns; the first is the name.
    return [line.split()[0] for line in lines if line.strip()]


def _pair(folder: Path, name: str, split: str) -> Entry:
    if "/" in name or "\\" in name or name in ("", ".", ".."):
        raise UsageError(f'{folder}: the name "{name}" in the list of {split} leaves the folder')
    label = folder / "label" / name
    if not label.is_file():
        # Labels are pictures without loss, whatever the images are.
        label = label.with_suffix(".png")
    return Entry(f"{split}-{Path(name).stem}", split, ((folder / "A" / name,), (folder / "B" / name,)), label)


def _oscd(folder: Path) -> Dataset | None:
    places = {
        part: next((path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.endswith(part)), None)
        for part in ("Images", "Train Labels", "Test Labels")
    }
    images, train = places["Images"], places["Train Labels"]
    if images is None or train is None or not (images / "train.txt").is_file():
        return None
    cities = {
        split: [
            city.strip() for city in (images / f"{split}.txt").read_text(encoding="utf-8").split(",") if city.strip()
        ]
        for split in ("train", "test")
        if (images / f"{split}.txt").is_file()
    }
    entries = []
    for split, names in cities.items():
        labels = train if split == "train" else places["Test Labels"]
        if labels is None:
            continue
        for number, city in enumerate(names):
            # There is no published validation split: every fifth training city is one.
            own = "val" if split == "train" and number % 5 == 4 else split
            dates = tuple(tuple(sorted((images / city / f"imgs_{n}_rect").glob("B*.tif"), key=_band)) for n in (1, 2))
            if not dates[0] or [f.name for f in dates[0]] != [f.name for f in dates[1]]:
                raise UsageError(
                    f"{images / city}: imgs_1_rect and imgs_2_rect do not hold the same bands (B01.tif, ...)"
                )
            entries.append(Entry(city, own, dates, labels / city / "cm" / f"{city}-cm.tif"))
    return Dataset("OSCD", tuple(entries), 128, labels={1: 0, 2: 1}, resolution=10.0)


def _band(path: Path) -> str:
    """B8A comes behind B08."""
    name = path.stem.removeprefix("B")
    letter = name.lstrip("0123456789")
    return name.removesuffix(letter).zfill(2) + letter


def _burn_scars(folder: Path) -> Dataset | None:
    entries = []
    for name in ("training", "validation"):
        for number, path in enumerate(sorted((folder / name).glob("*_merged.tif"))):
            # The published validation part is what others report on; of training, every tenth is kept to select by.
            split = "test" if name == "validation" else "val" if number % 10 == 9 else "train"
            stem = path.name.removesuffix("_merged.tif")
            entries.append(Entry(stem, split, ((path,),), path.with_name(f"{stem}.mask.tif")))
    if not entries:
        return None
    return Dataset("HLS Burn Scars", tuple(entries), 512, "burned", {0: 0, 1: 1, -1: 255}, 30.0)
