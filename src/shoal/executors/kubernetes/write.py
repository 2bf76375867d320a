"""Manifests as YAML files in a folder: the same plan writes the same bytes, and nothing outside of the folder is touched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from shoal.errors import UsageError
from shoal.executors.kubernetes.manifests import Manifest

__all__ = ["to_yaml", "write_manifests"]

HEAD = "# Made by `shoal plan --manifests`: the next one overwrites it.\n"
_PARTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[a-z0-9][a-z0-9.-]*\.yaml\Z")


def to_yaml(objects: Iterable[Manifest]) -> str:
    """The objects as one YAML stream that every reader of YAML, 1.1 or 1.2, takes for the same."""
    return "---\n".join(
        str(yaml.dump(one, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=10**6)) for one in objects
    )


def write_manifests(folder: Path, files: Iterable[tuple[str, list[Manifest]]]) -> int:
    """Write every file below a folder, and remove those of an earlier plan that are not in this one.

    Files that were not made here stay as they are; one in the way is an error.

    Args:
        folder: made where it does not exist.
        files: names of the form ``step/name.yaml``, with their objects.

    Returns:
        How many files were written.

    Raises:
        UsageError: something is in the way, or the folder cannot be written.
    """
    # Everything is rendered before anything is written: a mistake leaves the folder as it was.
    texts = {name: HEAD + to_yaml(objects) for name, objects in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root = folder.resolve()
        for name, text in texts.items():
            if not _PARTS.match(name):
                raise UsageError(f"{name!r} is not a name for a manifest")
            _write(root, name, text)
        for path in sorted(root.glob("*/*.yaml")):
            name = path.relative_to(root).as_posix()
            if name not in texts and not path.is_symlink() and not path.parent.is_symlink() and _ours(path):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
    except OSError as error:
        raise UsageError(
            f"{error.filename or folder}: cannot be written: {error.strerror or error}", hint="Name another folder."
        ) from error
    return len(texts)


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    if path.parent.is_symlink():
        raise UsageError(f"{path.parent} is a link: manifests are written into their own folder only")
    path.parent.mkdir(exist_ok=True)
    if path.is_symlink() or (path.exists() and not _ours(path)):
        raise UsageError(
            f"{path} is in the way: it was not made by shoal plan --manifests", hint="Name another folder."
        )
    beside = path.parent / f".{path.name}.{os.getpid()}"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def _ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(HEAD)) == HEAD.encode()


@cache
def _dumper() -> Any:
    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        """Writes long texts as blocks, no aliases, and quotes every text that some reader might take for a number."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, data: str) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)

    Dumper.add_representer(str, text)
    # A task's id such as 12345e678901 is a number to YAML 1.2.
    Dumper.add_implicit_resolver("tag:yaml.org,2002:shoal", re.compile(r"[-+.]?[0-9].*\Z", re.S), list("-+.0123456789"))
    return Dumper
