"""One table, five forms of it."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from small import Small

from shoal.results import FORMATS, ResultError, Table, build_table, read_store, render_table, table_rich
from shoal.results.tables import digits_for

EVIL = "a_b & 50% {x} $y$ #1 ~^ \\end <i>|`*"


@pytest.fixture
def table(tmp_path: Path) -> Table:
    small = Small(tmp_path, objective={"metric": "iou", "goal": "max"})
    for i, (model, data, seed) in enumerate(itertools.product(("unet", EVIL), ("img", "tci"), range(3))):
        small.add("test", {"model": model, "data": data, "seed": seed}, None if i == 4 else {"iou": 0.7 + 0.017 * i})
    return build_table(read_store(small.write()), rows="model", columns="data", over="seed", title=f"T {EVIL}")


def test_csv_round_trips(table: Table) -> None:
    frame = pd.read_csv(io.StringIO(render_table(table, "csv")))
    assert list(frame.columns) == ["model", "data", "value", "mean", "sd", "n", "expected", "rank"]
    assert len(frame) == 4
    for _, line in frame.iterrows():
        row = next(r for r in table.row_keys if table.row_labels[r] == (line.model,))
        column = next(c for c in table.column_keys if table.column_labels[c] == (line["data"],))
        cell = table.cells[(row, column)]
        assert (line["mean"], line["sd"], line["n"], line["rank"]) == (cell.mean, cell.sd, cell.n, cell.rank)


def test_json_holds_everything(table: Table) -> None:
    found = json.loads(render_table(table, "json"))
    assert found["over"] == ["seed"]
    assert {c["row"]["model"] for c in found["cells"]} == {"unet", EVIL}
    assert [c["n"] for c in found["cells"] if c["row"]["model"] == "unet"] == [3, 2]
    assert sum(c["best"] for c in found["cells"]) == 2
    assert all(len(c["tasks"]) == 3 for c in found["cells"])


def test_plain_text(table: Table) -> None:
    text = render_table(table)
    assert "0.717 ±0.017" in text
    assert "n=2" in text
    assert "1 of 12 trials is missing (1 waiting)" in text
    assert "\x1b" not in text
    assert EVIL in text


def test_rich_has_the_best_in_bold(table: Table) -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, force_terminal=True, width=160, color_system="standard").print(table_rich(table))
    assert re.search(r"\x1b\[1m0\.\d{3} ±", out.getvalue())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_breaks_names_and_never_numbers(table: Table, width: int) -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(table_rich(table))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    numbers = [re.findall(r"0\.\d{3} ±0\.\d{3}", line) for line in lines]
    assert sorted(map(len, numbers))[-2:] == [2, 2], "both rows show both their cells in one line"
    assert "".join(re.findall(r"^ (\S+)", out.getvalue(), re.MULTILINE)).count("a_b") >= 1


def test_what_is_no_terminal_gets_lines_as_long_as_they_are(tmp_path: Path) -> None:
    small = Small(tmp_path, objective={"metric": "iou", "goal": "max"})
    names = [letter * 90 for letter in "abc"]
    for name in names:
        small.add("s", {"model": name, "backbone": name}, {"iou": 0.5})
    text = render_table(build_table(read_store(small.write()), rows=["model", "backbone"]))
    assert all(f"{name}   {name} " in text for name in names)
    assert "…" not in text


def test_the_cells_of_a_table_are_a_frame(table: Table) -> None:
    assert "2 x 2" in repr(table)
    frame = table.frame()
    assert list(frame.columns) == ["model", "data", "mean", "sd", "n", "expected", "rank"]
    assert sorted(frame["n"]) == [2, 3, 3, 3]
    assert set(frame.pivot(index="model", columns="data", values="mean").columns) == {"img", "tci"}


def test_markdown_is_a_table_whatever_the_names(table: Table) -> None:
    lines = [line for line in render_table(table, "md").splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}
    assert sum("**" in line for line in lines) == 1


def test_latex_has_sound_structure(table: Table) -> None:
    text = render_table(table, "latex")
    body = re.search(r"\\begin\{tabular\}\{(\w+)\}\n\s*\\toprule\n(.*)\\bottomrule", text, re.S)
    assert body
    for line in body[2].splitlines():
        line = line.strip()
        if line and not line.startswith("\\midrule"):
            assert line.endswith("\\\\")
            assert len(re.findall(r"(?<!\\)&", line)) == len(body[1]) - 1
    bare = re.sub(r"\\[{}\\]", "", text)
    assert bare.count("{") == bare.count("}")
    assert text.count("\\begin{") == text.count("\\end{") == 2
    # Nothing of the names is left for LaTeX to act on: each special character is escaped.
    rows = "\n".join(line for line in text.splitlines() if "a\\_b" in line and "%" not in line[:4])
    assert not re.search(r"(?<!\\)[%#_]", rows)
    assert text.count("\\textbf{") == 2


def test_unknown_format(table: Table) -> None:
    with pytest.raises(ResultError, match="unknown format 'xlsx'") as caught:
        render_table(table, "xlsx")
    assert all(name in str(caught.value) for name in FORMATS)


@pytest.mark.parametrize(
    ("numbers", "digits"),
    [([0.842, 0.1], 3), ([84.2], 1), ([1234.0], 0), ([0.00012], 6), ([0.0], 3), ([], 3), ([9.99, -12], 1)],
)
def test_decimals_are_sensible(numbers: list[float], digits: int) -> None:
    assert digits_for(numbers) == digits
