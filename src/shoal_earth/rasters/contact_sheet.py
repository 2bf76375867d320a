"""A page for a person who chooses: quick-looks of scenes or pairs of them, their figures, and the table to fill in."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import html
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shoal.errors import UsageError
from shoal_earth.rasters.composites import composite, recipe
from shoal_earth.rasters.filters import Figures, measure
from shoal_earth.rasters.grids import same_grid
from shoal_earth.rasters.opening import read_scene
from shoal_earth.rasters.output import write_text
from shoal_earth.rasters.scenes import Scene

__all__ = ["Candidate", "check_pair", "find_pairs", "read_choices", "write_contact_sheet"]

_YES = {"yes", "y", "x", "1", "true"}
_NO = {"", "no", "n", "0", "false"}
_COLUMNS = (
    "id",
    "first",
    "second",
    "tile",
    "first_date",
    "second_date",
    "cloud_first",
    "cloud_second",
    "nodata_first",
    "nodata_second",
    "choose",
)


@dataclass(frozen=True)
class Candidate:
    """A scene, or a pair of one tile, that a person may choose. ``second`` is None for a single scene."""

    id: str
    first: Path
    second: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """One or two."""
        return (self.first,) if self.second is None else (self.first, self.second)


def check_pair(first: Scene, second: Scene) -> None:
    """Raise UsageError unless two scenes are of one grid and in the right order."""
    if first.acquired and second.acquired and first.acquired >= second.acquired:
        raise UsageError(
            f"{first.path} ({first.acquired:%Y-%m-%d}) is not before {second.path} ({second.acquired:%Y-%m-%d}): "
            "the dates are reversed",
            hint="Name the earlier scene first.",
        )
    if differs := same_grid(first.grid(), second.grid()):
        raise UsageError(
            f"{first.path} and {second.path} cannot be a pair: {differs}",
            hint="A pair needs scenes of one tile, on one grid; warp one of them onto the other's first.",
        )


def find_pairs(paths: Iterable[Path], first_year: int | None = None) -> list[Candidate]:
    """All pairs of scenes of one tile, from one year and the next.

    Args:
        paths: scenes.
        first_year: of the first image; by default every year counts.

    Raises:
        UsageError: a scene cannot be read or has no date, or no pair comes out.
    """
    tiles: dict[str, list[tuple[dt.datetime, Path]]] = defaultdict(list)
    for path in paths:
        with read_scene(path) as scene:
            if scene.acquired is None or scene.tile is None:
                missing = "date" if scene.acquired is None else "tile"
                raise UsageError(f"{path}: has no {missing}, so it cannot be paired")
            tiles[scene.tile].append((scene.acquired, path))
    pairs = []
    for tile, dated in sorted(tiles.items()):
        dated.sort()
        for time, path in dated:
            for later, other in dated:
                if later.year == time.year + 1 and first_year in (None, time.year):
                    pairs.append(Candidate(f"{tile}-{time:%Y%m%d}-{later:%Y%m%d}", path, other))
    if not pairs:
        raise UsageError("no two of the scenes are of one tile and of two years that follow each other")
    return pairs


def write_contact_sheet(
    candidates: Sequence[Candidate], folder: Path, *, title: str = "Choose", kind: str = "rgb", side: int = 320
) -> Path:
    """Write ``index.html`` (one file, with its pictures inside) and ``choose.csv`` (to fill in) to a folder.

    A ``choose.csv`` that is there already is kept: it may hold a person's work.

    Args:
        candidates: what can be chosen.
        folder: where to.
        title: of the page.
        kind: composite of the quick-looks.
        side: of a quick-look, in pixels.

    Returns:
        The page.

    Raises:
        UsageError: there is nothing to choose, a scene is unreadable, or a pair makes no sense.
    """
    if not candidates:
        raise UsageError("there is nothing to choose from")
    if len({candidate.id for candidate in candidates}) != len(candidates):
        raise UsageError("two candidates have the same id")
    seen: dict[Path, tuple[str, Figures, str, str]] = {}
    for candidate in candidates:
        with _Pair(candidate) as scenes:
            if len(scenes) == 2:
                check_pair(scenes[0], scenes[1])
            for path, scene in zip(candidate.paths, scenes, strict=True):
                if path not in seen:
                    day = f"{scene.acquired:%Y-%m-%d}" if scene.acquired else ""
                    seen[path] = (_picture(scene, kind, side), measure(scene), day, scene.tile or "")
    rows = [_row(candidate, seen) for candidate in candidates]
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    if not (folder / "choose.csv").exists():
        write_text(folder / "choose.csv", table.getvalue())
    page = folder / "index.html"
    write_text(page, _page(title, candidates, rows, seen))
    return page


class _Pair:
    """The scenes of a candidate, open."""

    def __init__(self, candidate: Candidate) -> None:
        self.scenes: list[Scene] = []
        self.paths = candidate.paths

    def __enter__(self) -> list[Scene]:
        self.scenes = [read_scene(path) for path in self.paths]
        return self.scenes

    def __exit__(self, *error: object) -> None:
        for scene in self.scenes:
            scene.close()


def _picture(scene: Scene, kind: str, side: int) -> str:
    """A quick-look as a data URI; nothing is drawn where there is no data."""
    from PIL import Image

    grid = scene.grid(recipe(kind).bands)
    left, bottom, right, top = grid.bounds
    grid = grid.resampled(max(right - left, top - bottom) / side)
    pixels = composite(scene, kind, None, grid)
    values = pixels.values if len(pixels.values) == 3 else np.repeat(pixels.values[:1], 3, 0)
    good = values[:, pixels.valid]
    low, high = np.percentile(good, [2, 98]) if good.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    alpha = np.where(pixels.valid, 255, 0)[None]
    picture = np.concatenate([scaled, alpha]).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _row(candidate: Candidate, seen: dict[Path, tuple[str, Figures, str, str]]) -> dict[str, str]:
    one = seen[candidate.first]
    other = seen[candidate.second] if candidate.second else None

    def cloud(figures: Figures | None) -> str:
        return "" if figures is None or figures.cloud is None else f"{figures.cloud:.4f}"

    return {
        "id": candidate.id,
        "first": str(candidate.first),
        "second": str(candidate.second or ""),
        "tile": one[3],
        "first_date": one[2],
        "second_date": other[2] if other else "",
        "cloud_first": cloud(one[1]),
        "cloud_second": cloud(other[1] if other else None),
        "nodata_first": f"{one[1].nodata:.4f}",
        "nodata_second": f"{other[1].nodata:.4f}" if other else "",
        "choose": "",
    }


def read_choices(path: Path, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that a person chose in the table.

    Raises:
        UsageError: the table is missing, damaged, names something unknown, or chooses nothing.
    """
    try:
        # Spreadsheets put a mark at the start of the file, and some use semicolons.
        text = path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        rows = list(csv.DictReader(io.StringIO(text), delimiter=";" if first.count(";") > first.count(",") else ","))
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read as the table of choices: {error}") from None
    known = {candidate.id: candidate for candidate in candidates}
    chosen = []
    for number, row in enumerate(rows, 2):
        name, mark = (row.get("id") or "").strip(), (row.get("choose") or "").strip().lower()
        if "choose" not in row or "id" not in row:
            raise UsageError(f'{path}: has no columns "id" and "choose"', hint="Fill in the choose.csv of the page.")
        if mark not in _YES | _NO:
            raise UsageError(f'{path}:{number}: "{mark}" in column choose is neither yes nor no')
        if name and name not in known:
            raise UsageError(f'{path}:{number}: there is no candidate "{name}"', hint="Is the table of another page?")
        if mark in _YES and known[name] not in chosen:
            chosen.append(known[name])
    if not chosen:
        raise UsageError(f"{path}: nothing is chosen", hint='Write "yes" in column choose of the rows you want.')
    return chosen


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem} .grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr));gap:1rem}
.card{border:1px solid #d0d7de;border-radius:8px;padding:.8rem} .card:has(input:checked){border-color:#0969da;background:#f3f9ff}
.pics{display:flex;gap:.5rem} figure{margin:0;flex:1;min-width:0} img{width:100%;image-rendering:pixelated;background:#eaeef2}
figcaption{font-size:.8rem;color:#57606a} label{font-weight:600;cursor:pointer;overflow-wrap:anywhere}
.bar{position:sticky;top:0;background:#fff;padding:.6rem 0;border-bottom:1px solid #d0d7de;margin-bottom:1rem}
button{font:inherit;padding:.3rem .8rem}
@media (prefers-color-scheme:dark){body,.bar{background:#0d1117;color:#e6edf3}.card{border-color:#30363d}
.card:has(input:checked){background:#10233a}figcaption{color:#9198a1}img{background:#161b22}.bar{border-color:#30363d}}
"""

_SCRIPT = """
const boxes=[...document.querySelectorAll('input[type=checkbox]')],count=document.getElementById('count');
const show=()=>{count.textContent=boxes.filter(b=>b.checked).length};boxes.forEach(b=>b.addEventListener('change',show));show();
const cell=t=>/[",\\n]/.test(t)?'"'+t.replaceAll('"','""')+'"':t;
document.getElementById('save').addEventListener('click',()=>{
 const rows=JSON.parse(document.getElementById('rows').textContent),keys=Object.keys(rows[0]);
 rows.forEach((r,i)=>{r.choose=boxes[i].checked?'yes':''});
 const text=[keys,...rows.map(r=>keys.map(k=>r[k]))].map(r=>r.map(cell).join(',')).join('\\n')+'\\n';
 const a=document.createElement('a');a.href=URL.createObjectURL(new Blob([text],{type:'text/csv'}));
 a.download='choose.csv';a.click();});
"""


def _page(
    title: str,
    candidates: Sequence[Candidate],
    rows: Sequence[dict[str, str]],
    seen: dict[Path, tuple[str, Figures, str, str]],
) -> str:
    import json

    def figure(path: Path) -> str:
        picture, figures, day, _ = seen[path]
        cloud = "clouds unknown" if figures.cloud is None else f"{figures.cloud:.0%} cloud"
        words = html.escape(f"{day} · {cloud} · {figures.nodata:.0%} without data")
        return (
            f'<figure><img src="{picture}" alt="{html.escape(figures.scene)}" title="{html.escape(figures.scene)}">'
            f"<figcaption>{words}</figcaption></figure>"
        )

    cards = "\n".join(
        f'<div class="card"><label><input type="checkbox" name="{html.escape(c.id)}"> {html.escape(c.id)}</label>'
        f'<div class="pics">{"".join(figure(path) for path in c.paths)}</div></div>'
        for c in candidates
    )
    data: Any = json.dumps(list(rows)).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<div class="bar"><span id="count">0</span> of {len(candidates)} chosen <button id="save">Save choose.csv</button>
<small>or write "yes" in column <code>choose</code> of the <code>choose.csv</code> beside this page</small></div>
<div class="grid">
{cards}
</div>
<script type="application/json" id="rows">{data}</script><script>{_SCRIPT}</script></body></html>
"""
