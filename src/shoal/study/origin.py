"""Where a study came from: its merged tree, which knows for every key and value where it was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.errors import Mark, StudyError
from shoal.study.source import Source
from shoal.study.yaml import Mapping, Node, Scalar, Sequence, plain

__all__ = ["Origin"]

_NOT_RESOLVED = ("extends", "profiles", "defaults")


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A study's merged tree, file, folder and profile. All are equal: studies that say the same are, wherever they stand."""

    tree: Mapping
    path: Path | None
    folder: Path
    profile: str | None
    changed: bool = False
    """Whether a profile or overrides were applied, which may well leave parts of the study without effect."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0

    def node(self, path: tuple[str | int, ...]) -> Node | None:
        """What was written at a path; shorthands (one value for a list of one) are seen through."""
        node: Node | None = self.tree
        for part in path:
            if isinstance(node, Mapping) and isinstance(part, str):
                node = node.items.get(part)
            elif isinstance(node, Sequence) and isinstance(part, int):
                node = node.items[part] if 0 <= part < len(node.items) else None
            elif isinstance(part, str) or node is None:
                return None
            # A place in a list where a single thing was written: that thing.
        return node

    def key(self, path: tuple[str | int, ...]) -> tuple[Mark, Source] | None:
        """Where the key at the end of a path was written."""
        parent = self.node(path[:-1])
        if path and isinstance(parent, Mapping) and isinstance(path[-1], str):
            return parent.keys.get(path[-1])
        return None

    def written(self, path: tuple[str | int, ...]) -> str | None:
        """A single value as it stands in the file, quotes and all; None for anything else, and for what is not written."""
        node = self.node(path)
        return node.source.text[node.start : node.end] if isinstance(node, Scalar) else None

    def mark(self, path: tuple[str | int, ...]) -> Mark | None:
        """Where the value at a path was written: a single value's own place, else its key's."""
        found = self._place(path)
        return found[0] if found else None

    def error(
        self,
        path: tuple[str | int, ...],
        message: str,
        *,
        hint: str | None = None,
        span: tuple[int, int] | None = None,
        key: bool = False,
    ) -> StudyError:
        """An error at a path, or at the nearest thing around it that was written; ``key`` points at the key."""
        found = self.key(path) if key else None
        node = self.node(path)
        if found is None and span is not None and isinstance(node, Scalar):
            found = node.within(*span), node.source
        around = path
        while found is None and around:
            found = self._place(around)
            around = around[:-1]
        mark, source = found or (self.tree.mark, self.tree.source)
        return source.error(mark, message, hint=hint)

    def resolved(self) -> dict[str, Any]:
        """Plain data, without what has been merged in."""
        return {name: plain(value) for name, value in self.tree.items.items() if name not in _NOT_RESOLVED}

    def _place(self, path: tuple[str | int, ...]) -> tuple[Mark, Source] | None:
        node = self.node(path)
        if isinstance(node, Scalar) and (node.value is not None or self.key(path) is None):
            return node.mark, node.source
        if (found := self.key(path)) is not None:
            return found
        return (node.mark, node.source) if node is not None and path else None
