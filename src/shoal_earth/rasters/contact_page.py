"""The page of a contact sheet: one HTML file with its pictures inside, each once, however many candidates show it."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Card", "Look", "render"]


@dataclass(frozen=True)
class Look:
    """A quick-look: its ``picture`` as a data URI, the ``name`` of the scene, and its figures in ``words``."""

    name: str
    picture: str
    words: str


@dataclass(frozen=True)
class Card:
    """A candidate: its id, the group (tile) under which it stands, the keys of its looks, and what is said of all of it."""

    id: str
    group: str
    looks: Sequence[str]
    words: str


_STYLE = """
:root{color-scheme:light dark;--text:#1b1f24;--page:#fff;--line:#d0d7de;--soft:#57606a;--chosen:#f3f9ff;--mark:#0969da;
--none:#eaeef2}
@media (prefers-color-scheme:dark){:root{--text:#e6edf3;--page:#0d1117;--line:#30363d;--soft:#9198a1;--chosen:#10233a;
--mark:#4493f8;--none:#161b22}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:78rem;padding:0 1rem;color:var(--text);background:var(--page)}
h1{font-size:1.5rem;margin-bottom:.3rem} h2{font-size:1.1rem;margin:1.6rem 0 .6rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(23rem,100%),1fr));gap:1rem}
.card{border:1px solid var(--line);border-radius:8px;padding:.8rem}
.card:has(input:checked){border-color:var(--mark);box-shadow:0 0 0 1px var(--mark);background:var(--chosen)}
.pics{display:flex;gap:.5rem;margin:.4rem 0} figure{margin:0;flex:1;min-width:0}
img{width:100%;aspect-ratio:1;object-fit:contain;background:var(--none);display:block}
button.look{all:unset;display:block;width:100%;cursor:zoom-in} button.look:focus-visible{outline:2px solid var(--mark)}
figcaption,.both,small{font-size:.8rem;color:var(--soft)} label{font-weight:600;cursor:pointer;overflow-wrap:anywhere}
.bar{position:sticky;top:0;background:var(--page);padding:.6rem 0;border-bottom:1px solid var(--line);z-index:1}
.bar button{font:inherit;padding:.3rem .8rem;margin:0 .5rem}
dialog{border:0;padding:1rem;width:min(96vw,190vh);background:var(--page);color:var(--text)} dialog::backdrop{background:#000a}
dialog .pics img{max-height:82vh}
@media print{.bar{display:none}.card{break-inside:avoid}}
"""

_SCRIPT = """
const read=id=>JSON.parse(document.getElementById(id).textContent),pictures=read('pictures'),rows=read('rows');
const draw=part=>part.querySelectorAll('img[data-of]').forEach(i=>{i.src=pictures[i.dataset.of]});draw(document);
const boxes=[...document.querySelectorAll('input[type=checkbox]')],count=document.getElementById('count');
const show=()=>{count.textContent=boxes.filter(b=>b.checked).length};boxes.forEach(b=>b.addEventListener('change',show));show();
const large=document.getElementById('large');
document.querySelectorAll('.card').forEach(card=>card.querySelectorAll('button.look').forEach(b=>b.addEventListener('click',()=>{
 large.replaceChildren(card.querySelector('label').cloneNode(true),card.querySelector('.pics').cloneNode(true));
 large.querySelector('input').remove();large.showModal()})));
large.addEventListener('click',()=>large.close());
const cell=t=>/[",\\n]/.test(t)?'"'+t.replaceAll('"','""')+'"':t;
document.getElementById('save').addEventListener('click',()=>{
 const keys=Object.keys(rows[0]),chosen=new Set(boxes.filter(b=>b.checked).map(b=>b.name));
 rows.forEach(r=>{r.choose=chosen.has(r.id)?'yes':''});
 const text=[keys,...rows.map(r=>keys.map(k=>r[k]))].map(r=>r.map(cell).join(',')).join('\\n')+'\\n';
 const a=document.createElement('a');a.href=URL.createObjectURL(new Blob([text],{type:'text/csv'}));
 a.download='choose.csv';a.click()});
"""


def render(
    title: str, cards: Sequence[Card], looks: Mapping[str, Look], rows: Sequence[Mapping[str, str]], after: str = ""
) -> str:
    """The page as text. A card is ticked, ``Save`` writes ``rows`` with the ticks as ``choose.csv``; a click enlarges.

    Args:
        title: of the page.
        cards: candidates; those of a group come together.
        looks: by the keys that cards name.
        rows: of the table, with the columns ``id`` and ``choose``.
        after: what to do with the saved table.
    """
    parts: list[str] = []
    group: str | None = None
    for card in cards:
        if card.group != group:
            parts += ["</div>"] if group is not None else []
            parts.append(f'<h2>{html.escape(card.group)}</h2><div class="grid">')
            group = card.group
        parts.append(_card(card, looks))
    body = "\n".join([*parts, "</div>"])
    # What is in a script ends at "</script" alone, wherever that stands.
    pictures, table = (
        json.dumps(value).replace("<", "\\u003c")
        for value in ({key: look.picture for key, look in looks.items()}, [dict(row) for row in rows])
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<div class="bar"><span id="count">0</span> of {len(cards)} chosen<button id="save">Save choose.csv</button>
<small>or write "yes" in column <code>choose</code> of the <code>choose.csv</code> beside this page.
{html.escape(after)} A click on a picture enlarges it.</small></div>
{body}
<dialog id="large"></dialog>
<script type="application/json" id="pictures">{pictures}</script>
<script type="application/json" id="rows">{table}</script><script>{_SCRIPT}</script></body></html>
"""


def _card(card: Card, looks: Mapping[str, Look]) -> str:
    name = html.escape(card.id)
    figures = "".join(
        f'<figure><button class="look" title="{html.escape(look.name)}"><img data-of="{html.escape(key)}" '
        f'alt="{html.escape(look.name)}"></button><figcaption>{html.escape(look.words)}</figcaption></figure>'
        for key, look in ((key, looks[key]) for key in card.looks)
    )
    both = f'<div class="both">{html.escape(card.words)}</div>' if card.words else ""
    return (
        f'<div class="card"><label><input type="checkbox" name="{name}"> {name}</label>'
        f'<div class="pics">{figures}</div>{both}</div>'
    )
