"""``{from: 1, to: 59}`` written for an axis: the whole numbers of it, each as if it stood there by itself."""

from __future__ import annotations

from collections.abc import Iterator

from shoal.study.merge import rebuilt
from shoal.study.yaml import Mapping, Node, Scalar, Sequence

__all__ = ["MOST", "spread"]

MOST = 10_000
"""The most numbers in one range: more tasks than that are a slip of the finger."""
_KEYS = ("from", "to")


def spread(tree: Mapping) -> Mapping:
    """The study with every range of its axes written out.

    In ``matrix`` and ``zip`` a range is a list of its numbers. In ``include`` and ``exclude`` an entry with a range is one entry
    for each number.

    Raises:
        StudyError: a range that is none.
    """
    steps = tree.items.get("steps")
    if not isinstance(steps, Mapping):
        return tree
    changed = {name: _step(step) if isinstance(step, Mapping) else step for name, step in steps.items.items()}
    if all(changed[name] is step for name, step in steps.items.items()):
        return tree
    return rebuilt(tree, {**tree.items, "steps": rebuilt(steps, changed)})


def _step(step: Mapping) -> Mapping:
    items = dict(step.items)
    if isinstance(matrix := items.get("matrix"), Mapping):
        items["matrix"] = _axes(matrix)
    zipped = items.get("zip")
    if isinstance(zipped, Mapping):
        items["zip"] = _axes(zipped)
    elif isinstance(zipped, Sequence):
        items["zip"] = _list(zipped, [_axes(one) if isinstance(one, Mapping) else one for one in zipped.items])
    for name in ("include", "exclude"):
        cells = items.get(name)
        if isinstance(cells, Sequence):
            entries = [entry for one in cells.items for entry in _entries(one)]
            items[name] = _list(cells, entries)
    if all(items[name] is node for name, node in step.items.items()):
        return step
    whole = rebuilt(step, items)
    return Mapping(whole.items, whole.keys, step.mark, step.source, 0, 0)


def _axes(axes: Mapping) -> Mapping:
    changed = {name: _list(node, _numbers(node)) if _is_range(node) else node for name, node in axes.items.items()}
    return axes if all(changed[name] is node for name, node in axes.items.items()) else rebuilt(axes, changed)


def _entries(entry: Node) -> Iterator[Node]:
    """The entry once for every combination of numbers of its ranges, the last range fastest."""
    name = (
        next((name for name, node in entry.items.items() if _is_range(node)), None)
        if isinstance(entry, Mapping)
        else None
    )
    if name is None or not isinstance(entry, Mapping):
        yield entry
        return
    for number in _numbers(entry.items[name]):
        yield from _entries(rebuilt(entry, {**entry.items, name: number}))


def _list(like: Node, items: list[Node]) -> Node:
    if isinstance(like, Sequence) and all(one is other for one, other in zip(like.items, items, strict=False)):
        return like
    return Sequence(tuple(items), like.mark, like.source, 0, 0)


def _is_range(node: Node) -> bool:
    return isinstance(node, Mapping) and bool(node.items) and set(node.items) <= set(_KEYS)


def _numbers(node: Node) -> list[Node]:
    assert isinstance(node, Mapping)
    ends: list[int] = []
    for name in _KEYS:
        end = node.items.get(name)
        if end is None:
            raise node.source.error(node.mark, f'a range without "{name}"', hint="For example {from: 1, to: 59}.")
        if not isinstance(end, Scalar) or isinstance(end.value, bool) or not isinstance(end.value, int):
            mark, source = node.keys[name]
            raise source.error(
                mark, f'"{name}" of a range must be a whole number', hint="For example {from: 1, to: 59}."
            )
        ends.append(end.value)
    first, last = ends
    if not 1 <= last - first + 1 <= MOST:
        if last < first:
            said, hint = "ends before it starts", "Write the smaller number as from; both ends belong to it."
        else:
            said, hint = (
                f"has {last - first + 1:,} numbers, more than {MOST:,}",
                "Divide the study, or list the values.",
            )
        raise node.source.error(node.mark, f"a range that {said}", hint=hint)
    return [Scalar(number, node.mark, node.source, 0, 0) for number in range(first, last + 1)]
