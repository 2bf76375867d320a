"""What all readers share: every image and label passes through one place that checks, counts and names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from shoal.errors import UsageError
from shoal_earth.detection.findings import Findings
from shoal_earth.detection.form import Boxes, Dataset, Image
from shoal_earth.detection.imagery import EXTENSIONS, ImageError, Probe, probe

__all__ = ["Collector", "Open", "find_images", "first_there", "inside", "is_there", "number", "text_lines"]

Box = tuple[float, float, float, float]
_NOTHING: Box = (0.0, 0.0, 0.0, 0.0)


@dataclass
class Open:
    """An image whose labels are being read."""

    name: str
    path: Path
    facts: Probe
    label_file: str
    gsd: float | None = None
    group: str = ""
    split: str | None = None
    rows: list[tuple[Box, int, bool, bool, int]] = field(default_factory=list)
    seen: set[tuple[Any, ...]] = field(default_factory=set)
    # Where labels say on the ground that they are, for a check of the CRS: x, y.
    places: list[tuple[float, float]] = field(default_factory=list)


class Collector:
    """Takes in images and labels and counts what becomes of each.

    Args:
        name: of the dataset.
        folder: its root; names in findings are below it.
        classes: all there are, in order; None collects them from the labels.
        only: read labels of these classes alone, in this order.
    """

    def __init__(
        self, name: str, folder: Path, classes: Sequence[str] | None = None, only: Sequence[str] | None = None
    ) -> None:
        self.name, self.folder = name, folder
        self.findings = Findings()
        self._labels = self.findings.counts["labels"]
        self.fixed = only or classes
        if only and classes and (strange := sorted(set(only) - set(classes))):
            raise UsageError(f'{name} has no class "{strange[0]}"', hint=f"It has: {', '.join(classes)}.")
        self.classes: dict[str, int] = {label: number for number, label in enumerate(self.fixed or ())}
        self.images: dict[str, Open] = {}
        self.dropped: set[str] = set()
        self._home = folder.resolve()
        self._homes: dict[Path, bool] = {}  # of folders: whether they lie in it

    def below(self, path: Path) -> str:
        """A path's name below the root."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name

    def image(
        self, path: Path, where: str, label_file: str, *, size: tuple[float, float] | None = None, **facts: Any
    ) -> Open | None:
        """An image that labels speak of: opened, or None when it is left out (and said so).

        Args:
            path: the file.
            where: file and line that name it.
            label_file: where its labels are.
            size: width and height that the labels state.
            facts: gsd, group, split.
        """
        name = self.below(path)
        self.findings.read("images")
        if name in self.images or name in self.dropped:
            self.findings.skip("images", "named twice", where, name)
            return self.images.get(name)
        if not is_there(path):
            return self._drop(name, "missing", where, name)
        try:
            found = probe(path)
        except ImageError as error:
            return self._drop(name, "unreadable", where, f"{name}: {error}")
        if found.dtype.startswith("complex"):
            return self._drop(name, "pixels of complex type", where, name)
        if size is not None and size != (found.width, found.height):
            told = (
                f"{name}: has {found.width} x {found.height} pixels, but its labels are for {size[0]:g} x {size[1]:g}"
            )
            return self._drop(name, "other size", where, told)
        self.findings.keep("images")
        if self._leads_out(path):
            self.findings.note("images", "behind a link", name)
        if found.dtype != "uint8":
            self.findings.note("images", "not 8 bits", name, found.dtype)
        if found.bands != 3:
            self.findings.note(
                "images", "one band" if found.bands < 3 else "more bands", name, f"{found.bands} band(s)"
            )
        self.images[name] = Open(name, path, found, label_file, **facts)
        return self.images[name]

    def _leads_out(self, path: Path) -> bool:
        """Whether links lead from a path in the folder to a file outside of it."""
        folder = path.parent
        if folder not in self._homes:
            self._homes[folder] = folder.resolve().is_relative_to(self._home)
        if not path.is_symlink():
            return not self._homes[folder]
        return not path.resolve().is_relative_to(self._home)

    def _drop(self, name: str, reason: str, where: str, text: str) -> Open | None:
        self.findings.skip("images", reason, where, text)
        self.dropped.add(name)
        return None

    def label(
        self,
        image: Open | None,
        box: Iterable[Any] | None,
        label: str | None,
        where: tuple[str, int],
        *,
        difficult: bool = False,
        crowd: bool = False,
        absent: str = "image left out",
        called: str = "",
    ) -> bool:
        """One label: kept (true), or left out with its reason.

        Args:
            image: its image; None if that was left out, for the reason ``absent``.
            box: left, top, right, bottom; None if there are not four of them.
            label: name of its class; None if there is none of that name.
            where: file and line.
            difficult: not counted in evaluation.
            crowd: stands for many objects.
            called: what it is called in its file, beside the line.
        """
        self._labels.read += 1
        if label is not None and label not in self.classes:
            # Half a surrogate pair, which JSON may hold, could not be written again.
            label = label.encode("utf-8", "replace").decode()
        reason, text, given, kept = self._judge(image, box, label, absent)
        if reason is None and image is not None and label is not None:
            number = self.classes.setdefault(label, len(self.classes))
            key = (given, number, crowd)
            if key not in image.seen:
                image.seen.add(key)
                if kept is not given:
                    self.findings.note("labels", "clipped", _place(where), f"{image.name}: {_words(given)}")
                image.rows.append((kept, number, difficult, crowd, where[1]))
                self._labels.kept += 1
                return True
            reason, text = "twice", f"{label} {_words(given)}"
        told = ": ".join(part for part in (called, image.name if image else "", text) if part)
        self.findings.skip("labels", reason or "malformed", _place(where), told)
        return False

    def _judge(
        self, image: Open | None, box: Iterable[Any] | None, label: str | None, absent: str
    ) -> tuple[str | None, str, Box, Box]:
        """Why a label is left out, if it is, and more about that; its box as it is given and cut to the image."""
        if image is None:
            return absent, "", _NOTHING, _NOTHING
        if box is None:
            return "malformed", "", _NOTHING, _NOTHING
        values = list(box)
        if len(values) != 4:
            return "malformed", f"{len(values)} numbers", _NOTHING, _NOTHING
        left, top, right, bottom = map(number, values)
        given = (left, top, right, bottom)
        if not all(map(math.isfinite, given)):
            return "not a number", " ".join(map(str, values))[:80], _NOTHING, _NOTHING
        if label is None or (self.fixed is not None and label not in self.classes):
            return "unknown class", str(label)[:80], _NOTHING, _NOTHING
        if right < left or bottom < top:
            return "inverted", _words(given), given, given
        if right == left or bottom == top:
            return "empty", _words(given), given, given
        width, height = image.facts.width, image.facts.height
        if left >= 0 and top >= 0 and right <= width and bottom <= height:
            return None, "", given, given
        kept = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if kept[0] >= kept[2] or kept[1] >= kept[3]:
            return "outside", f"{_words(given)} of {width} x {height}", given, given
        return None, "", given, kept

    def unlabelled(self, images: Iterable[Path]) -> None:
        """Count the images that no label file names."""
        for path in images:
            name = self.below(path)
            if name not in self.images and name not in self.dropped:
                self.findings.read("images")
                self._drop(name, "no labels", name, "")

    def forget(self, image: Open, reason: str, text: str) -> None:
        """Leave an image out after all, and its labels with it."""
        del self.images[image.name]
        self.findings.counts["images"].kept -= 1
        self._drop(image.name, reason, image.label_file, f"{image.name}: {text}")
        self.findings.counts["labels"].kept -= len(image.rows)
        self.findings.skip("labels", "image left out", image.label_file, image.name, len(image.rows))

    def finish(self, order: Callable[[str], Any] | None = None) -> Dataset:
        """The dataset, images in order of their names, classes in order of their numbers, or of their names where collected."""
        names = list(self.classes)
        if self.fixed is None:
            names.sort(key=order)
        moved = {self.classes[label]: position for position, label in enumerate(names)}
        images = []
        for name in sorted(self.images):
            own = self.images[name]
            rows = own.rows
            if self.fixed is None:
                rows = [(box, moved[kind], difficult, crowd, line) for box, kind, difficult, crowd, line in rows]
            images.append(
                Image(
                    name,
                    own.path,
                    own.facts.width,
                    own.facts.height,
                    own.facts.bands,
                    own.facts.dtype,
                    Boxes.of(rows),
                    own.label_file,
                    own.facts.crs,
                    own.facts.transform,
                    own.gsd,
                    own.group or name,
                    own.split,
                )
            )
        self.findings.check()
        return Dataset(self.name, self.folder, tuple(names), tuple(images), self.findings)


