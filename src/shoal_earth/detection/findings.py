"""What was read, kept and left out, and why: numbers that add up exactly, and the file and line of each thing left out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shoal.errors import ShoalError

__all__ = ["NOTES", "REASONS", "Count", "Finding", "Findings"]

REASONS = {
    "label files": {
        "no image": "a label file without its image is left out; its labels are counted as of an image that was left out",
        "other content": "a JSON file without images and annotations, or a CSV file without the columns, is passed over",
        "unreadable": "a label file that is no valid XML, or holds a DTD or entities, is left out with its image",
    },
    "images": {
        "missing": "an image that is named but not there is left out with its labels",
        "no labels": "an image that no label file names is left out: nobody says that it is empty",
        "unreadable": "an image that cannot be opened is left out with its labels",
        "other size": "an image of another size than its labels state is left out with its labels",
        "other place": "an image is left out with its labels if none of their map coordinates lies on it (wrong CRS)",
        "label file unreadable": "the image of an unreadable label file is left out",
        "pixels of complex type": "an image of complex numbers is left out with its labels",
        "named twice": "a second entry for the same image is merged into the first",
        "malformed": "an entry that lacks a name or an id, or is no object, is left out",
    },
    "labels": {
        "malformed": "a label that lacks a part, or has too few or too many numbers, is left out (a quad of three points too)",
        "not a number": "a box with a NaN or infinite number, or with text for a number, is left out",
        "inverted": "a box whose right is left of its left, or bottom above its top, is left out: which end is wrong?",
        "empty": "a box without width or height is left out",
        "outside": "a box wholly outside of its image is left out",
        "unknown class": "a label of a class that is not among the dataset's (or not asked for) is left out",
        "twice": "the same box with the same class in the same image is counted once",
        "image left out": "labels of an image that was left out go with it",
        "unknown image": "a label of an image that no entry describes is left out",
        "no object": "a row that only says that its image has no object",
    },
    "boxes": {
        "image unreadable": "an image that ends early or is damaged gives no chip, and its boxes are lost",
        "cut everywhere": "a box of which no chip shows enough is lost; more overlap or larger chips keep it",
        "too small": "a box that no chip shows at the smallest side asked for is lost",
    },
    "pieces": {
        "cut": "a piece that shows less of its box than asked for is no object of that chip",
        "too small": "a piece whose shorter side is below the smallest asked for is no object of that chip",
    },
    "chips": {
        "empty": "a chip without an object is dropped unless empty ones are kept",
        "image unreadable": "no chip of a damaged image is kept, not even of the part that can be read",
    },
    "decoded images": {
        "unreadable": "an image that ends early or is damaged gives no chip",
    },
}
"""Why something is left out, by kind of thing, and the rule."""

NOTES = {
    "clipped": "the box reached beyond its image and was cut to it",
    "id used twice": "another label has the same id; both are kept, since they differ",
    "class named twice": "two ids stand for one class; they are one class here",
    "behind a link": "the file lies outside of the dataset's folder, behind a link in it; links are followed",
    "found by its stem": "the file that the label names is not there; the one with the same stem is taken",
    "scene in two splits": "the scene of this image is in two published splits",
    "shown in part": "the piece shows less than is clear, so it is marked difficult",
    "not UTF-8": "bytes that are no UTF-8 were replaced",
    "not 8 bits": "the pixels are stored as they are, and shown from their image's 1st to its 99th percentile",
    "one band": "the image is shown as grey",
    "more bands": "red, green and blue are taken where the file says which they are, else the first three bands",
}
"""What was kept but not as it was."""


def _plain(text: str) -> str:
    """Text that can be written: half a surrogate pair, which JSON may hold, cannot; and of a line's length."""
    return text[:500].encode("utf-8", "replace").decode()


class Finding(NamedTuple):
    """One thing left out (or, with ``kept``, changed). ``where`` is file and line, as far as there is one."""

    kind: str
    reason: str
    where: str
    text: str
    number: int = 1
    kept: bool = False


