"""Points of a matrix: product, zip, seeds, exclude, include."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shoal.plan.matrix import expand


def test_the_first_axis_varies_slowest_and_the_seed_fastest() -> None:
    points = expand({"model": ["a", "b"], "lr": [1, 2]}, seeds=[0, 1])
    assert [tuple(point.values()) for point in points] == [
        (model, lr, seed) for model in "ab" for lr in (1, 2) for seed in (0, 1)
    ]


def test_zipped_axes_move_together() -> None:
    points = expand({"bands": ["ngb", "evi"]}, zipped=[{"size": [256, 512], "gpus": [1, 4]}])
    assert {(point["size"], point["gpus"]) for point in points} == {(256, 1), (512, 4)}
    assert len(points) == 4


def test_exclude_drops_what_agrees_with_all_its_keys() -> None:
    points = expand(
        {"model": ["a", "b"], "lr": [1, 2], "flag": [True, 1]}, exclude=[{"model": "a", "lr": 2.0, "flag": True}]
    )
    kept = [repr(point) for point in points]  # as text, because True == 1
    assert repr({"model": "a", "lr": 2, "flag": True}) not in kept
    assert repr({"model": "a", "lr": 2, "flag": 1}) in kept
    assert len(points) == 7


def test_include_works_as_github_documents_it() -> None:
    # The worked example of GitHub's documentation on expanding and adding matrix configurations.
    points = expand(
        {"fruit": ["apple", "pear"], "animal": ["cat", "dog"]},
        include=[
            {"color": "green"},
            {"color": "pink", "animal": "cat"},
            {"fruit": "apple", "shape": "circle"},
            {"fruit": "banana"},
            {"fruit": "banana", "animal": "cat"},
        ],
    )
    assert points == [
        {"fruit": "apple", "animal": "cat", "color": "pink", "shape": "circle"},
        {"fruit": "apple", "animal": "dog", "color": "green", "shape": "circle"},
        {"fruit": "pear", "animal": "cat", "color": "pink"},
        {"fruit": "pear", "animal": "dog", "color": "green"},
        {"fruit": "banana"},
        {"fruit": "banana", "animal": "cat"},
    ]


def test_include_alone_lists_the_points() -> None:
    assert expand({}, include=[{"a": 1}, {"a": 2}]) == [{"a": 1}, {"a": 2}]
    assert expand({}) == [{}]


axes = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True), max_size=4
)


@given(axes, st.data())
def test_exclude_leaves_exactly_the_points_that_no_entry_covers(matrix: dict[str, list[int]], data: Any) -> None:
    entries = data.draw(
        st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 5), min_size=1, max_size=2), max_size=3)
    )
    every = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    expected = [point for point in every if not any(entry.items() <= point.items() for entry in entries)]
    assert expand(matrix, exclude=entries) == expected