def inside(folder: Path, name: str, where: str) -> Path:
    """The file that data names in a folder.

    Links that lie in the folder are followed, names that lead out of it are not: such a dataset is refused, since no honest one
    has them.

    Raises:
        UsageError: the name leaves the folder, or is none.
    """
    pure = PurePosixPath(name.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or ":" in (pure.parts or ("",))[0] or "\0" in name or not pure.parts:
        raise UsageError(
            f'{where}: the file name "{name[:200]}" leaves the folder of the dataset',
            hint="Such a dataset is refused whole. Check where it comes from.",
        )
    return folder.joinpath(*pure.parts)


def is_there(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have is that of none."""
    try:
        return path.is_file()
    except OSError:
        return False


def first_there(paths: Sequence[Path]) -> Path | None:
    """The first that is a file, or else the first broken link."""
    if found := next((path for path in paths if is_there(path)), None):
        return found
    try:
        return next((path for path in paths if path.is_symlink()), None)
    except OSError:
        return None


def find_images(folder: Path) -> list[Path]:
    """All images right in a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))


def number(value: Any) -> float:
    """A number from a number or its text; NaN where it is none."""
    kind = type(value)
    # float() takes an underscore for a space between thousands.
    if kind is bool or (kind is str and "_" in value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def text_lines(path: Path, findings: Findings, name: str) -> list[str]:
    """The lines of a text file; bytes that are no UTF-8 are replaced, and noted.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("utf-8-sig", errors="replace")
        findings.note("label files", "not UTF-8", name)
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _place(where: tuple[str, int]) -> str:
    """File and line, as far as there is one."""
    return f"{where[0]}:{where[1]}" if where[1] else where[0]


def _words(box: Box) -> str:
    return ", ".join(f"{value:g}" for value in box)
