"""What a verb has opened: a study, planned, with its part of a store."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.plan import Plan
    from shoal.store import Store, StudyStore


EXECUTORS = ("local", "debug")
"""Places to run that are no clusters: with them, ``on`` of what was opened is None."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A study, planned, and its part of the store."""

    plan: Plan
    store: StudyStore
    root: Store
    profile: str | None
    overrides: tuple[str, ...] = ()
    store_given: str | None = None
    on: str | None = None
    file: str = "STUDY"
    """The study file as it was named, quoted for a shell: for commands that we suggest."""

    @property
    def look(self) -> str:
        """The study file and its store, to be repeated in a command that looks at it."""
        return f"{self.file}{self.store_option}"

    @property
    def again(self) -> str:
        """All that was given, to be repeated in a command that runs it."""
        return f"{self.file}{self.options}{self.on_option}"

    @property
    def store_option(self) -> str:
        """``--store`` as it was given, to be repeated in a command that we suggest."""
        return f" --store {shlex.quote(self.store_given)}" if self.store_given else ""

    @property
    def on_option(self) -> str:
        """``--on``, to be repeated in a command that runs something."""
        return f" --on {shlex.quote(self.on)}" if self.on else ""

    @property
    def look_with(self) -> str:
        """The verb that shows what came out: ``results``, or ``status`` for a study that compares nothing."""
        report = self.plan.study.report
        return "results" if report.objective or report.tables else "status"

    @property
    def options(self) -> str:
        """What was given beside the study file, to be repeated in a command that we suggest."""
        profile = f" --profile {shlex.quote(self.profile)}" if self.profile else ""
        return profile + "".join(f" --set {shlex.quote(item)}" for item in self.overrides) + self.store_option
