"""The points of a step's matrix, in a fixed order: product, zip and seeds, less ``exclude``, plus ``include``."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from shoal.study.template import Value
from shoal.study.values import same_value

__all__ = ["Params", "expand"]

Params = dict[str, Value]


def expand(
    matrix: Mapping[str, Sequence[Value]],
    *,
    zipped: Sequence[Mapping[str, Sequence[Value]]] = (),
    seeds: Sequence[int] | None = None,
    exclude: Sequence[Mapping[str, Value]] = (),
    include: Sequence[Mapping[str, Value]] = (),
) -> list[Params]:
    """All points of a matrix.

    The first axis varies slowest and the seed fastest. ``exclude`` drops every point that agrees with all keys of one of its
    entries. ``include`` works as in GitHub Actions: an entry is added to every point of the original matrix of which it
    changes no value, and becomes a point of its own where there is no such point.

    Args:
        matrix: axis name to values; their product is taken.
        zipped: groups of axes of equal length that move together.
        seeds: values of the axis ``seed``.
        exclude: partial points to drop.
        include: values to add to points, or points to add.

    Returns:
        One mapping from axis to value for each point; a single empty one if there is nothing to vary.
    """
    dimensions: list[list[Params]] = [[{axis: value} for value in values] for axis, values in matrix.items()]
    for group in zipped:
        length = min(len(values) for values in group.values())
        dimensions.append([{axis: values[i] for axis, values in group.items()} for i in range(length)])
    if seeds is not None:
        dimensions.append([{"seed": seed} for seed in seeds])
    # With no axes at all there is one point, unless `include` names the points.
    points = [_merged(parts) for parts in itertools.product(*dimensions)] if dimensions or not include else []
    if exclude:
        points = [point for point in points if not any(_agrees(point, entry) for entry in exclude)]
    return points if not include else list(_included(points, include))


def _merged(parts: tuple[Params, ...]) -> Params:
    point: Params = {}
    for part in parts:
        point.update(part)
    return point


def _agrees(point: Mapping[str, Value], entry: Mapping[str, Value]) -> bool:
    return all(key in point and same_value(point[key], value) for key, value in entry.items())


def _included(points: list[Params], include: Sequence[Mapping[str, Value]]) -> Iterator[Params]:
    originals = [dict(point) for point in points]
    extra: list[Params] = []
    for entry in include:
        matched = False
        for original, point in zip(originals, points, strict=True):
            if all(key not in original or same_value(original[key], value) for key, value in entry.items()):
                matched = True
                point.update(entry)
        # With no axis of the original matrix in it, an entry that fits everywhere still is one of the points.
        if not matched:
            extra.append(dict(entry))
    yield from points
    yield from extra
