"""Where things are in a store: docs/reference/files.md as code, and nothing but paths."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import StoreError, UsageError

__all__ = ["RESERVED", "Store", "StudyStore", "TaskFolder", "open_store"]

RESERVED = frozenset({"runs", "code", "control"})
"""Names of folders beside the steps' folders, so no step may have them."""

DEFAULT = "runs"


@dataclass(frozen=True, slots=True)
class Store:
    """A folder that holds studies."""

    root: Path

    def study(self, name: str) -> StudyStore:
        """The part of the store that belongs to one study."""
        return StudyStore(self.root / name)

    def prepare(self) -> None:
        """Make the folder, and keep it out of git.

        Raises:
            StoreError: it cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("# Made by Shoal: results do not belong in git.\n*\n")
        except OSError as error:
            raise StoreError(
                f"the store cannot be written: {error.strerror or error}",
                path=self.root,
                hint="Name another place with --store DIR or SHOAL_STORE.",
            ) from error


@dataclass(frozen=True, slots=True)
class StudyStore:
    """One study's folder in a store."""

    root: Path

    @property
    def name(self) -> str:
        """The study's name."""
        return self.root.name

    @property
    def plan(self) -> Path:
        """The plan as last run."""
        return self.root / "plan.json"

    @property
    def study(self) -> Path:
        """The study file as last run, everything merged."""
        return self.root / "study.yaml"

    @property
    def lock(self) -> Path:
        """Held by the live runner."""
        return self.root / "runner.lock"

    @property
    def index(self) -> Path:
        """The cache of the small files."""
        return self.root / "index.sqlite"

    @property
    def runs(self) -> Path:
        """One file for each ``shoal run``."""
        return self.root / "runs"

    @property
    def code(self) -> Path:
        """Copies of the code that tasks ran with, by digest."""
        return self.root / "code"

    @property
    def place(self) -> Path:
        """The cluster that the study runs on, if it is one."""
        return self.root / "place.json"

    @property
    def control(self) -> Path:
        """Requests to the live runner."""
        return self.root / "control"

    def task(self, step: str, task: str) -> TaskFolder:
        """The folder of one task."""
        return TaskFolder(self.root / step / task)

    def step_folders(self) -> list[Path]:
        """The folders of all steps that ever ran, of the present plan or not."""
        try:
            with os.scandir(self.root) as entries:
                return sorted(
                    Path(entry.path)
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False)
                    and entry.name not in RESERVED
                    and not entry.name.startswith(".")
                )
        except FileNotFoundError:
            return []


@dataclass(frozen=True, slots=True)
class TaskFolder:
    """One task's folder."""

    root: Path

    @property
    def task(self) -> Path:
        """What the task is."""
        return self.root / "task.json"

    @property
    def result(self) -> Path:
        """Written last: the task is done."""
        return self.root / "result.json"

    @property
    def out(self) -> Path:
        """What the task made."""
        return self.root / "out"

    @property
    def checkpoints(self) -> Path:
        """Where the task resumes from."""
        return self.root / "checkpoints"

    def attempt(self, number: int) -> Path:
        """The folder of one attempt."""
        return self.root / "attempts" / str(number)


def open_store(url: str | None, *, beside: Path | None = None, default: str | None = None) -> Store:
    """The store to use.

    Args:
        url: ``--store``; then the environment's ``SHOAL_STORE`` counts, then ``default``, then a folder ``runs`` beside
            the study file.
        beside: the folder of the study file; a relative ``default`` is seen from there.
        default: the study file's own ``store``.

    Raises:
        UsageError: the URL's scheme is not one that this version can use.
    """
    chosen = url or os.environ.get("SHOAL_STORE")
    base = Path.cwd()
    if not chosen:
        chosen, base = default or DEFAULT, beside or Path.cwd()
    parts = urllib.parse.urlsplit(chosen)
    if parts.scheme == "file":
        chosen = urllib.parse.unquote(parts.path)
    elif "://" in chosen:
        raise UsageError(
            f"store {chosen!r}: this version keeps its store in a folder, not at {parts.scheme}://",
            hint="Name a folder, for example --store /data/shoal (a mounted volume will do).",
        )
    folder = (base / Path(chosen).expanduser()).absolute()
    # Paths of the store are shown, and pasted: without detours, but by the links that the user took.
    return Store(folder.resolve() if ".." in folder.parts else folder)
