"""Laying one marked tree over another: extends, profiles and defaults. What is merged still knows where it was written."""

from __future__ import annotations

from shoal.study.yaml import Mapping, Node, Scalar

__all__ = ["at", "merge", "normalised", "rebuilt", "without"]

_IN_MATRIX = ("include", "exclude", "zip")


def rebuilt(like: Mapping, items: dict[str, Node], *sources: Mapping) -> Mapping:
    """A mapping of ``items``, with the place of ``like``; where keys were written is looked up in ``sources``."""
    keys = {}
    for name in items:
        keys[name] = next(one.keys[name] for one in (*sources, like) if name in one.keys)
    return Mapping(items, keys, like.mark, like.source, 0, 0)


def merge(under: Mapping, over: Mapping, *, first: bool = True) -> Mapping:
    """``over`` laid over ``under``: mappings merge, all else is replaced, and null removes what was there.

    The key of mappings that merge is taken to stand where it was written first, or, on demand, last.
    """
    items = dict(under.items)
    merged: dict[str, Node] = {}
    for name, value in over.items.items():
        below = items.get(name)
        if isinstance(value, Scalar) and value.value is None and below is not None:
            del items[name]
        elif isinstance(value, Mapping) and isinstance(below, Mapping):
            items[name] = merged[name] = merge(below, value, first=first)
        else:
            items[name] = value
    shared = rebuilt(under, merged) if first else under
    return rebuilt(under if first else over, items, *((shared, over, under) if first else (over, under)))


def without(tree: Mapping, *names: str) -> Mapping:
    """The mapping without some of its keys."""
    return rebuilt(tree, {name: value for name, value in tree.items.items() if name not in names})


def at(node: Node | None, *path: str) -> Node | None:
    """The node at a path of keys, or None."""
    for name in path:
        node = node.items.get(name) if isinstance(node, Mapping) else None
    return node


def normalised(tree: Mapping) -> Mapping:
    """The study with ``include``, ``exclude`` and ``zip`` of every matrix moved up into its step.

    This comes before merging, so that a profile may write them in either place.

    Raises:
        StudyError: a step has one of them in both places.
    """
    items = dict(tree.items)
    if isinstance(defaults := items.get("defaults"), Mapping):
        items["defaults"] = _step(defaults)
    for name, inner in (("steps", _step), ("profiles", normalised)):
        if isinstance(group := items.get(name), Mapping):
            changed = {key: inner(one) if isinstance(one, Mapping) else one for key, one in group.items.items()}
            items[name] = rebuilt(group, changed)
    return rebuilt(tree, items)


def _step(step: Mapping) -> Mapping:
    matrix = step.items.get("matrix")
    if not isinstance(matrix, Mapping) or not any(name in matrix.items for name in _IN_MATRIX):
        return step
    for name in _IN_MATRIX:
        if name in matrix.items and name in step.items:
            mark, source = matrix.keys[name]
            other = step.keys[name][0]
            raise source.error(
                mark, f'"{name}" stands in the matrix and beside it', hint=f"The other is at {other}. Keep one."
            )
    items = {**step.items, "matrix": without(matrix, *_IN_MATRIX)}
    items.update({name: matrix.items[name] for name in _IN_MATRIX if name in matrix.items})
    return rebuilt(step, items, step, matrix)
