"""VOC XML: one file for each image. Entities and DTDs are refused: what they expand to could be anything, of any size.

XML files in the folder or in ``Annotations/``; images beside them, in the folder, ``JPEGImages/`` or ``images/``. Numbers are
taken as they stand (original VOC counts pixels from 1, most tools of today from 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from shoal.errors import UsageError
from shoal_earth.detection.form import Dataset
from shoal_earth.detection.imagery import EXTENSIONS
from shoal_earth.detection.readers.base import Collector, find_images, first_there, inside, is_there, number

__all__ = ["read_voc"]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Object:
    line: int
    parts: dict[str, str] = field(default_factory=dict)


@dataclass
class _Annotation:
    filename: str = ""
    line: int = 0
    size: dict[str, str] = field(default_factory=dict)
    objects: list[_Object] = field(default_factory=list)


class _Refused(Exception):
    """The XML holds what no label file needs."""


def read_voc(folder: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Read VOC XML files. Classes are those met, sorted.

    Args:
        folder: the dataset's.
        only: read these classes alone.

    Raises:
        UsageError: there is no XML file, or one names a file outside of the folder.
    """
    files = sorted([*folder.glob("*.xml"), *(folder / "Annotations").glob("*.xml")])
    if not files:
        raise UsageError(f"{folder}: has no XML file, nor has its folder Annotations")
    take = Collector("voc", folder, None, only)
    places = [folder, folder / "JPEGImages", folder / "images"]
    unreadable = set[str]()
    for path in files:
        name = take.below(path)
        take.findings.read("label files")
        try:
            found = _parse(path)
        except (expat.ExpatError, _Refused, OSError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, expat.ExpatError) else ""
            take.findings.skip("label files", "unreadable", f"{name}{line}", str(error))
            unreadable.add(path.stem)
            continue
        image_path, by_stem = _image_path(found, path, [path.parent, *places], f"{name}:{found.line}")
        if image_path is None:
            take.findings.skip("label files", "no image", name, f"{found.filename}, {len(found.objects)} labels")
            for item in found.objects:
                take.label(None, None, None, (name, item.line))
            continue
        take.findings.keep("label files")
        if by_stem:
            take.findings.note("label files", "found by its stem", name, f"{found.filename} -> {image_path.name}")
        size = number(found.size.get("width")), number(found.size.get("height"))
        image = take.image(image_path, name, name, size=size if size[0] > 0 and size[1] > 0 else None)
        for item in found.objects:
            box = [item.parts[c] for c in _CORNERS if c in item.parts]
            difficult = item.parts.get("difficult", "0").strip() not in ("0", "")
            take.label(image, box, item.parts.get("name", "").strip() or None, (name, item.line), difficult=difficult)
    for place in dict.fromkeys(places):
        pictures = find_images(place)
        for picture in pictures:
            below = take.below(picture)
            if picture.stem in unreadable and below not in take.images and below not in take.dropped:
                take.findings.read("images")
                take.findings.skip("images", "label file unreadable", below)
                take.dropped.add(below)
        take.unlabelled(pictures)
    return take.finish()


def _image_path(found: _Annotation, path: Path, places: list[Path], where: str) -> tuple[Path | None, bool]:
    """The image, and whether it was found by its stem alone."""
    candidates = [inside(place, found.filename, where) for place in places] if found.filename else []
    if exact := first_there(candidates):
        return exact, False
    stems = [Path(found.filename).stem, path.stem] if found.filename else [path.stem]
    for stem in stems:
        for place in places:
            for extension in EXTENSIONS:
                if is_there(other := place / f"{stem}{extension}"):
                    return other, True
    return None, False


def _parse(path: Path) -> _Annotation:
    """The parts of one file that matter.

    Raises:
        ExpatError: it is no XML.
        _Refused: it holds a DTD, or is no annotation.
    """
    found, stack, text = _Annotation(), list[str](), list[str]()
    parser = expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise _Refused("holds a DTD or entities, which label files do not need")

    def start(tag: str, _: object) -> None:
        if not stack and tag != "annotation":
            raise _Refused(f"is no annotation: its root is <{tag}>")
        stack.append(tag)
        text.clear()
        if stack == ["annotation", "object"]:
            found.objects.append(_Object(parser.CurrentLineNumber))

    def end(tag: str) -> None:
        value, place = "".join(text).strip(), tuple(stack[1:])
        stack.pop()
        text.clear()
        if place == ("filename",):
            found.filename, found.line = value, parser.CurrentLineNumber
        elif len(place) == 2 and place[0] == "size":
            found.size[tag] = value
        elif place[:1] == ("object",) and (len(place) == 2 or place[1:2] == ("bndbox",)):
            found.objects[-1].parts[tag] = value

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    with path.open("rb") as file:
        parser.ParseFile(file)
    return found
