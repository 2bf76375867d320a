"""COCO JSON, plain and as RarePlanes publishes it.

Plain: the JSON files right in the folder or in ``annotations/``; file names are looked for beside the JSON, in the folder, in
``images/`` and in a folder named after the split.

RarePlanes: ``metadata_annotations/*.json`` (those of role, or the tiled ones with all attributes), tiles in
``train/PS-RGB_tiled`` and ``test/PS-RGB_tiled``. CC BY-SA 4.0, imagery by Maxar. Shermeyer et al.,
 "RarePlanes: Synthetic Data Takes Flight", WACV 2021.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.jsonstream import stream
from shoal_earth.detection.readers.base import Collector, Open, find_images, first_there, inside, number

__all__ = ["ROLES", "read_coco", "read_rareplanes"]

ROLES = (
    "Small Civil Transport/Utility",
    "Medium Civil Transport/Utility",
    "Large Civil Transport/Utility",
    "Military Transport/Utility/AWAC",
    "Military Bomber",
    "Military Fighter/Interceptor/Attack",
    "Military Trainer",
)
"""RarePlanes' roles, by its own numbers from 1."""

_PARTS = ("images", "annotations", "categories")


def read_coco(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read COCO. Classes are sorted by name; names that are numbers become their text.

    Args:
        folder: the dataset's, or one JSON file.
        only: read these classes alone.

    Raises:
        UsageError: there is no JSON, or one is invalid, gives one id to two images or classes, or names a file outside.
    """
    files = sorted([*folder.glob("*.json"), *(folder / "annotations").glob("*.json")])
    if folder.is_file():
        files, folder = [folder], folder.parent
    if not files:
        raise UsageError(f"{folder}: has no JSON file, nor has its folder annotations")
    take = Collector("coco", folder, None, only)
    folders: list[Path] = []
    for path in files:
        split = _split_of(path.stem)
        places = [path.parent, folder, folder / "images", *([folder / split] if split else [])]
        folders += _read_file(take, path, places, split, lambda item, classes: classes.get(_key(item, "category_id")))
    if not take.findings.counts["label files"].kept:
        raise UsageError(
            f"{folder}: has no COCO file: none of {', '.join(p.name for p in files)} has images and annotations"
        )
    for place in dict.fromkeys(folders):
        take.unlabelled(find_images(place))
    return take.finish(_natural)


def read_rareplanes(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read RarePlanes' real tiles with the roles as classes. Tiles of one satellite scene form a group.

    Args:
        folder: the one with ``metadata_annotations``, ``train`` and ``test`` (or the one above it, ``real`` within).
        only: read these roles alone.

    Raises:
        UsageError: there is no such layout, or a JSON is invalid or names a file outside.
    """
    if not (folder / "metadata_annotations").is_dir() and (folder / "real" / "metadata_annotations").is_dir():
        folder = folder / "real"
    files = sorted((folder / "metadata_annotations").glob("*.json"))
    # Beside them lie files for aircraft as one class; the ones of roles come first, those with all attributes hold the role too.
    roles = [p for p in files if "role" in p.stem.lower()] or [p for p in files if "coco_annotations" in p.stem.lower()]
    if not roles:
        raise UsageError(
            f"{folder / 'metadata_annotations'}: has no instances_*_role.json and no RarePlanes_*_Coco_Annotations_tiled.json",
            hint="Get the data with: shoal-earth detection fetch --dataset rareplanes --out DIR",
        )
    take = Collector("rareplanes", folder, ROLES, only)
    folders: list[Path] = []
    for path in roles:
        split = _split_of(path.stem)
        places = [folder / part / "PS-RGB_tiled" for part in ([split] if split else ["train", "test"])]
        places += [folder / "PS-RGB_tiled"]
        folders += _read_file(take, path, places, split, _role, group=_scene)
    for place in dict.fromkeys(folders):
        take.unlabelled(find_images(place))
    return take.finish()


def _role(item: dict[str, Any], classes: dict[Hashable, str]) -> str | None:
    """The annotation's own role; files with attributes have no usable categories, files of categories no attributes."""
    role = item.get("role")
    return role if isinstance(role, str) else classes.get(_key(item, "category_id"))


def _scene(name: str) -> str:
    """``100_1040010029990A00_tile_319.png`` is of scene ``100_1040010029990A00``."""
    return re.split(r"_tile_\d+", Path(name).stem)[0]


def _split_of(stem: str) -> str | None:
    words = re.split(r"[^a-z]+", re.sub(r"\d+", " ", stem.lower()))
    names = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    return next((names[word] for word in words if word in names), None)


def _natural(name: str) -> tuple[Any, ...]:
    value = number(name)
    return (0, value, name) if value == value else (1, 0.0, name)


@dataclass
class _File:
    """One JSON being read: annotations may come before what they refer to, so they wait (in little memory)."""

    take: Collector
    path: Path
    name: str
    images: dict[Hashable, tuple[str, tuple[str, int]]] = field(default_factory=dict)
    opened: dict[Hashable, Open | None] = field(default_factory=dict)
    classes: dict[Hashable, str] = field(default_factory=dict)
    numbers: dict[Hashable, tuple[Any, ...]] = field(default_factory=dict)

    def where(self, line: int) -> str:
        return f"{self.name}:{line}"


def _read_file(
    take: Collector,
    path: Path,
    places: Sequence[Path],
    split: str | None,
    label: Callable[[dict[str, Any], dict[Hashable, str]], str | None],
    group: Callable[[str], str] = lambda name: "",
) -> Iterator[Path]:
    """Read one file; gives the folders in which its images were."""
    file = _File(take, path, take.below(path))
    take.findings.read("label files")
    if _is_array(path):
        take.findings.skip("label files", "other content", file.name, "is an array")
        return iter(())
    waiting: list[tuple[int, Any]] = []
    found: set[str] = set()
    folders: dict[Path, None] = {}
    lenient = any(place.name == "PS-RGB_tiled" for place in places)
    for key, line, item in stream(path, _PARTS, found):
        if key == "images":
            _image(file, item, line, places, split, group, folders)
        elif key == "categories":
            _category(file, item, line, lenient)
        elif key == "annotations":
            waiting.append((line, _slim(item)))
    for line, item in waiting:
        _annotation(file, item, line, label)
    if missing := {"images", "annotations"} - found:
        take.findings.skip("label files", "other content", file.name, f"no {' and no '.join(sorted(missing))}")
        return iter(())
    take.findings.keep("label files")
    return iter(folders)


def _is_array(path: Path) -> bool:
    """Whether a file begins as a list, such as predictions."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return file.read(1024).lstrip()[:1] == "["


def _slim(item: Any) -> Any:
    """Without outlines, which take most of the memory."""
    names = ("id", "image_id", "category_id", "bbox", "iscrowd", "role", "ignore", "difficult")
    return {name: item[name] for name in names if name in item} if isinstance(item, dict) else item


def _key(item: dict[str, Any], name: str) -> Hashable:
    """An id; lists and the like count as none."""
    value = item.get(name)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _image(
    file: _File,
    item: Any,
    line: int,
    places: Sequence[Path],
    split: str | None,
    group: Callable[[str], str],
    folders: dict[Path, None],
) -> None:
    take, where = file.take, file.where(line)
    own = _key(item, "id") if isinstance(item, dict) else None
    name = item.get("file_name") if isinstance(item, dict) else None
    if own is None or not isinstance(name, str) or not name:
        take.findings.read("images")
        take.findings.skip("images", "malformed", where, "an image needs an id and a file_name")
        return
    paths = [inside(place, name, where) for place in places]
    if own in file.images and file.images[own][0] != name:
        raise UsageError(
            f'{file.path}:{line}: the id {own} stands for "{name}" here and for "{file.images[own][0]}" in line '
            f"{file.images[own][1][1]}, so whose labels are whose is not known",
            hint="Such a file is refused whole: give each image an id of its own.",
        )
    size = number(item.get("width")), number(item.get("height"))
    stated = size if size[0] > 0 and size[1] > 0 else None
    path = first_there(paths) or paths[0]
    opened = take.image(path, where, file.name, size=stated, split=split, group=group(name))
    if own not in file.images:
        file.images[own], file.opened[own] = (name, (file.name, line)), opened
        folders[path.parent] = None


def _category(file: _File, item: Any, line: int, lenient: bool) -> None:
    own = _key(item, "id") if isinstance(item, dict) else None
    name = item.get("name") if isinstance(item, dict) else None
    if own is None or name is None or isinstance(name, (dict, list)):
        if lenient:  # the labels carry their role themselves
            return
        raise UsageError(f"{file.path}:{line}: a category needs an id and a name")
    text = str(name).strip().encode("utf-8", "replace").decode()
    if own in file.classes and file.classes[own] != text and not lenient:
        raise UsageError(
            f'{file.path}:{line}: the id {own} stands for the class "{text}" here and for "{file.classes[own]}" before',
            hint="Such a file is refused whole: give each class an id of its own.",
        )
    if own not in file.classes and text in file.classes.values() and not lenient:
        file.take.findings.note("labels", "class named twice", file.where(line), text)
    file.classes[own] = text
    if file.take.fixed is None:
        file.take.classes.setdefault(text, len(file.take.classes))


def _annotation(
    file: _File, item: Any, line: int, label: Callable[[dict[str, Any], dict[Hashable, str]], str | None]
) -> None:
    take, where = file.take, (file.name, line)
    if not isinstance(item, dict):
        take.findings.read("labels")
        take.findings.skip("labels", "malformed", file.where(line), "an annotation that is no object")
        return
    of = _key(item, "image_id")
    own, given = _key(item, "id"), item.get("bbox")
    box = None
    if isinstance(given, list):
        numbers = [number(value) for value in given]
        box = [*numbers[:2], numbers[0] + numbers[2], numbers[1] + numbers[3]] if len(numbers) == 4 else given
    name = label(item, file.classes)
    shown = name if name is not None or take.fixed is None else f"category {item.get('category_id')}"
    kept = take.label(
        file.opened.get(of),
        box,
        shown,
        where,
        crowd=item.get("iscrowd") in (1, True),
        difficult=item.get("ignore") in (1, True) or item.get("difficult") in (1, True),
        absent="image left out" if of in file.images else "unknown image",
        called=f"annotation {own}" if own is not None else "",
    )
    if kept and own is not None:
        content = (of, name, *map(str, given or ()))
        if file.numbers.setdefault(own, content) != content:
            take.findings.note("labels", "id used twice", file.where(line), f"id {own}")
