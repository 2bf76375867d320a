"""The runner: decides what starts next, what follows a failure, and when there is nothing left to do.

It is level-triggered: every decision is made from the plan and from what the store and the executor say now, so a runner that
was killed is followed by one that simply looks again.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from shoal.errors import UsageError
from shoal.executors import AttemptKey, Ended, Executor, Note, Started
from shoal.failures import FailureClass
from shoal.plan import Plan, Task, resources_of
from shoal.runner import control
from shoal.runner.board import Board, Entry, Summary
from shoal.runner.order import Ready
from shoal.runner.policy import Canary, decide
from shoal.runner.prepare import Preparer
from shoal.runner.progress import Phase, Problem, Progress
from shoal.runner.record import RunRecord, write_plan
from shoal.store import RunnerLock, Snapshot, StudyStore, TaskRecord, read_task
from shoal.store.sources import read_sources
from shoal.store.state import State, TaskState, survey, task_state

__all__ = ["Runner"]

_TICK = 0.5
# A task that has waited this long for room is not overtaken by smaller ones any more.
_PATIENCE = 60.0


class Runner:
    """Runs what is asked for of a plan, on one executor, into one store.

    Args:
        plan: what there is to do.
        store: the study's part of the store.
        executor: where attempts run.
        asked: ids of the tasks that are wanted (what they need is run too); all by default.
        max_parallel: how many attempts may run at once, at most.
        keep_stale: take results for good although code has changed since.
        profile: name of the profile, for the record.
        overrides: items of ``--set``, for the record.
        resources: raw amounts that replace those of the study for the asked tasks (not for what they need).
        on_event: told about everything worth a line, as text.
    """

    def __init__(
        self,
        plan: Plan,
        store: StudyStore,
        executor: Executor,
        *,
        asked: Iterable[str] | None = None,
        max_parallel: int | None = None,
        keep_stale: bool = False,
        profile: str | None = None,
        overrides: Sequence[str] = (),
        resources: Mapping[str, Any] | None = None,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.store = store
        self.executor = executor
        self.progress = Progress(plan.study.study, executor=executor.name)
        self._named = set(plan.tasks) if asked is None else set(asked)
        self._asked = set(plan.tasks) if asked is None else plan.with_needs(self._named)
        limits = [limit for limit in (max_parallel, plan.study.max_parallel) if limit]
        self._limit = min(limits) if limits else None
        self._keep_stale = keep_stale
        self._profile = profile
        self._overrides = list(overrides)
        self._resources = dict(resources or {})
        self._on_event = on_event or (lambda _text: None)
        self._board = Board(plan.order, self.progress)
        self._records: dict[str, TaskRecord] = {}
        self._ready = Ready(plan.needs(), self._asks)
        self._later: list[tuple[float, str]] = []
        self._active: dict[AttemptKey, str] = {}
        self._stopped_before: set[AttemptKey] = set()
        self._active_steps: Counter[str] = Counter()
        self._canaries = {name: Canary(plan.study.steps[name].canary) for name in plan.order}
        self._halted: set[str] = set()
        self._draining = False
        self._stop_request: bool | None = None
        self._stopping = False
        self._left = False

    def listen(self, on_event: Callable[[str], None]) -> None:
        """Be told about everything worth a line."""
        self._on_event = on_event

    # What another thread or a signal handler may call.

    def drain(self) -> None:
        """Start nothing more; end when what runs has ended."""
        self._draining = True
        self.progress.mode = "draining"

    def stop(self, *, now: bool = False) -> None:
        """End what runs: ask it to stop, or kill it."""
        self.drain()
        self.progress.mode = "stopping"
        self._stopping = True
        self._stop_request = now or bool(self._stop_request)

    def leave(self) -> None:
        """End at once and leave running tasks alone; the next run adopts them."""
        self.drain()
        self._left = True

    def run(self) -> Summary:
        """Run until everything asked for has come to an end, or waits for a person.

        Raises:
            HeldError: another runner holds the study.
            StudyError: data is not where the study says, or a command or an amount cannot be filled in.
            UsageError: a task can never run on this executor.
            StoreError: the store cannot be written.
        """
        with RunnerLock(self.store.lock, executor=self.executor.name):
            control.clear(self.store)
            write_plan(self.plan, self.store, profile=self._profile, overrides=self._overrides)
            self._sources = read_sources(self.plan.study, data_here=self.executor.site is None)
            snapshot = Snapshot.read(self.store)
            self._records = dict(snapshot.tasks)
            self._preparer = Preparer(self.plan, self.store, self._sources, self.executor.name, self.executor.site)
            adopted = self._adopt()
            states = survey(self.plan, snapshot, self._sources, keep_stale=self._keep_stale)
            to_run = {id_ for id_ in self._asked if states[id_].state is not State.DONE}
            self._preparer.check(dict.fromkeys(self.plan.tasks[id_].step for id_ in self.plan.tasks if id_ in to_run))
            self._refuse_impossible(states, adopted)
            record = RunRecord(
                self.plan,
                self.store,
                executor=self.executor.name,
                profile=self._profile,
                asked=len(self._asked),
            )
            self.progress.run = record.number
            self._lay_out(adopted)
            try:
                self._loop()
            finally:
                self.progress.gpus = self.executor.gpus_in_use()
                # On a disk that is full, what ended the loop is what has to be told.
                with contextlib.suppress(OSError):
                    record.end(self._board.counts())
            return self._board.summary(interrupted=self._draining, left=len(self._active))

    # Setting out.

    def _adopt(self) -> dict[str, AttemptKey]:
        open_attempts = {}
        for id_ in self.plan.tasks:
            record = self._records.get(id_)
            last = record.last if record else None
            if record is not None and last is not None and last.state != "ended":
                folder = self.store.task(record.step, id_).attempt(last.number)
                open_attempts[AttemptKey(id_, last.number)] = folder
        alive = self.executor.adopt((folder, key) for key, folder in open_attempts.items())
        for key in open_attempts.keys() - alive:
            # It may have ended between the first look and this one.
            step = self.plan.tasks[key.task].step
            self._records[key.task] = read_task(self.store.task(step, key.task).root, step)
        # Whoever was asked to stop them was killed before they had ended; this run is asked to run them.
        self._stopped_before = {key for key in alive if (open_attempts[key] / "stop").exists()}
        if alive:
            self._on_event(f"adopted {len(alive)} running tasks of an earlier run")
        return {key.task: key for key in alive}

    def _refuse_impossible(self, states: Mapping[str, TaskState], adopted: Mapping[str, AttemptKey]) -> None:
        checked = set()
        for id_ in self.plan.tasks:
            task = self.plan.tasks[id_]
            if id_ not in self._asked or id_ in adopted or task.command is None or states[id_].state is State.DONE:
                continue
            resources = resources_of(self.plan, task, self._resources if id_ in self._named else None)
            if (task.step, resources) in checked:
                continue
            checked.add((task.step, resources))
            why = self.executor.impossible(resources)
            if why is not None:
                raise UsageError(
                    f"step {task.step!r} cannot run here: {why}",
                    hint="Change its resources (a profile can), or run it where there is room.",
                )

    def _lay_out(self, adopted: Mapping[str, AttemptKey]) -> None:
        for id_, task in self.plan.tasks.items():
            record = self._records.get(id_)
            if record is not None and record.result is not None:
                self._canaries[task.step].proven = True
            if id_ not in self._asked and id_ not in adopted:
                continue
            entry = self._board.add(task)
            if id_ in self._named:
                entry.overrides.update(self._resources)
            if id_ in adopted:
                self._active[adopted[id_]] = id_
                self._active_steps[task.step] += 1
                begun = record is not None and record.last is not None and record.last.state == "running"
                self._move(entry, Phase.RUNNING if begun else Phase.QUEUED)
            elif entry.open_needs == 0:
                self._consider(entry)
        # Steps nobody asked for have nothing to show.
        self.progress.steps = {name: step for name, step in self.progress.steps.items() if step.total}

    # The loop.

    def _loop(self) -> None:
        next_tick = 0.0
        while True:
            self._obey_signals()
            if self._left:
                return
            if not self._draining:
                self._fill()
            if not self._active:
                if self._draining or not self._board.unfinished:
                    return
                if not self._later and not self._ready:
                    return  # Only gates and what waits for them is left.
            timeout = _TICK
            if self._later and not self._draining:
                timeout = min(timeout, max(0.0, self._later[0][0] - time.monotonic()))
            for report in self.executor.wait(timeout):
                self._hear(report)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self._obey_requests()
                self._look_at_gates()
                self.progress.gpus = self.executor.gpus_in_use()

    def _fill(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, id_ = heapq.heappop(self._later)
            entry = self._board.entries[id_]
            if entry.phase is Phase.READY:
                self._ready.push(entry.task)
        passed: set[str] = set()
        while (task := self._ready.first(passed)) is not None:
            entry = self._board.entries[task.id]
            if entry.phase is not Phase.READY:
                self._ready.pop(task.step)
                continue
            if self._limit is not None and len(self._active) >= self._limit:
                return
            most = self.plan.study.steps[task.step].max_parallel
            if most is not None and self._active_steps[task.step] >= most:
                passed.add(task.step)
                continue
            if not self.executor.fits(resources_of(self.plan, task, entry.overrides)):
                if now - entry.ready_since > _PATIENCE:
                    return
                passed.add(task.step)
                continue
            self._ready.pop(task.step)
            self._start(entry)

    def _asks(self, task: Task) -> tuple[float | None, int]:
        resources = resources_of(self.plan, task, self._board.entries[task.id].overrides)
        return resources.time, resources.gpu * resources.nodes

    def _start(self, entry: Entry) -> None:
        task = entry.task
        record = self._records.get(task.id)
        number = record.last.number + 1 if record is not None and record.last is not None else 1
        digests = self._input_digests(task)
        spec = self._preparer.attempt(task, number, record, digests, entry.overrides)
        key = AttemptKey(task.id, number)
        self.executor.start(spec)
        self._active[key] = task.id
        self._active_steps[task.step] += 1
        self._board.move(entry, Phase.QUEUED)

    def _hear(self, report: Started | Ended | Note) -> None:
        if isinstance(report, Note):
            self.progress.note = report.text
            self._on_event(report.text)
            return
        id_ = self._active.get(report.key)
        if id_ is None:
            return
        entry = self._board.entries[id_]
        if isinstance(report, Started):
            self._move(entry, Phase.RUNNING)
            return
        del self._active[report.key]
        task = entry.task
        self._active_steps[task.step] -= 1
        record = read_task(self.store.task(task.step, id_).root, task.step)
        self._records[id_] = record
        if report.outcome == "succeeded" and record.result is not None:
            self._succeed(entry, record)
            return
        if report.failure is not None:
            kind, message = FailureClass(report.failure.kind), report.failure.message
        else:
            kind, message = FailureClass.STORE, "the task ended well, but its result is not in the store"
        if kind is FailureClass.CANCELLED and report.key in self._stopped_before and not self._stopping:
            self._on_event(f"{task.step} {task.id} had been stopped before this run, trying again")
            self._try_again(entry, 0.0)
        else:
            self._fail(entry, kind, message)

    def _move(self, entry: Entry, phase: Phase) -> None:
        self._board.move(entry, phase)
        self.progress.widest = max(self.progress.widest, self.progress.count(Phase.RUNNING))

    def _succeed(self, entry: Entry, record: TaskRecord) -> None:
        task = entry.task
        self._canaries[task.step].succeeded()
        self._note(task, record)
        self._on_event(f"{task.step} {task.id} done in {record.seconds:.1f} s")
        self._finish(entry)

    def _fail(self, entry: Entry, kind: FailureClass, message: str) -> None:
        task = entry.task
        entry.failures.append(kind)
        step = self.plan.study.steps[task.step]
        retry = decide(entry.failures, step.retries)
        if kind is FailureClass.CANCELLED:
            self._on_event(f"{task.step} {task.id} cancelled")
        else:
            said = message if retry is None else f"{message.rstrip('.')}, trying again"
            self._on_event(f"{task.step} {task.id} failed ({kind.value}): {said}")
        if retry is None and kind is not FailureClass.CANCELLED:
            # A person may have had it tried again: it is one task all the same.
            self.progress.problems[:] = [one for one in self.progress.problems if one.task != task.id]
            self.progress.problems.append(Problem(task.step, message, task.id))
        if task.step not in self._halted and self._canaries[task.step].failed(task.id, kind, message):
            self._halt(task.step, message)
        if retry is not None and task.step not in self._halted and not self._stopping:
            self._try_again(entry, retry.delay)
            return
        self._board.move(entry, Phase.CANCELLED if kind is FailureClass.CANCELLED else Phase.FAILED)
        self._board.block_below(entry)

    def _try_again(self, entry: Entry, delay: float) -> None:
        entry.ready_since = time.monotonic()
        self._board.move(entry, Phase.READY)
        heapq.heappush(self._later, (time.monotonic() + delay, entry.task.id))

    def _halt(self, step: str, message: str) -> None:
        self._halted.add(step)
        stopped = 0
        for entry in self._board.of((task.id for task in self.plan.of_step(step)), Phase.WAITING, Phase.READY):
            self._board.move(entry, Phase.HALTED)
            self._board.block_below(entry)
            stopped += 1
        size = self.plan.study.steps[step].canary
        text = f"stopped, its first {size} tasks all failed alike ({message}); {stopped} tasks of it were not started"
        self.progress.problems.append(Problem(step, text))
        self._on_event(f"{step}: {text}")

    # Tasks that become ready.

    def _consider(self, entry: Entry) -> None:
        task = entry.task
        inputs = self._input_digests(task)
        gate = task.command is None
        state = task_state(
            task,
            self._records.get(task.id),
            self._sources,
            inputs,
            gate=gate,
            keep_stale=self._keep_stale,
            now=math.inf,
        )
        if state.state is State.DONE:
            record = self._records[task.id]
            self.progress.steps[task.step].reused += 1
            self._note(task, record)
            self._finish(entry)
        elif gate:
            message = " ".join([self.plan.study.steps[task.step].gate or "", *self._to_look_at(task)])
            self.progress.gates[task.id] = message
            self._board.move(entry, Phase.GATE)
            self._on_event(f"{task.step} waits for a person: {message}")
        elif task.step in self._halted:
            self._board.move(entry, Phase.HALTED)
            self._board.block_below(entry)
        else:
            entry.ready_since = time.monotonic()
            self._board.move(entry, Phase.READY)
            self._ready.push(task)

    def _input_digests(self, task: Task) -> dict[str, str | None]:
        records = ((need, self._records.get(need)) for need in task.needs)
        return {need: record.output_digest if record is not None else None for need, record in records}

    def _to_look_at(self, task: Task) -> list[str]:
        """Where the outputs lie that a person decides by, of those on this machine."""
        outputs = (self.store.task(self.plan.tasks[need].step, need).out for need in task.needs)
        here = [str(folder) for folder in outputs if folder.is_dir()]
        return [f"(In {', '.join(here)}.)"] if 0 < len(here) <= 3 else []

    def _finish(self, entry: Entry) -> None:
        for child in self._board.done(entry):
            self._consider(child)

    def _note(self, task: Task, record: TaskRecord) -> None:
        """Let people see what a finished task took and reached."""
        self.progress.steps[task.step].seconds.append(record.seconds)
        if record.last is not None and record.last.number == 1:
            self._ready.note(task, record.seconds)  # a later attempt may have gone on from a checkpoint
        objective = self.plan.study.report.objective
        if objective is not None:
            metrics = (record.result or {}).get("metrics", {})
            self.progress.note_best(objective.metric, objective.goal, task.step, task.params, metrics)

    def _look_at_gates(self) -> None:
        for id_ in list(self.progress.gates):
            task = self.plan.tasks[id_]
            folder = self.store.task(task.step, id_)
            if not folder.result.exists():
                continue
            record = read_task(folder.root, task.step)
            if record.result is not None:
                self._records[id_] = record
                del self.progress.gates[id_]
                self._on_event(f"{task.step} approved")
                self._finish(self._board.entries[id_])

    # What others ask for.

    def _obey_signals(self) -> None:
        if self._stop_request is not None:
            now, self._stop_request = self._stop_request, None
            self.executor.stop(list(self._active), "cancelled", now=now)

    def _obey_requests(self) -> None:
        for request in control.take(self.store):
            if request.verb == "stop" and not request.tasks:
                self._on_event("asked to stop")
                self.stop(now=request.now)
            elif request.verb == "stop":
                self._stop_tasks(set(request.tasks), now=request.now)
            else:
                self._retry_tasks(set(request.tasks), request.set)

    def _stop_tasks(self, ids: set[str], *, now: bool) -> None:
        keys = [key for key, id_ in self._active.items() if id_ in ids]
        self._stopped_before.difference_update(keys)
        self.executor.stop(keys, "cancelled", now=now)
        for entry in self._board.of(ids, Phase.WAITING, Phase.READY):
            self._board.move(entry, Phase.CANCELLED)
            self._board.block_below(entry)

    def _retry_tasks(self, ids: set[str], overrides: Mapping[str, Any]) -> None:
        again = (Phase.FAILED, Phase.CANCELLED, Phase.HALTED)
        for entry in self._board.of((id_ for id_ in self.plan.tasks if not ids or id_ in ids), *again):
            entry.failures.clear()
            entry.overrides.update(overrides)
            self._halted.discard(entry.task.step)
            self._canaries[entry.task.step] = Canary(0)
            self._board.unblock_below(entry)
            if entry.open_needs == 0:
                self._consider(entry)
            else:
                self._board.move(entry, Phase.WAITING)
