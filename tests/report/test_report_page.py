"""The report, looked at by a real browser without a network."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Page, chromium, find_chromium
from make_store import make_store, png, put

from needs import require
from shoal.report import write_report
from shoal.results import read_store


@pytest.fixture
def page() -> Iterator[Page]:
    program = find_chromium()
    require("chromium", program, "no Chromium is installed (or named by CHROMIUM), so the report was not looked at")
    assert program
    with chromium(program) as found:
        yield found


def test_shows_everything_that_it_promises(tmp_path: Path, page: Page) -> None:
    folder = make_store(tmp_path, trials=24)
    page.open(write_report(folder, tmp_path / "report.html"))
    js = page.js
    assert js("document.querySelectorAll('.leader tbody tr').length") > 1
    assert js("document.querySelectorAll('.leader .best').length") >= 1
    assert js("document.querySelectorAll('#list tbody tr').length") == 15
    charts = js(
        "[...document.querySelectorAll('[data-chart]')].map(c => [c.dataset.chart, c.querySelectorAll('svg path').length])"
    )
    assert {name for name, _ in charts} >= {
        "effect-0",
        "interaction",
        "parallel",
        "timeline",
        "curve:val/iou",
        "curve:train/iou",
    }
    assert all(paths > 2 for _, paths in charts), charts
    assert js("[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length") == 4 * (
        2 + 3
    )
    assert js("[...document.querySelectorAll('section')].map(s => s.id)") == [
        *("leaderboard", "trials", "mattered", "curves", "pictures", "cost", "failures", "again")
    ]
    text = js("document.body.innerText")
    assert "came out best" in text
    assert "GPU-hours" in text
    assert "train holds 2 GPUs and uses 1" in text
    assert "9f2b6c1e4d5a7f8091a2b3c4d5e6f708192a3b4c" in text
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)


def test_a_cell_leads_to_its_trials_curves_and_pictures(tmp_path: Path, page: Page) -> None:
    folder = make_store(tmp_path, trials=24, failed=0, running=0, waiting=0, preempted=0)
    page.open(write_report(folder, tmp_path / "report.html"))
    before = page.js("document.querySelectorAll('#gallery thead th').length")
    page.js("document.querySelector('.leader tbody tr:nth-child(2) button.cell').click()")
    rows = page.js("[...document.querySelectorAll('#list tbody tr')].map(r => r.cells[0].textContent)")
    name = page.js("document.querySelector('.leader tbody tr:nth-child(2) th').textContent")
    assert rows
    assert set(rows) == {name}
    assert page.js("document.getElementById('chosen').innerText").startswith(f"{len(rows)} trials: {name}")
    assert page.js("document.querySelectorAll('#gallery thead th').length") > before
    lines = "[...document.querySelectorAll('[data-chart=\"curve:val/iou\"] path')]"
    thick = f"{lines}.filter(p => +p.getAttribute('stroke-width') > 2).length"
    assert page.js(thick) == len(rows)
    page.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))")
    assert page.js("document.querySelectorAll('#list tbody tr').length") == 15
    assert page.js(thick) == 0
    assert page.complaints == []


def test_search_sort_and_pages(tmp_path: Path, page: Page) -> None:
    folder = make_store(tmp_path, trials=48, failed=0.3)
    page.open(write_report(folder, tmp_path / "report.html"))
    values = "[...document.querySelectorAll('#list tbody td b')].map(b => b.textContent)"
    shown = [float(v) for v in page.js(values)]
    assert shown == sorted(shown, reverse=True)
    page.js("document.getElementById('next').click()")
    assert max(float(v) for v in page.js(values) if v != "–") <= min(shown)
    page.js("(s => { s.value = 'failed'; s.dispatchEvent(new Event('input')); })(document.getElementById('search'))")
    states = page.js("[...document.querySelectorAll('#list .state')].map(s => s.textContent)")
    data = read_store(folder)
    failed = sum(data.fate(t) == "failed" for t in data.of_step("test"))
    assert failed
    assert states == ["failed"] * failed


def test_works_by_keyboard_and_prints_all_trials_or_says_what_is_left_out(tmp_path: Path, page: Page) -> None:
    page.open(write_report(make_store(tmp_path, trials=48), tmp_path / "report.html"))
    focused = "document.activeElement.closest('th, tr')"
    for chosen in ("th button", "tbody tr"):
        page.js(f"document.querySelector('#list {chosen}').focus()")
        name = page.js(f"{focused}.innerText")
        for kind in ("rawKeyDown", "char", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", windowsVirtualKeyCode=32, text=" ")
        assert page.js(f"{focused}?.innerText") == name, "the table was made anew, and the focus is where it was"
    assert page.js("document.querySelector('#list th').ariaSort") != "none"
    assert page.js("document.querySelectorAll('#list tr[aria-selected=true]').length") == 1
    note = "getComputedStyle(document.getElementById('list-printed')).display"
    assert page.js(note) == "none"
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.js(note) == "block"
    assert "Printed are 15 of 48 trials" in page.js("document.getElementById('list-printed').textContent")
    page.call("Emulation.setEmulatedMedia", media="")
    rows = "document.querySelectorAll('#list tbody tr').length"
    page.js(f"addEventListener('beforeprint', () => {{ window.printed = {rows}; }})")
    page.call("Page.printToPDF")
    assert page.js("window.printed") == 48, "on paper nobody can turn to the next page"
    assert page.js(rows) == 15


def test_a_winner_with_fewer_seeds_than_planned_says_so(tmp_path: Path) -> None:
    report = {"objective": {"metric": "test/iou", "goal": "max"}}
    folder = make_store(tmp_path, trials=8, failed=0, running=0, waiting=0, report=report)
    results = {p: json.loads(p.read_text()) for p in (folder / "test").glob("*/result.json")}
    lucky = next(iter(results))
    for path, result in results.items():
        result["metrics"]["iou"] = 0.99 if path == lucky else 0.5
        put(path, result)
        twin = {k: v for k, v in result["params"].items() if k != "seed"}
        if path != lucky and twin == {k: v for k, v in results[lucky]["params"].items() if k != "seed"}:
            path.unlink()
    text = write_report(folder, tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.search(r"came out best, with test/iou 0\.99\d* from 1 of 2 seeds,", text)


def test_theme_follows_the_system_and_the_button(tmp_path: Path, page: Page) -> None:
    folder = make_store(tmp_path, trials=4, pictures=0)
    page.open(write_report(folder, tmp_path / "report.html"), dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.js(ground)
    page.js("document.getElementById('theme').click()")
    light = page.js(ground)
    assert dark != light
    page.js("document.getElementById('theme').click()")
    assert page.js(ground) == dark


def test_no_sideways_scrolling_on_a_phone(tmp_path: Path, page: Page) -> None:
    folder = make_store(tmp_path, trials=24)
    page.open(write_report(folder, tmp_path / "report.html"), width=390)
    assert page.js("document.documentElement.scrollWidth") <= 390


EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>'\"`${1}{{7*7}}"


def test_hostile_text_stays_text(tmp_path: Path, page: Page) -> None:
    folder = make_store(
        tmp_path,
        trials=12,
        title=EVIL,
        axes={"model": ["unet", EVIL], EVIL: ["a", f"b{EVIL}", "datum.x']; alert(1); //"], "constructor": [1, 2]},
        seeds=1,
        failed=0.3,
        test_step=False,
        report={
            "objective": {"metric": "val/iou", "goal": "max"},
            "tables": [{"rows": EVIL, "columns": "constructor", "over": "model", "title": EVIL}],
        },
    )
    plan = json.loads((folder / "plan.json").read_text())
    plan["description"] = EVIL
    put(folder / "plan.json", plan)
    (folder / "study.yaml").write_text(EVIL)
    (folder / "runs" / "1.diff").write_text(EVIL)
    run = json.loads((folder / "runs" / "1.json").read_text())
    run |= {"argv": ["shoal", EVIL], "user": EVIL, "packages": {EVIL: EVIL}}
    run["git"]["branch"] = EVIL
    put(folder / "runs" / "1.json", run)
    for path in (folder / "train").glob("*/attempts/*/attempt.json"):
        attempt = json.loads(path.read_text())
        attempt["host"] = EVIL
        attempt["devices"] = [{"index": EVIL, "name": EVIL, "memory": 1}]
        if attempt["failure"]:
            attempt["failure"] |= {"class": EVIL, "message": EVIL, "lines": [EVIL]}
        put(path, attempt)
    for path in (folder / "train").glob("*/result.json"):
        result = json.loads(path.read_text())
        result["metrics"][EVIL] = 1.0
        result["metrics"]["__proto__"] = 2.0
        put(path, result)
        sample = path.parent / "out" / "pictures" / "x'><img src=x onerror=window.pwned=1>"
        sample.mkdir(parents=True)
        (sample / "input.png").write_bytes(b"<svg onload=window.pwned=1>")
        put(sample.parent / "pictures.json", {sample.name: {"caption": EVIL, "score": 0.5}})
    for path in (folder / "train").glob("*/attempts/*/metrics.jsonl"):
        line = json.dumps({"step": 1, "metrics": {EVIL: 1.0}}) + "\n" + json.dumps({"step": 2, "metrics": {EVIL: 2.0}})
        path.write_text(path.read_text() + line + "\n")
    page.open(write_report(folder, tmp_path / "report.html"))
    page.js("document.querySelector('button.cell').click()")
    count = page.js("document.getElementById('metric').options.length")
    for k in range(count):
        page.js(
            f"(m => {{ m.value = '{k}'; m.dispatchEvent(new Event('change')); }})(document.getElementById('metric'))"
        )
    time.sleep(0.5)
    assert page.js("typeof window.pwned") == "undefined"
    assert page.js("document.title") == EVIL
    assert page.js("document.querySelector('h1').textContent") == EVIL
    assert page.js("document.querySelectorAll('script').length") == 3
    assert page.js("document.querySelectorAll('[onerror],[onload]').length") == 0
    # The sample with something that is no picture may fail to show, but nothing else may go wrong.
    assert page.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in page.requests)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("waiting", {"trials": 8, "waiting": 8, "running": 0}, "Nothing has finished yet."),
        ("failed", {"trials": 6, "failed": 1.0, "running": 0, "waiting": 0}, "Every trial failed"),
        (
            "one",
            {"trials": 1, "seeds": 1, "running": 0, "waiting": 0, "failed": 0, "preempted": 0},
            "One configuration",
        ),
        ("silent", {"trials": 12, "report": {}, "pictures": 0}, "The study names no objective"),
        ("cpu", {"trials": 8, "gpus": 0, "pictures": 0}, "No task has left pictures"),
    ],
)
def test_has_something_to_say_when_there_is_little(
    tmp_path: Path, page: Page, name: str, options: dict[str, object], expected: str
) -> None:
    folder = make_store(tmp_path, **options)  # type: ignore[arg-type]
    page.open(write_report(folder, tmp_path / f"{name}.html"))
    assert expected in page.js("document.body.innerText")
    assert page.complaints == []


def test_a_table_that_is_refused_says_so_on_the_page(tmp_path: Path, page: Page) -> None:
    report = {
        "objective": {"metric": "test/iou", "goal": "max"},
        "tables": [{"rows": "model"}, {"rows": "model", "over": "seed"}],
    }
    folder = make_store(tmp_path, trials=8, report=report)
    page.open(write_report(folder, tmp_path / "report.html"))
    text = page.js("document.getElementById('leaderboard').innerText")
    assert "would average test/iou over 'seed'" in text
    assert page.js("document.querySelectorAll('.leader').length") == 1


def test_ten_thousand_trials(tmp_path: Path, page: Page, record_property: pytest.RecordProperty) -> None:
    folder = make_store(tmp_path, trials=10_000, seeds=4, pictures=0, epochs=12, test_step=False, samples=False)
    begun = time.monotonic()
    path = write_report(folder, tmp_path / "report.html")
    wrote = time.monotonic() - begun
    opened = page.open(path)
    size = path.stat().st_size / 1e6
    print(f"10,000 trials: {size:.1f} MB, written in {wrote:.1f} s, drawn in {opened:.1f} s")
    record_property("megabytes", size)
    record_property("seconds_written", wrote)
    record_property("seconds_drawn", opened)
    assert size < 6
    assert page.js("document.getElementById('shown').textContent") == "10,000 trials"
    assert page.js("document.getElementById('page').textContent") == "page 1 of 667"
    assert page.js("document.getElementsByTagName('*').length") < 12_000
    assert page.complaints == []
    # Generous, for slow machines: the point is that it is not minutes.
    assert wrote < 60
    assert opened < 30


class _Addresses(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(f"{tag} {k}", v or "") for k, v in attrs if k in ("src", "href", "action", "data", "srcset")]


def test_names_no_address_to_load_from(tmp_path: Path) -> None:
    text = write_report(make_store(tmp_path, trials=4), tmp_path / "report.html").read_text(encoding="utf-8")
    parser = _Addresses()
    parser.feed(text)
    assert {value for _, value in parser.found if not value.startswith("#")} == {"data:,"}
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


def test_trials_that_were_given_other_pictures_have_a_line_each(tmp_path: Path, page: Page) -> None:
    import numpy as np

    folder = make_store(tmp_path, trials=6, failed=0, running=0, waiting=0, preempted=0, pictures=2)
    for number, pictures in enumerate(sorted((folder / "test").glob("*/out/pictures"))):
        for sample in ("tile-01", "tile-02"):
            (pictures / sample / "input.png").write_bytes(png(np.full((9, 9), number)))
        notes = {"tile-01": {"title": "A field", "caption": "of wheat", "score": 0.5, "metric": "IoU"}}
        put(pictures / "pictures.json", notes | {"legend": {"found": "#009e73", "bad": "url(javascript:1)"}})
    page.open(write_report(folder, tmp_path / "report.html"))
    heads = page.js("[...document.querySelectorAll('#gallery thead th')].map(h => h.textContent)")
    assert heads == ["", "", "input", "truth", "prediction"]
    rows = page.js("[...document.querySelectorAll('#gallery tbody tr')].map(r => r.innerText.replace(/\\s+/g, ' '))")
    assert len(rows) == 2 * 3
    assert rows[0].startswith("A field of wheat best test/iou 0.")
    assert rows[0].endswith("IoU 0.50")
    assert [row.split()[0] for row in rows[1:3]] == ["median", "worst"]
    assert rows[3].startswith("tile-02 best")
    assert "bad" not in page.js("document.querySelector('#pictures .legend').innerText")
    assert page.js("document.querySelector('#pictures .legend').innerText") == "found"


def test_an_axis_that_goes_with_another_is_told_once(tmp_path: Path) -> None:
    folder = make_store(tmp_path, trials=24, failed=0, running=0, waiting=0, pictures=0)
    plan = json.loads((folder / "plan.json").read_text())
    for task in plan["tasks"]:
        if task["params"]:
            task["params"]["gpus"] = 4 if task["params"]["imagery"] == "img" else 1
    next(step for step in plan["steps"] if step["name"] == "train")["axes"].append("gpus")
    put(folder / "plan.json", plan)
    text = write_report(folder, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "gpus goes with imagery." in text
    assert "values of gpus" not in text
    assert "gpus 4" not in text


def test_validation_chooses_where_the_study_says_so(tmp_path: Path) -> None:
    report = {"objective": {"metric": "test/iou", "goal": "max", "by": "train/val/iou"}}
    folder = make_store(tmp_path, trials=12, seeds=1, failed=0, running=0, waiting=0, pictures=0, report=report)
    tasks = {
        step: {p: json.loads(p.read_text()) for p in (folder / step).glob("*/result.json")}
        for step in ("train", "test")
    }
    best = max(tasks["test"].values(), key=lambda t: t["metrics"]["iou"])
    path, chosen = next((p, t) for p, t in tasks["train"].items() if t["params"] != best["params"])
    chosen["metrics"]["val/iou"] = 0.999
    put(path, chosen)
    shown = re.search(
        r'class="outcome">(.*?)</p>', write_report(folder, tmp_path / "r.html").read_text(encoding="utf-8")
    )
    assert shown is not None
    assert re.search(
        r"was chosen, by train/val/iou 0\.\d+, and has test/iou 0\.\d+: rank \d+ of \d+, behind", shown[1]
    ), shown[1]
    report["objective"] |= {"by": "train/val/nothing"}
    plan = json.loads((folder / "plan.json").read_text())
    put(folder / "plan.json", {**plan, "report": report})
    text = write_report(folder, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "no task reports a metric" in text
    assert "came out best" in text


def test_pictures_are_embedded_once_and_stay_in_their_folder(tmp_path: Path) -> None:
    import numpy as np

    folder = make_store(tmp_path, trials=6, failed=0, running=0, waiting=0, pictures=1)
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(np.full((9, 9), 77)))
    done = sorted((folder / "test").glob("*/out/pictures"))
    for pictures in done:
        (pictures / "tile-01" / "link.png").symlink_to(secret)
    text = write_report(folder, tmp_path / "report.html").read_text(encoding="utf-8")
    payload = json.loads(re.search(r'id="payload">(.*?)</script>', text, re.S)[1])  # type: ignore[index]
    shown = payload["pictures"]
    assert shown["panels"] == ["input", "truth", "prediction"]
    assert set(shown["shared"]["tile-01"]) == {"input", "truth"}
    assert len(shown["images"]) == 2 + len(done)
    assert shown["roles"].keys() == {"best", "median", "worst"}


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    import numpy as np

    folder = make_store(tmp_path, trials=2, seeds=1, failed=0, running=0, waiting=0, preempted=0, pictures=0)
    noise = np.random.default_rng(0).integers(0, 255, (1200, 900, 3))
    for result in (folder / "test").glob("*/result.json"):
        sample = result.parent / "out" / "pictures" / "scene"
        sample.mkdir(parents=True)
        (sample / "input.png").write_bytes(png(noise))
    path = write_report(folder, tmp_path / "report.html")
    assert path.stat().st_size < 1_400_000


def test_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    from shoal.errors import StoreError

    folder = make_store(tmp_path, trials=2, pictures=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(folder, tmp_path / "file" / "report.html")
    path = write_report(folder, tmp_path / "new" / "report.html")
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