@dataclass
class Count:
    """Of one kind of thing. ``read`` = ``kept`` + the sum of ``skipped``; ``noted`` are among the kept."""

    read: int = 0
    kept: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)

    @property
    def adds_up(self) -> bool:
        """Whether nothing was lost without a reason."""
        return self.read == self.kept + sum(self.skipped.values())


class Findings:
    """Counts by kind, and each finding by name. Reading, keeping and skipping are counted apart: :meth:`check` can fail."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {kind: Count() for kind in REASONS}
        self.entries: list[Finding] = []

    def read(self, kind: str, number: int = 1) -> None:
        """Count things met."""
        self.counts[kind].read += number

    def keep(self, kind: str, number: int = 1) -> None:
        """Count things kept."""
        self.counts[kind].kept += number

    def skip(self, kind: str, reason: str, where: str, text: str = "", number: int = 1) -> None:
        """Count things left out, and say which. ``reason`` is one of :data:`REASONS`."""
        if reason not in REASONS[kind]:
            raise KeyError(f"{kind}: {reason}")
        if number:
            self.counts[kind].skipped[reason] += number
            self.entries.append(Finding(kind, reason, _plain(where), _plain(text), number))

    def count_skip(self, kind: str, reason: str, number: int) -> None:
        """Count things left out that need no name of their own: pieces of boxes and empty chips follow from the rules."""
        if reason not in REASONS[kind]:
            raise KeyError(f"{kind}: {reason}")
        if number:
            self.counts[kind].skipped[reason] += number

    def note(self, kind: str, what: str, where: str = "", text: str = "", number: int = 1) -> None:
        """Say that something was kept but not as it was, by one of :data:`NOTES`; without ``where`` it is only counted."""
        if what not in NOTES:
            raise KeyError(what)
        if number:
            self.counts[kind].noted[what] += number
            if where:
                self.entries.append(Finding(kind, what, _plain(where), _plain(text), number, kept=True))

    def check(self) -> None:
        """Hold that every number adds up.

        Raises:
            ShoalError: one does not, which is a fault of this program.
        """
        for kind, count in self.counts.items():
            if not count.adds_up:
                raise ShoalError(
                    f"{kind}: read {count.read}, but kept {count.kept} and left out {sum(count.skipped.values())}",
                    hint="This is a fault of Shoal: please report it.",
                )

    def lines(self, examples: int = 3) -> list[str]:
        """In words: counts, reasons, and the first few of each by file and line."""
        lines = []
        for kind, count in self.counts.items():
            if not count.read:
                continue
            lines.append(f"{kind}: {count.read} read, {count.kept} kept, {count.read - count.kept} left out")
            for kept, reasons in ((False, count.skipped), (True, count.noted)):
                for reason, number in sorted(reasons.items()):
                    lines.append(f"  {'kept, but ' if kept else ''}{reason}: {number}")
                    named = [e for e in self.entries if (e.kind, e.reason, e.kept) == (kind, reason, kept)]
                    for entry in named[:examples]:
                        lines.append(f"    {entry.where}{': ' if entry.text else ''}{entry.text}")
                    if len(named) > examples:
                        lines.append(f"    ... and {len(named) - examples} more in findings.json")
        return lines

    def to_json(self, **facts: Any) -> str:
        """Everything, one finding a line: the same text for the same findings."""
        counts = {
            kind: {
                "read": count.read,
                "kept": count.kept,
                "skipped": dict(sorted(count.skipped.items())),
                "noted": dict(sorted(count.noted.items())),
            }
            for kind, count in self.counts.items()
        }
        head = json.dumps({**facts, "counts": counts}, indent=1, ensure_ascii=False)[:-2]
        rows = ",\n  ".join(json.dumps(entry._asdict(), ensure_ascii=False) for entry in self.entries)
        return f'{head},\n "entries": [{"" if not rows else chr(10) + "  " + rows + chr(10) + " "}]\n}}\n'
