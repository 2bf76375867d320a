"""Pictures that tasks left in ``out/pictures``, each embedded once however many trials show it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal.report.trials import Trials
from shoal.results import StudyData
from shoal.results.data import Task, finite
from shoal.store.index import read_json

__all__ = ["Pictures", "collect_pictures"]

#: Bytes of pictures a page may hold, the longest side of one, and how many samples are shown.
BUDGET, SIDE, SAMPLES = 9_000_000, 320, 12
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}
_FIRST = {"input": 0, "before": 0, "after": 1, "truth": 2, "prediction": 3}
_LARGEST = 30_000_000
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
#: Panels of what a model is given and should say, not of what it says; and bytes from which a picture is made smaller.
INPUTS, _LIGHT = ("input", "before", "after", "truth"), 30_000


@dataclass
class Pictures:
    """What the page shows.

    Attributes:
        images: key to data URI.
        samples: ``{"name", "title", "caption"}`` in the order in which they are shown.
        metric: what the scores are; ``legend``: what is drawn, to its colour.
        shared: sample to panel to key, for panels that are the same in every trial shown.
        trials: position of a trial to sample to panel to key; ``scores``: to sample to number.
        roles: ``best``, ``median``, ``worst`` to the position of the trial.
        left_out: how many pictures did not fit.
    """

    images: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    panels: list[str] = field(default_factory=list)
    shared: dict[str, dict[str, str]] = field(default_factory=dict)
    trials: dict[int, dict[str, dict[str, str]]] = field(default_factory=dict)
    scores: dict[int, dict[str, float]] = field(default_factory=dict)
    metric: str = "score"
    legend: dict[str, str] = field(default_factory=dict)
    roles: dict[str, int] = field(default_factory=dict)
    left_out: int = 0


def collect_pictures(data: StudyData, trials: Trials, also: list[int]) -> Pictures:
    """Choose trials and samples, and embed their pictures.

    Args:
        data: the study.
        trials: its trials.
        also: trials to add after best, median and worst while there is room, most wanted first.
    """
    ranked = trials.ranked() or [i for i, s in enumerate(trials.states) if s == "done"]
    folders: dict[int, Path] = {}

    def has(i: int) -> bool:
        if i not in folders:
            folder = _folder(data, trials.tasks[i])
            if folder is None:
                return False
            folders[i] = folder
        return True

    shown = Pictures()
    if trials.ref:
        best = next((i for i in ranked if has(i)), None)
        if best is None:
            return shown
        worst = next((i for i in reversed(ranked) if has(i)), best)
        middle = sorted(range(len(ranked)), key=lambda place: abs(place - len(ranked) // 2))
        median = next((ranked[place] for place in middle if has(ranked[place])), best)
        shown.roles = {"best": best}
        if median not in (best, worst):
            shown.roles["median"] = median
        if worst != best:
            shown.roles["worst"] = worst
    wanted = list(dict.fromkeys([*shown.roles.values(), *also, *ranked[:40]]))
    wanted = [i for i in wanted if has(i)]
    if not wanted:
        return shown
    names = _sample_names(folders, wanted)
    _describe(shown, folders, wanted, names)
    room = BUDGET
    for i in wanted:
        room = _add(shown, i, folders[i], names, room, sure=i in shown.roles.values())
        if room <= 0 and i not in shown.roles.values():
            break
    _share(shown)
    panels = dict.fromkeys(p for t in shown.trials.values() for s in t.values() for p in s)
    panels |= dict.fromkeys(p for s in shown.shared.values() for p in s)
    shown.panels = sorted(panels, key=lambda p: (_FIRST.get(p, 9), p))
    return shown


def _folder(data: StudyData, task: Task) -> Path | None:
    for related in data.one_to_one(task):
        folder = related.folder / "out" / "pictures"
        if related.state == "done" and folder.is_dir():
            return folder
    return None


def _sample_names(folders: dict[int, Path], wanted: list[int]) -> list[str]:
    """Return the samples that most of the trials have, so that they can be compared."""
    counts: dict[str, int] = {}
    for i in wanted[:8]:
        with contextlib.suppress(OSError), os.scandir(folders[i]) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    counts[entry.name] = counts.get(entry.name, 0) + 1
    return sorted(sorted(counts, key=lambda n: (-counts[n], n))[:SAMPLES])


def _describe(shown: Pictures, folders: dict[int, Path], wanted: list[int], names: list[str]) -> None:
    texts: dict[str, dict[str, str]] = {"title": {}, "caption": {}}
    for i in wanted:
        notes: dict[str, Any] = read_json(folders[i] / "pictures.json") or {}
        drawn = notes.get("legend")
        if isinstance(drawn, dict):
            colours = {str(what): c for what, c in drawn.items() if isinstance(c, str) and _COLOUR.fullmatch(c)}
            shown.legend = colours | shown.legend
        for name in names:
            note = notes.get(name)
            if isinstance(note, dict):
                if (score := finite(note.get("score"))) is not None:
                    shown.scores.setdefault(i, {})[name] = score
                    shown.metric = str(note.get("metric") or shown.metric)
                for key, found in texts.items():
                    if isinstance(note.get(key), str):
                        found.setdefault(name, note[key])
    shown.samples = [
        {"name": n, "title": texts["title"].get(n) or n, "caption": texts["caption"].get(n, "")} for n in names
    ]


def _add(shown: Pictures, trial: int, folder: Path, names: list[str], room: int, *, sure: bool) -> int:
    panels: dict[str, dict[str, str]] = {}
    for name in names:
        try:
            with os.scandir(folder / name) as entries:
                files = sorted(
                    e.path
                    for e in entries
                    if e.is_file(follow_symlinks=False) and Path(e.name).suffix.lower() in _KINDS
                )
        except OSError:
            continue
        for file in map(Path, files):
            made = _embed(file)
            if made is None or (room - len(made[1]) <= 0 and made[0] not in shown.images):
                shown.left_out += sure
                continue
            key, uri = made
            if key not in shown.images:
                shown.images[key] = uri
                room -= len(uri)
            panels.setdefault(name, {})[file.stem] = key
    if panels:
        shown.trials[trial] = panels
    return room


def _embed(file: Path) -> tuple[str, str] | None:
    try:
        if file.stat().st_size > _LARGEST:
            return None
        content = file.read_bytes()
    except OSError:
        return None
    kind = _KINDS[file.suffix.lower()]
    key = hashlib.sha256(content).hexdigest()[:16]
    content, kind = _smaller(content, kind)
    return key, f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _smaller(content: bytes, kind: str) -> tuple[bytes, str]:
    """Scale a picture down to what the page shows; what cannot be read is left as it is."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            image: Image.Image = opened
            if max(image.size) <= SIDE and len(content) < _LIGHT:
                return content, kind
            # Masks keep hard edges and few colours; photographs are averaged.
            flat = image.mode in ("1", "P") or len(image.convert("RGB").getcolors(64) or ()) > 0
            image = image.convert("RGBA" if "A" in image.getbands() else "RGB")
            scale = min(1.0, SIDE / max(image.size))
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            how = Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS
            out = io.BytesIO()
            resized = image.resize(size, how)
            if flat or resized.mode == "RGBA":
                resized.save(out, "PNG", optimize=True)
                return out.getvalue(), "image/png"
            resized.save(out, "WEBP", quality=85)
            return out.getvalue(), "image/webp"
    except (OSError, ValueError, Image.DecompressionBombError):
        return content, kind


def _share(shown: Pictures) -> None:
    """Take panels that every trial shows alike (input, before, after, truth) out of the trials."""
    if len(shown.trials) < 2:
        for panels in shown.trials.values():
            for sample, found in panels.items():
                for panel in [p for p in found if p in INPUTS]:
                    shown.shared.setdefault(sample, {})[panel] = found.pop(panel)
        return
    for sample in (s["name"] for s in shown.samples):
        having = [t[sample] for t in shown.trials.values() if sample in t]
        for panel in dict.fromkeys(p for h in having for p in h):
            keys = {h.get(panel) for h in having}
            if len(keys) == 1 and len(having) > 1:
                shown.shared.setdefault(sample, {})[panel] = str(keys.pop())
                for found in having:
                    del found[panel]
