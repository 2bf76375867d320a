"""Parts of the report that a study asks for or a task leaves: two metrics against each other, own curves and tables, groups."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from browser import Page, chromium, find_chromium
from make_store import make_store

from needs import require
from shoal.report import write_report
from shoal.results import load, read_store

EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"
SCATTER = {"title": "Cost of quality", "x": "test/loss", "colour": "model", "label": "model", "log": ["x"]}
REPORT = {
    "objective": {"metric": "test/iou", "goal": "max"},
    "tables": [
        {
            "title": "Kinds of model",
            "rows": ["model"],
            "columns": ["imagery"],
            "over": ["seed"],
            "groups": {"model": {"with skips": ["unet", "fpn"]}},
        }
    ],
    "scatter": [SCATTER, {"x": "test/nothing"}],
}
CLASSES = ["Military Fighter/Interceptor/Attack of the longer kind", *(f"class {n}" for n in range(9))]
AXES = {"model": ["unet", "fpn", "deeplabv3plus"], "imagery": ["img", "tci"]}


@pytest.fixture
def page() -> Iterator[Page]:
    program = find_chromium()
    require("chromium", program, "no Chromium is installed (or named by CHROMIUM), so the report was not looked at")
    assert program
    with chromium(program) as found:
        yield found


def store(tmp_path: Path) -> Path:
    """Twelve trials; each test task left a curve and a table."""
    folder = make_store(
        tmp_path, trials=12, axes=AXES, report=REPORT, failed=0, running=0, waiting=0, preempted=0, pictures=1
    )
    for number, task in enumerate(sorted(folder.glob("test/*/out"))):
        lines = {name: [[x / 10, 1 - x / (12 + number)] for x in range(11)] for name in ("all", *CLASSES)}
        curves = {"Precision over recall": {"x": "recall", "y": "precision", "lines": lines}, EVIL: {"lines": 3}}
        rows = [["plane", number, 0.5], [EVIL, 12, None], ["short row"]]
        tables = {
            "By class": {"columns": ["class", "objects", "AP"], "rows": rows},
            "none": {"columns": [], "rows": []},
        }
        (task / "curves.json").write_text(json.dumps(curves))
        (task / "tables.json").write_text(json.dumps(tables))
    return folder


def test_two_metrics_against_each_other_and_what_the_best_trial_left(tmp_path: Path, page: Page) -> None:
    page.open(write_report(store(tmp_path), tmp_path / "report.html"))
    js = page.js
    points = "document.querySelectorAll('[data-chart=\"scatter-0\"] .mark-symbol path').length"
    assert js(points) >= 12
    named = js("[...document.querySelectorAll('[data-chart=\"scatter-0\"] .mark-text text')].map(t => t.textContent)")
    assert set(AXES["model"]) <= set(named)
    text = js("document.getElementById('leaderboard').innerText")
    assert "Cost of quality" in text
    assert "test/iou over test/loss" in text
    assert "no task reports a metric" in text
    assert js("document.querySelectorAll('#detail-curves .chart svg .mark-line path').length") == 11
    legend = js("[...document.querySelectorAll('#detail-curves .key')].map(k => [k.innerText, k.innerHTML])")
    assert [name for name, _ in legend] == ["all", *CLASSES], "whole, however long"
    assert len({look.replace(name, "") for name, look in legend}) == 11, "each line has its own look"
    rows = js(
        "[...document.querySelectorAll('#detail-tables tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert [len(row) for row in rows] == [3, 3]
    assert rows[1][2] == "–"
    first = js("document.getElementById('detail-who').textContent")
    js("document.querySelectorAll('#list tbody tr')[5].click()")
    js("new Promise(r => setTimeout(r, 300))")
    assert js("document.getElementById('detail-who').textContent") != first
    assert not js("window.pwned")
    assert page.complaints == []


def test_names_of_points_stand_apart_and_the_foremost_is_among_them(tmp_path: Path, page: Page) -> None:
    axes = {"model": [f"detector-{n}" for n in range(20)], "imagery": ["img", "tci", "ndvi"]}
    folder = make_store(tmp_path, trials=60, axes=axes, report=REPORT, failed=0, running=0, waiting=0, preempted=0)
    for width in (1200, 420):
        page.open(write_report(folder, tmp_path / "report.html"), width=width)
        rows = page.js(
            "[...document.querySelectorAll('[data-chart=\"scatter-0\"] .mark-text text')]"
            ".filter(t => t.getAttribute('opacity') !== '0').map(t => [t.textContent, t.getBoundingClientRect()])"
            ".map(([n, r]) => [n, r.left, r.top, r.right, r.bottom])"
        )
        assert 5 < len(rows) <= 60
        # A pixel is allowed: a line of text has some room of its own above and below.
        crossing = [
            (one[0], two[0])
            for one, two in combinations(rows, 2)
            if min(one[3], two[3]) - max(one[1], two[1]) > 1 and min(one[4], two[4]) - max(one[2], two[2]) > 3
        ]
        assert crossing == []
        best = page.js("document.querySelector('#list tbody tr').cells[0].textContent")
        assert best in {name for name, *_ in rows}
    assert page.complaints == []


def test_values_in_groups_make_one_row_and_say_so(tmp_path: Path) -> None:
    folder = store(tmp_path)
    (table,) = load(folder).tables()
    assert sorted(table.row_labels.values()) == [("deeplabv3plus",), ("with skips",)]
    cells = {table.row_labels[row]: cell for (row, _), cell in table.cells.items()}
    assert cells["with skips",].n == 4
    assert cells["deeplabv3plus",].n == 2
    assert "mean ± sd over seed, each group of model" in table.caption


def test_damaged_files_are_left_out_and_large_ones_cut(tmp_path: Path) -> None:
    from shoal.report.details import BUDGET, POINTS, ROWS, collect_details
    from shoal.report.trials import find_trials

    folder = store(tmp_path)
    tasks = sorted(folder.glob("test/*/out"))
    tasks[0].joinpath("curves.json").write_text("{")
    tasks[0].joinpath("tables.json").write_text('["no", "mapping"]')
    long = [[x, float("nan") if x == 3 else x] for x in range(5000)]
    tasks[1].joinpath("curves.json").write_text(
        json.dumps({"long": {"lines": {"one": long, "odd": [[1], "x", [True, 2]]}}})
    )
    tasks[1].joinpath("tables.json").write_text(json.dumps({"t": {"columns": ["a"], "rows": [[1]] * 1000}}))
    data = read_store(folder)
    trials = find_trials(data)
    found = collect_details(data, trials, [])
    assert len(found.trials) == 11
    place = trials.index[tasks[1].parent.name]
    (curve,) = found.trials[place]["curves"]
    assert [name for name, _, _ in curve["lines"]] == ["one"]
    assert len(curve["lines"][0][1]) == POINTS
    (table,) = found.trials[place]["tables"]
    assert (len(table["rows"]), table["more"]) == (ROWS, 1000 - ROWS)
    assert BUDGET > 0
