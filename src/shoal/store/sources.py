"""What a study's tasks are made from beside each other: code files and data, compared by content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from shoal.agent.agent import digest_tree, write_json_atomic
from shoal.errors import StoreError
from shoal.plan.data import data_of
from shoal.store.index import read_json
from shoal.store.layout import StudyStore
from shoal.store.state import Sources

if TYPE_CHECKING:
    from shoal.study import Step, Study

__all__ = ["absent_data", "absent_scripts", "code_digest", "code_files", "copy_code", "data_places", "read_sources"]

# A file that a command names and that is larger than this is taken for data, not for code.
_CODE_BYTES = 1 << 20
# Data up to this size is read whenever it is asked for; larger data when it has changed.
_QUICK_BYTES = 8 << 20
# Files changed a moment ago may change again within the same tick of the clock.
_SETTLED_SECONDS = 2.0
_NOT_CODE = frozenset({"__pycache__", ".git", ".venv", "node_modules", ".ipynb_checkpoints"})


def code_files(study: Study, step: Step) -> dict[str, Path]:
    """The code of a step: path relative to the study's folder, to absolute path, sorted.

    These are the files and folders that ``code`` names (patterns allowed). Where a step names none, they are the small files
    beside the study that its command names, so that ``run: python train.py`` notices an edited ``train.py``.
    """
    root = study.folder.absolute()
    found: dict[str, Path] = {}
    if step.code:
        for pattern in step.code:
            named = _NOT_CODE & set(Path(pattern).parts)
            for path in sorted(root.glob(pattern)) if _is_pattern(pattern) else [root / pattern]:
                # `**/*.py` means one's own files, not those of an environment that lies beside them.
                if named or not _NOT_CODE & set(path.relative_to(root).parts):
                    for file in _files_below(path):
                        found[file.relative_to(root).as_posix()] = file
        return dict(sorted(found.items()))
    for word in _words(step.run):
        candidate = root / word
        with contextlib.suppress(OSError, ValueError):
            if candidate.is_file() and candidate.stat().st_size <= _CODE_BYTES:
                inside = candidate.resolve().relative_to(root.resolve())
                found[inside.as_posix()] = candidate
    return dict(sorted(found.items()))


def code_digest(files: dict[str, Path]) -> str | None:
    """Digest of code files as they are now, as it is recorded with each result; null where there are none."""
    if not files:
        return None
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def data_places(study: Study, step: Step) -> dict[str, str]:
    """The data that a step reads: name to place (an absolute path, or a URL as it stands)."""
    return {
        name: place if "://" in place else os.path.abspath(study.folder / Path(place).expanduser())  # noqa: PTH100 (links stay as written)
        for name, place in data_of(study, step).items()
    }


def absent_data(study: Study, steps: Iterable[str]) -> list[tuple[str, str, str]]:
    """Data that steps read and that is not on this machine: step, name of the source, and place. Addresses are not looked at."""
    return [
        (name, source, place)
        for name in steps
        for source, place in data_places(study, study.steps[name]).items()
        if "://" not in place and not Path(place).exists()
    ]


def absent_scripts(study: Study) -> list[tuple[str, str]]:
    """Scripts that commands name and that are neither beside the study nor on the PATH: step, and the name as it stands.

    Commands that change their folder, or write files of their own, are not looked at.
    """
    return [
        (name, word)
        for name, step in study.steps.items()
        if not step.code and not (isinstance(step.run, str) and re.search(r"\bcd\b|>|\bPATH=", step.run))
        for word in _words(step.run)
        if re.fullmatch(r"[\w./-]+\.(py|sh)", word)
        and not (study.folder / word).exists()
        and shutil.which(word) is None
    ]


def read_sources(study: Study, *, data_here: bool = True) -> Sources:
    """Digests of the code and data of every step, as they are now.

    Args:
        study: the study.
        data_here: whether its data is on this machine; data elsewhere is not watched.
    """
    digests: dict[str, str | None] = {}
    code: dict[str, str | None] = {}
    by_files: dict[tuple[str, ...], str | None] = {}
    data: dict[str, dict[str, str | None]] = {}
    for name, step in study.steps.items():
        files = code_files(study, step)
        key = tuple(files)
        if key not in by_files:
            by_files[key] = code_digest(files)
        code[name] = by_files[key]
        data[name] = {}
        if not data_here:
            continue
        for source, place in data_places(study, step).items():
            if place not in digests:
                digests[place] = _data_digest(place)
            data[name][source] = digests[place]
    return Sources(code, data)


def copy_code(store: StudyStore, files: dict[str, Path], digest: str) -> Path:
    """Put the code where tasks run it: a folder named by the digest, whole or absent.

    Returns:
        The folder.

    Raises:
        StoreError: the code was changed while it was copied.
    """
    folder = store.code / digest[:16]
    if folder.is_dir():
        return folder
    making = store.code / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    try:
        for name, source in files.items():
            target = making / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        if code_digest({name: making / name for name in files}) != digest:
            raise StoreError("the study's code was changed while it was copied", hint="Run again.")
        with contextlib.suppress(FileExistsError, OSError):
            making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return folder


def _data_digest(place: str) -> str | None:
    if "://" in place or not Path(place).exists():
        return None
    stamp, size, newest = _stamp(Path(place))
    if size < _QUICK_BYTES:
        return str(digest_tree(place)["digest"])
    # Reading a large data set at every look would make planning slow, so its digest is kept, in the user's cache, for as
    # long as no path, size or time in it changes.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shoal" / "digests"
    file = cache / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
    known = read_json(file) or {}
    if known.get("stamp") == stamp and isinstance(known.get("digest"), str):
        return str(known["digest"])
    digest = str(digest_tree(place)["digest"])
    if time.time() - newest > _SETTLED_SECONDS:
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            write_json_atomic(str(file), {"path": place, "stamp": stamp, "digest": digest})
    return digest


def _stamp(path: Path) -> tuple[str, int, float]:
    """Of all files at a path: a digest of their names, sizes and times; their size in bytes; the time of the newest."""
    entries = []
    size, newest = 0, 0.0
    for folder, _, names in [("", [], [path.name])] if path.is_file() else os.walk(path):
        for name in names:
            file = Path(folder or path.parent, name)
            with contextlib.suppress(OSError):
                seen = file.stat()
                entries.append(f"{file}\0{seen.st_size}\0{seen.st_mtime_ns}\0{seen.st_ino}")
                size += seen.st_size
                newest = max(newest, seen.st_mtime)
    return hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest(), size, newest


def _is_pattern(text: str) -> bool:
    return any(char in text for char in "*?[")


def _files_below(path: Path) -> Iterable[Path]:
    if path.is_file():
        yield path
    elif path.is_dir() and path.name not in _NOT_CODE:
        for child in sorted(path.iterdir()):
            if not child.name.endswith(".pyc"):
                yield from _files_below(child)


def _words(run: str | Iterable[str] | None) -> list[str]:
    if run is None:
        return []
    if not isinstance(run, str):
        return [word for word in run if "{" not in word]
    try:
        words = shlex.split(run, comments=True)
    except ValueError:
        return []
    return [word for word in words if "{" not in word]
