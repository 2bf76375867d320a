"""Tables against pandas, and what they refuse."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pandas as pd
import pytest
from small import Small, attempt

from shoal.results import ResultError, StudyResults, build_table, load, read_store, report_tables

OBJECTIVE = {"metric": "test/iou", "goal": "max"}


@pytest.fixture
def grid(tmp_path: Path) -> StudyResults:
    """3 models x 2 data sets x 2 learning rates x 3 seeds; train reports val/iou, test (for each train) iou."""
    rng = random.Random(3)
    small = Small(tmp_path, objective=OBJECTIVE)
    small.step("train")
    small.step("test", for_each="train")
    for model, data, lr, seed in itertools.product(("a", "b", "c"), ("x", "y"), (1e-3, 1e-4), range(3)):
        params = {"model": model, "data": data, "lr": lr, "seed": seed}
        train = small.add("train", params, {"val/iou": rng.random(), "loss": rng.random()})
        small.add("test", params, {"iou": rng.random(), "loss": rng.random()}, needs=[train])
    return load(small.write())


def wide(grid: StudyResults) -> pd.DataFrame:
    return grid.results("test", metrics=["train/val/iou"])


def test_mean_and_spread_are_those_of_pandas(grid: StudyResults) -> None:
    table = grid.table("model", "data", over=["seed", "lr"])
    want = wide(grid).groupby(["model", "data"])["iou"].agg(["mean", "std", "count"])
    seen = 0
    for (row, column), cell in table.cells.items():
        (model,), (data,) = table.row_labels[row], table.column_labels[column]
        mean, std, count = want.loc[(model, data)]
        assert cell.mean == pytest.approx(mean)
        assert cell.sd == pytest.approx(std)
        assert cell.n == cell.expected == count == 6
        seen += 1
    assert seen == 6


def test_rows_and_columns_of_several_axes(grid: StudyResults) -> None:
    table = grid.table(["model", "lr"], ["data", "seed"])
    assert len(table.row_keys) == 6
    assert len(table.column_keys) == 6
    assert all(cell.n == 1 and cell.sd is None for cell in table.cells.values())


def test_best_is_chosen_by_the_other_metric(grid: StudyResults) -> None:
    table = grid.table("model", "data", over="seed", best={"over": "lr", "by": "train/val/iou", "goal": "max"})
    means = wide(grid).groupby(["model", "data", "lr"])[["iou", "train/val/iou"]].mean()
    for (row, column), cell in table.cells.items():
        options = means.loc[(table.row_labels[row][0], table.column_labels[column][0])]
        lr = options["train/val/iou"].idxmax()
        assert cell.picked == {"lr": lr}
        assert cell.mean == pytest.approx(options.loc[lr, "iou"])
        assert cell.n == 3


def test_best_for_least(grid: StudyResults) -> None:
    table = grid.table("model", over=["seed", "data"], best={"over": "lr", "by": "train/loss", "goal": "min"})
    frame = grid.results("test", metrics=["train/loss"])
    means = frame.groupby(["model", "lr"])[["iou", "train/loss"]].mean()
    for (row, _), cell in table.cells.items():
        options = means.loc[table.row_labels[row][0]]
        assert cell.mean == pytest.approx(options.loc[options["train/loss"].idxmin(), "iou"])


def test_choosing_by_the_shown_metric_is_never_silent(grid: StudyResults) -> None:
    for by in ({"by": "test/iou"}, {}):
        table = grid.table("model", "data", over="seed", best={"over": "lr", **by})
        assert any("optimistic" in note for note in table.notes)


def test_best_needs_to_know_which_way(grid: StudyResults) -> None:
    with pytest.raises(ResultError, match="more or less of 'train/loss' is better"):
        grid.table("model", "data", over="seed", best={"over": "lr", "by": "train/loss"})


@pytest.mark.parametrize(("over", "missing"), [("seed", "lr"), ("lr", "seed"), ([], "lr")])
def test_refuses_to_average_over_what_nobody_named(grid: StudyResults, over: object, missing: str) -> None:
    with pytest.raises(ResultError) as caught:
        grid.table("model", "data", over=over)  # type: ignore[arg-type]
    assert f"over {missing!r}" in caught.value.message
    for way in ("rows", "columns", f"over: {missing}", "where", "best"):
        assert way in str(caught.value)


def test_where_settles_an_axis(grid: StudyResults) -> None:
    frame = wide(grid)
    for wanted in (0.001, "0.001", [0.001]):
        table = grid.table("model", "data", over="seed", where={"lr": wanted})
        want = frame[frame.lr == 0.001].groupby(["model", "data"])["iou"].mean()
        for (row, column), cell in table.cells.items():
            assert cell.mean == pytest.approx(want[(table.row_labels[row][0], table.column_labels[column][0])])


def test_where_that_leaves_nothing_names_the_values(grid: StudyResults) -> None:
    with pytest.raises(ResultError, match=r"no task of test is left with lr = 0\.5") as caught:
        grid.table("model", where={"lr": 0.5})
    assert "1e-3, 1e-4" in str(caught.value)


def test_unknown_axis_names_the_nearest(grid: StudyResults) -> None:
    with pytest.raises(ResultError, match="no axis 'modle'") as caught:
        grid.table("modle")
    assert "Did you mean model?" in str(caught.value)


def test_an_axis_is_named_once(grid: StudyResults) -> None:
    with pytest.raises(ResultError, match="'model' is in both rows and columns"):
        grid.table("model", "model")


def test_metric_names(grid: StudyResults) -> None:
    everything = ["seed", "lr", "data"]
    assert grid.table("model", value="iou", over=everything).value == "iou"
    assert grid.table("model", value="val/iou", over=everything).cells == pytest.approx(
        grid.table("model", value="train/val/iou", over=everything).cells
    )
    with pytest.raises(ResultError, match="'loss' is reported by 2 steps: train, test") as caught:
        grid.table("model", value="loss", over=everything)
    assert "train/loss or test/loss" in str(caught.value)
    with pytest.raises(ResultError, match="no task reports a metric 'test/ioo'") as caught:
        grid.table("model", value="test/ioo", over=everything)
    assert "Did you mean test/iou?" in str(caught.value)


def test_ranks_follow_the_goal_and_ties_share(tmp_path: Path) -> None:
    for goal, ranks in (("max", [1, 1, 3]), ("min", [2, 2, 1])):
        small = Small(tmp_path / goal, objective={"metric": "m", "goal": goal})
        for model, value in (("a", 2.0), ("b", 2.0), ("c", 1.0)):
            small.add("s", {"model": model}, {"m": value})
        table = build_table(read_store(small.write()), rows="model")
        (column,) = table.column_keys
        found = {table.row_labels[r][0]: table.cells[(r, column)].rank for r in table.row_keys}
        assert [found[m] for m in "abc"] == ranks
        assert table.cells[(table.row_keys[0], column)].is_best


def test_without_a_goal_nothing_is_ranked(grid: StudyResults) -> None:
    table = grid.table("model", value="test/loss", over=["seed", "lr", "data"])
    assert all(cell.rank is None for cell in table.cells.values())
    assert any("No ranks" in note for note in table.notes)
    assert any(
        c.rank for c in grid.table("model", value="test/loss", over=["seed", "lr", "data"], goal="min").cells.values()
    )


def test_missing_and_odd_values_are_counted_and_said(tmp_path: Path) -> None:
    small = Small(tmp_path, objective={"metric": "m", "goal": "max"})
    broken = [attempt(0, 1, 5, outcome="failed", failure="user", lost=4)]
    small.add("s", {"model": "a", "seed": 0}, {"m": 1.0})
    small.add("s", {"model": "a", "seed": 1}, attempts=broken)
    small.add("s", {"model": "b", "seed": 0}, {"m": math.nan})
    small.add("s", {"model": "b", "seed": 1}, {"m": 3.0})
    small.add("s", {"model": "c", "seed": 0}, {"other": 3.0})
    small.add("s", {"model": "c", "seed": 1})
    table = build_table(read_store(small.write()), rows="model", over="seed")
    (column,) = table.column_keys
    cells = {table.row_labels[r][0]: table.cells[(r, column)] for r in table.row_keys}
    assert (cells["a"].mean, cells["a"].n, cells["a"].expected) == (1.0, 1, 2)
    assert (cells["b"].mean, cells["b"].n) == (3.0, 1)
    assert cells["c"].mean is None
    assert table.row_labels[table.row_keys[-1]] == ("c",)
    assert table.notes[0].startswith(
        "3 of 6 trials are missing (1 failed, 1 waiting, 1 done but without m): cells that rest on fewer"
    )
    assert "1 value of NaN or infinity left out." in table.notes


def test_axes_that_move_together_need_no_name(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for model, lr in (("a", 0.1), ("b", 0.2)):
        for seed in range(2):
            small.add("s", {"model": model, "lr": lr, "seed": seed}, {"m": lr})
    table = build_table(read_store(small.write()), rows="model", value="m", over="seed", goal="min")
    assert [table.row_labels[r] for r in table.row_keys] == [("a",), ("b",)]


def test_numbers_that_look_alike_are_not_confused(tmp_path: Path) -> None:
    small = Small(tmp_path)
    for value in (1, "1", True, "true", 1.5, None, [1, 2]):
        small.add("s", {"axis": value}, {"m": 1.0})
    table = build_table(read_store(small.write()), rows="axis", value="m")
    assert len(table.row_keys) == 7


def test_several_metrics_stand_side_by_side(grid: StudyResults) -> None:
    every = ["seed", "lr", "data"]
    table = grid.table("model", value=["test/iou", "test/loss"], over=every)
    assert table.columns == ("metric",)
    assert [table.column_labels[c][0] for c in table.column_keys] == ["test/iou", "test/loss"]
    single = grid.table("model", value="test/loss", over=every)
    for row in table.row_keys:
        assert table.cells[(row, table.column_keys[1])].mean == single.cells[(row, single.column_keys[0])].mean
    assert "Ranks are by test/iou." in table.notes


def test_a_metric_of_many_relatives_is_no_number(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.step("test", for_each="train")
    train = small.add("train", {"model": "a"}, {"loss": 1.0})
    for checkpoint in ("last", "best"):
        small.add("test", {"model": "a", "checkpoint": checkpoint}, {"iou": 0.5}, needs=[train])
    found = load(small.write())
    with pytest.raises(ResultError, match="2 tasks of test belong to it, which differ in checkpoint"):
        found.results("train", metrics=["test/iou"])


def test_the_study_s_own_tables_and_the_default_one(tmp_path: Path) -> None:
    def study(name: str, **report: object) -> Path:
        small = Small(tmp_path / name, **report)
        for model, seed in itertools.product("ab", range(2)):
            small.add("s", {"model": model, "seed": seed, "fixed": 1}, {"m": seed + (model == "b")})
        return small.write()

    (table,) = load(study("default", objective={"metric": "m", "goal": "max"})).tables()
    assert (table.rows, table.over) == (("model",), ("seed",))
    assert report_tables(read_store(study("nothing"))) == []
    bad, good = report_tables(
        read_store(
            study("own", tables=[{"rows": ["model"], "value": ["m"]}, {"rows": ["model", "seed"], "value": "m"}])
        )
    )
    assert isinstance(bad, ResultError)
    assert not isinstance(good, ResultError)


def test_hours_of_a_row_are_its_own(tmp_path: Path) -> None:
    small = Small(tmp_path)
    small.step("test", for_each="train")
    hour = [attempt(0, 0, 3600, gpus=2)]
    shared = small.add("chips", {}, {"n": 1}, attempts=hour)
    for model in "ab":
        train = small.add("train", {"model": model}, {"loss": 1.0}, needs=[shared], attempts=hour)
        small.add("test", {"model": model}, {"iou": 1.0}, needs=[train], attempts=[attempt(0, 0, 1800, gpus=1)])
    table = build_table(read_store(small.write()), rows="model", value="iou")
    assert table.hours_of == "GPU-h"
    assert list(table.row_hours.values()) == [2.5, 2.5]


def test_trials_of_several_versions_of_the_code_are_told(tmp_path: Path) -> None:
    small = Small(tmp_path, objective={"metric": "s/iou", "goal": "max"})
    ids = []
    for model in "abc":
        need = small.add("prep", {"model": model}, {"n": 1})
        ids.append(small.add("s", {"model": model}, {"iou": 0.5}, needs=[need]))
    folder = small.write()
    assert not any("versions" in note for note in build_table(read_store(folder), rows="model").notes)
    for step, id_, code in (("s", ids[0], "1"), ("s", ids[1], "2"), ("s", ids[2], "1"), ("prep", None, None)):
        for file in (folder / step).glob(f"{id_ or '*'}/result.json"):
            file.write_text(json.dumps(json.loads(file.read_text()) | {"code": code or file.parent.name}))
    notes = build_table(read_store(folder), rows="model").notes
    assert "Tasks of s were done with 2 versions of their code (2, 1 tasks): shoal plan says which are stale." in notes
    assert any(note.startswith("Tasks of prep were done with 3 versions") for note in notes), (
        "what they were made from too"
    )


@pytest.mark.parametrize(("one", "other"), [(8, 8.0), ([8, "a"], (8.0, "a"))])
def test_numbers_that_are_equal_are_one_row_in_lists_too(tmp_path: Path, one: object, other: object) -> None:
    small = Small(tmp_path, objective={"metric": "iou", "goal": "max"})
    small.step("s")
    for seed, size in enumerate((one, other)):
        small.add("s", {"size": size, "seed": seed}, {"iou": 0.5})
    (row,) = build_table(read_store(small.write()), rows="size", over="seed").row_keys
    assert json.loads(row[0]) == json.loads(json.dumps(one))


def test_a_table_is_asked_for_in_python_as_in_a_study_file(grid: StudyResults) -> None:
    metrics = ["val/iou", "test/iou"]
    table = grid.table("model", value=metrics, over=["data", "lr", "seed"], groups={"model": {"old": ["a", "b"]}})
    assert list(table.row_labels.values()) == [("old",), ("c",)]
    assert [labels[0] for labels in table.column_labels.values()] == metrics
    assert table.cells[table.row_keys[0], table.column_keys[0]].n == 24
