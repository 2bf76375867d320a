"""A task made ready to start: its folder, its code, and the exact command of the next attempt."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shoal.agent.agent import digests_of, now, write_json_atomic
from shoal.errors import StoreError
from shoal.executors import AttemptSpec, Site
from shoal.executors.spec import Layout, attempt_spec
from shoal.plan import Plan, Task, resources_of
from shoal.plan.data import data_of
from shoal.store import StudyStore, TaskFolder, TaskRecord, read_json
from shoal.store.sources import absent_data, code_digest, code_files, copy_code, data_places
from shoal.store.state import Sources

__all__ = ["Preparer", "write_task"]


class Preparer:
    """Makes the specification of a task's next attempt, and the folders it needs.

    Args:
        plan: what is run.
        store: where it is kept.
        sources: digests of code and data, as they are recorded with each result.
        executor: name of the executor.
        site: where tasks find things, if not where this process does.
    """

    def __init__(
        self, plan: Plan, store: StudyStore, sources: Sources, executor: str, site: Site | None = None
    ) -> None:
        self._plan = plan
        self._store = store
        self._sources = sources
        self._executor = executor
        self._site = site
        self._layout = Layout(store.root if site is None else site.root)
        self._code: dict[str, str] = {}
        self._watched: dict[str, _Watched] = {}

    def check(self, steps: Iterable[str]) -> None:
        """Look for what would keep the steps from starting, so that it is said before anything starts.

        Raises:
            StudyError: data is not where the study says, or a place (the store's path, a data folder) cannot stand where
                a command refers to it.
        """
        study = self._plan.study
        steps = list(steps)
        for name, source, place in () if self._site else absent_data(study, steps):
            raise study.error(
                ("data",) if isinstance(study.data, str) else ("data", source),
                f"step {name!r} needs data that is not there: {place}",
                hint="Put it there, or name another place in the study, in a profile or with --set.",
            )
        for name in steps:
            # Now and not when its first task starts: what is edited meanwhile belongs to the next run.
            self._cwd(name)
            # One task stands for all: they differ in parameters, which planning has rendered already.
            task = next(iter(self._plan.of_step(name)), None)
            if task is not None and task.command is not None:
                self._spec(replace(task, inputs={need: ids[:1] for need, ids in task.inputs.items()}), 1)

    def attempt(
        self,
        task: Task,
        number: int,
        record: TaskRecord | None,
        input_digests: Mapping[str, str | None],
        overrides: Mapping[str, Any] | None = None,
    ) -> AttemptSpec:
        """The next attempt of a task; what an earlier result or other inputs left behind is cleared away.

        Raises:
            StoreError: the store cannot be written.
            StudyError: the command or the resources cannot be rendered.
        """
        folder = self._store.task(task.step, task.id)
        attempt = folder.attempt(number)
        spec = self._spec(task, number, input_digests, overrides)
        try:
            _clear(folder, number, record, spec)
            _make_folders(folder.root, attempt)
            if number == 1 or not folder.task.exists():
                write_task(self._plan, self._store, task)
        except OSError as error:
            raise StoreError(
                f"cannot be written: {error.strerror or error}", path=folder.root, hint="Is the disk full?"
            ) from error
        made = AttemptSpec.from_json(spec)
        return made if str(made.attempt_dir) == str(attempt) else replace(made, records=attempt)

    def _spec(
        self,
        task: Task,
        number: int,
        input_digests: Mapping[str, str | None] | None = None,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        study, step = self._plan.study, self._plan.step(task)
        asked = resources_of(self._plan, task, overrides)
        if self._site is not None:
            asked = self._site.fill(asked)
        known = self._sources.data.get(task.step, {})
        places = data_places(study, step) if self._site is None else data_of(study, step)
        return attempt_spec(
            self._plan,
            task,
            self._layout,
            number=number,
            cwd=self._cwd(task.step),
            data={name: (place, known.get(name)) for name, place in places.items()},
            code=self._code_now(task.step),
            resources=asked,
            executor=self._executor,
            input_digests=input_digests,
            queued=now(),
        )

    def _code_now(self, name: str) -> str | None:
        """Digest of the code with which a task that starts now runs.

        A copy stays as it was; files that are only watched may have been edited since the run began, and what a task was
        made with has to be what its result says.
        """
        began = self._sources.code.get(name)
        step = self._plan.study.steps[name]
        if began is None or step.code or self._site is not None:
            return began
        watched = self._watched.get(name)
        if watched is None:
            watched = self._watched[name] = _Watched(code_files(self._plan.study, step), began)
        return watched.digest()

    def _cwd(self, name: str) -> str:
        """Where a step's tasks start: in the copy of its code, made once, or beside the study file."""
        if self._site is not None:
            return self._site.cwd.get(name, ".")
        if name not in self._code:
            study = self._plan.study
            step = study.steps[name]
            digest = self._sources.code.get(name) if step.code else None
            copied = copy_code(self._store, code_files(study, step), digest) if digest else study.folder
            self._code[name] = str(copied.absolute())
        return self._code[name]


class _Watched:
    """The digest of files that may be edited while a run goes on; they are read again only where their times or sizes differ."""

    def __init__(self, files: dict[str, Path], digest: str) -> None:
        self._files = files
        self._digest = digest
        self._stamp: object = None

    def digest(self) -> str:
        """The digest as the files are now; one that is gone leaves it as it was, since its task will fail by itself."""
        try:
            stamp = [(seen.st_mtime_ns, seen.st_size, seen.st_ino) for seen in map(Path.stat, self._files.values())]
            if stamp != self._stamp:
                self._digest = code_digest(self._files) or self._digest
                self._stamp = stamp
        except OSError:
            pass
        return self._digest


def write_task(plan: Plan, store: StudyStore, task: Task) -> None:
    """Write ``task.json``."""
    file = store.task(task.step, task.id).task
    command = list(task.command) if isinstance(task.command, tuple) else task.command
    body = {
        "format": 1,
        "id": task.id,
        "study": plan.study.study,
        "step": task.step,
        "params": task.params,
        "needs": list(task.needs),
        "inputs": {name: list(ids) for name, ids in task.inputs.items()},
        "command": command,
    }
    try:
        write_json_atomic(str(file), body)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(str(file), body)


def _make_folders(task: Path, attempt: Path) -> None:
    # From the top down: mostly all but the step's folder are missing, and asking for the last one first costs a call each.
    try:
        task.mkdir(exist_ok=True)
    except FileNotFoundError:
        task.mkdir(parents=True, exist_ok=True)
    attempt.parent.mkdir(exist_ok=True)
    attempt.mkdir(exist_ok=True)


def _clear(folder: TaskFolder, number: int, record: TaskRecord | None, spec: dict[str, Any]) -> None:
    if record is None:
        return
    had_result = record.result is not None
    before = read_json(folder.attempt(number - 1) / "spec.json") if number > 1 else None
    same_inputs = before is not None and all(
        digests_of(before, key) == digests_of(spec, key) for key in ("input_digests", "data")
    )
    # Checkpoints of other inputs, or of a run that was finished, are nothing to resume from.
    useless = had_result or (before is not None and not same_inputs)
    doomed = folder.root / f".checkpoints.{os.getpid()}"
    # They go before the result: while that is there, nobody resumes, even if this process is killed in between.
    if useless and folder.checkpoints.is_dir():
        folder.checkpoints.rename(doomed)
    if had_result:
        # From here on the task is not done, whatever happens next.
        folder.result.unlink(missing_ok=True)
    shutil.rmtree(doomed, ignore_errors=True)
