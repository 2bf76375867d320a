"""Where a study was last run: on this machine, or on a cluster whose results have a store of their own beside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.agent.agent import write_json_atomic
from shoal.store.index import read_json
from shoal.store.layout import Store, open_store

if TYPE_CHECKING:
    from shoal.study import Study

__all__ = ["find_store", "other_file", "remember_place"]


def find_store(
    study: Study, url: str | None = None, *, on: str | None = None, follow: bool = True
) -> tuple[Store, str | None]:
    """The store of a study, and the cluster that it belongs to.

    What was made on a cluster lies on the cluster's claim, and is no input for a task elsewhere. So each cluster has a store of
    its own, ``runs-NAME`` beside ``runs``, unless ``url`` names one.

    Args:
        study: the study.
        url: ``--store``.
        on: name of a cluster; None: not said.
        follow: where nothing is said, take the place of the last run.

    Returns:
        The store, and the name (or file) of the cluster as it was given to ``--on``; None for this machine.

    Raises:
        UsageError: the store's address is of a kind that cannot be used.
    """
    root = open_store(url, beside=study.folder, default=study.store)
    known = read_json(root.study(study.study).place) or {}
    if url:
        return root, on or (_text(known.get("on")) if follow else None)
    if on is not None:
        return Store(root.root.with_name(f"{root.root.name}-{Path(on).stem}")), on
    where = _text(known.get("store"))
    if follow and where is not None:
        return Store(Path(os.path.normpath(root.root / where))), _text(known.get("on"))
    return root, None


def remember_place(study: Study, store: Store, url: str | None, on: str | None) -> None:
    """Write down where a study is being run, for the verbs that ask later."""
    mine = store.study(study.study)
    if on is not None:
        mine.root.mkdir(parents=True, exist_ok=True)
        write_json_atomic(str(mine.place), {"on": on})
    if url:
        return
    first = open_store(None, beside=study.folder, default=study.store)
    pointer = first.study(study.study)
    if on is None:
        with contextlib.suppress(OSError):
            pointer.place.unlink(missing_ok=True)
    else:
        first.prepare()
        pointer.root.mkdir(parents=True, exist_ok=True)
        # Relative, so that the folder around both can be moved.
        where = os.path.relpath(store.root, first.root)
        write_json_atomic(str(pointer.place), {"on": on, "store": where})


def other_file(last: object, file: Path) -> str | None:
    """Name of another study file from which a study of this name was last run, as when a file was copied; else None.

    Args:
        last: ``file`` of the last run's ``plan.json``; nothing where it is not known.
        file: the study file now.
    """
    name = _text(last)
    return name if name != file.name else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
