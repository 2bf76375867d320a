"""The runner: decides what starts next, what follows a failure, and when there is nothing left to do.

It is level-triggered: every decision is made from the plan and from what the store and the executor say now, so a runner that
was killed is followed by one that simply looks again.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shoal.errors import UsageError
from shoal.executors import AttemptKey, Ended, Executor, Started
from shoal.failures import FailureClass
from shoal.plan import Plan, Task, resources_of
from shoal.runner import control
from shoal.runner.policy import Canary, decide
from shoal.runner.prepare import Preparer
from shoal.runner.progress import FINAL, Phase, Problem, Progress, StepProgress
from shoal.runner.record import RunRecord, write_plan
from shoal.store import RunnerLock, Snapshot, StudyStore, TaskRecord, read_task
from shoal.store.sources import read_sources
from shoal.store.state import State, TaskState, survey, task_state

__all__ = ["Runner", "Summary"]

_TICK = 0.5
# A task that has waited this long for room is not overtaken by smaller ones any more.
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run ended.

    Attributes:
        counts: tasks by phase.
        gates: ids of the gates that wait for a person, with their messages.
        left: attempts that were left running.
        exit_code: of the command line.
    """

    counts: Mapping[str, int]
    gates: Mapping[str, str]
    left: int
    exit_code: int


@dataclass(slots=True)
class _Entry:
    task: Task
    phase: Phase = Phase.WAITING
    open_needs: int = 0
    failures: list[FailureClass] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    ready_since: float = 0.0


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
        self._entries: dict[str, _Entry] = {}
        self._children: dict[str, list[str]] = {}
        self._records: dict[str, TaskRecord] = {}
        self._ready: dict[str, deque[str]] = {step: deque() for step in plan.order}
        self._later: list[tuple[float, str]] = []
        self._active: dict[AttemptKey, str] = {}
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
            UsageError: a task can never run on this executor.
            StoreError: the store cannot be written.
        """
        with RunnerLock(self.store.lock, executor=self.executor.name):
            control.clear(self.store)
            write_plan(self.plan, self.store, profile=self._profile, overrides=self._overrides)
            self._sources = read_sources(self.plan.study)
            snapshot = Snapshot.read(self.store)
            self._records = dict(snapshot.tasks)
            self._preparer = Preparer(self.plan, self.store, self._sources, self.executor.name)
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
            self._lay_out(states, adopted)
            try:
                self._loop()
            finally:
                counts = Counter(str(entry.phase) for entry in self._entries.values())
                record.end(dict(counts))
                Snapshot.read(self.store)
            return self._summary(counts)

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

    def _lay_out(self, states: Mapping[str, TaskState], adopted: Mapping[str, AttemptKey]) -> None:
        for name in self.plan.order:
            self.progress.steps[name] = StepProgress(name)
        for id_, task in self.plan.tasks.items():
            record = self._records.get(id_)
            if record is not None and record.result is not None:
                self._canaries[task.step].proven = True
            if id_ not in self._asked and id_ not in adopted:
                continue
            entry = self._entries[id_] = _Entry(task)
            if id_ in self._named:
                entry.overrides.update(self._resources)
            progress = self.progress.steps[task.step]
            progress.counts[Phase.WAITING] += 1
            for need in task.needs:
                if need in self._entries and self._entries[need].phase is not Phase.DONE:
                    entry.open_needs += 1
                    self._children.setdefault(need, []).append(id_)
            if id_ in adopted:
                self._active[adopted[id_]] = id_
                self._active_steps[task.step] += 1
                self._move(entry, Phase.RUNNING)
            elif entry.open_needs == 0:
                self._consider(entry, first=True)
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
                if self._draining or not self._unfinished():
                    return
                if not self._later and not any(self._ready.values()):
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

    def _unfinished(self) -> bool:
        return any(step.left for step in self.progress.steps.values())

    def _fill(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            _, id_ = heapq.heappop(self._later)
            entry = self._entries[id_]
            if entry.phase is Phase.READY:
                self._ready[entry.task.step].append(id_)
        # Later steps first: results of finished trials come early, and so do their failures.
        for name in reversed(self.plan.order):
            queue = self._ready[name]
            most = self.plan.study.steps[name].max_parallel
            while queue:
                entry = self._entries[queue[0]]
                if entry.phase is not Phase.READY:
                    queue.popleft()
                    continue
                if self._limit is not None and len(self._active) >= self._limit:
                    return
                if most is not None and self._active_steps[name] >= most:
                    break
                resources = resources_of(self.plan, entry.task, entry.overrides)
                if not self.executor.fits(resources):
                    if now - entry.ready_since > _PATIENCE:
                        return
                    break
                queue.popleft()
                self._start(entry)

    def _start(self, entry: _Entry) -> None:
        task = entry.task
        record = self._records.get(task.id)
        number = record.last.number + 1 if record is not None and record.last is not None else 1
        digests = self._input_digests(task)
        spec = self._preparer.attempt(task, number, record, digests, entry.overrides)
        key = AttemptKey(task.id, number)
        self.executor.start(spec)
        self._active[key] = task.id
        self._active_steps[task.step] += 1
        self.progress.widest = max(self.progress.widest, len(self._active))
        self._move(entry, Phase.RUNNING)

    def _hear(self, report: Started | Ended) -> None:
        id_ = self._active.get(report.key)
        if id_ is None or isinstance(report, Started):
            return
        del self._active[report.key]
        entry = self._entries[id_]
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
        self._fail(entry, kind, message)

    def _succeed(self, entry: _Entry, record: TaskRecord) -> None:
        task = entry.task
        self._canaries[task.step].succeeded()
        self.progress.steps[task.step].seconds.append(record.seconds)
        self._note_best(task, record)
        self._on_event(f"{task.step} {task.id} done in {record.seconds:.1f} s")
        self._move(entry, Phase.DONE)
        self._open_children(entry)

    def _fail(self, entry: _Entry, kind: FailureClass, message: str) -> None:
        task = entry.task
        entry.failures.append(kind)
        step = self.plan.study.steps[task.step]
        retry = decide(entry.failures, step.retries)
        if kind is FailureClass.CANCELLED:
            self._on_event(f"{task.step} {task.id} cancelled")
        else:
            what_next = "" if retry is None else ", trying again"
            self._on_event(f"{task.step} {task.id} failed ({kind.value}): {message}{what_next}")
        if retry is None and kind is not FailureClass.CANCELLED:
            self.progress.problems.append(Problem(task.step, message, task.id))
        if task.step not in self._halted and self._canaries[task.step].failed(task.id, kind, message):
            self._halt(task.step, message)
        if retry is not None and task.step not in self._halted and not self._stopping:
            entry.ready_since = time.monotonic()
            self._move(entry, Phase.READY)
            heapq.heappush(self._later, (time.monotonic() + retry.delay, task.id))
            return
        self._move(entry, Phase.CANCELLED if kind is FailureClass.CANCELLED else Phase.FAILED)
        self._block_below(entry)

    def _halt(self, step: str, message: str) -> None:
        self._halted.add(step)
        stopped = 0
        for entry in self._entries.values():
            if entry.task.step == step and entry.phase in (Phase.WAITING, Phase.READY):
                self._move(entry, Phase.HALTED)
                self._block_below(entry)
                stopped += 1
        size = self.plan.study.steps[step].canary
        text = f"stopped, its first {size} tasks all failed alike ({message}) {stopped} tasks of it were not started"
        self.progress.problems.append(Problem(step, text))
        self._on_event(f"{step}: {text}")

    # Tasks that become ready.

    def _consider(self, entry: _Entry, *, first: bool = False) -> None:
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
            progress = self.progress.steps[task.step]
            progress.reused += 1
            progress.seconds.append(record.seconds)
            self._note_best(task, record)
            self._move(entry, Phase.DONE)
            if not first:
                self._open_children(entry)
        elif gate:
            message = self.plan.study.steps[task.step].gate or ""
            self.progress.gates[task.id] = message
            self._move(entry, Phase.GATE)
            self._on_event(f"{task.step} waits for a person: {message}")
        elif task.step in self._halted:
            self._move(entry, Phase.HALTED)
            self._block_below(entry)
        else:
            entry.ready_since = time.monotonic()
            self._move(entry, Phase.READY)
            self._ready[task.step].append(task.id)

    def _input_digests(self, task: Task) -> dict[str, str | None]:
        records = ((need, self._records.get(need)) for need in task.needs)
        return {need: record.output_digest if record is not None else None for need, record in records}

    def _open_children(self, entry: _Entry) -> None:
        for id_ in self._children.get(entry.task.id, ()):
            child = self._entries[id_]
            child.open_needs -= 1
            if child.open_needs == 0 and child.phase in (Phase.WAITING, Phase.BLOCKED):
                self._consider(child)

    def _block_below(self, entry: _Entry) -> None:
        todo = [entry.task.id]
        while todo:
            for id_ in self._children.get(todo.pop(), ()):
                child = self._entries[id_]
                if child.phase is Phase.WAITING:
                    self._move(child, Phase.BLOCKED)
                    todo.append(id_)

    def _look_at_gates(self) -> None:
        for id_ in list(self.progress.gates):
            task = self.plan.tasks[id_]
            folder = self.store.task(task.step, id_)
            if folder.result.exists():
                record = read_task(folder.root, task.step)
                if record.result is not None:
                    self._records[id_] = record
                    del self.progress.gates[id_]
                    self._on_event(f"{task.step} approved")
                    self._move(self._entries[id_], Phase.DONE)
                    self._open_children(self._entries[id_])

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
        self.executor.stop(keys, "cancelled", now=now)
        for id_ in ids:
            entry = self._entries.get(id_)
            if entry is not None and entry.phase in (Phase.WAITING, Phase.READY):
                self._move(entry, Phase.CANCELLED)
                self._block_below(entry)

    def _retry_tasks(self, ids: set[str], overrides: Mapping[str, Any]) -> None:
        again = (Phase.FAILED, Phase.CANCELLED, Phase.HALTED)
        for id_ in self.plan.tasks:
            entry = self._entries.get(id_)
            if entry is None or entry.phase not in again or (ids and id_ not in ids):
                continue
            entry.failures.clear()
            entry.overrides.update(overrides)
            self._halted.discard(entry.task.step)
            self._canaries[entry.task.step] = Canary(0)
            self._unblock_below(id_)
            if entry.open_needs == 0:
                self._consider(entry)
            else:
                self._move(entry, Phase.WAITING)

    def _unblock_below(self, id_: str) -> None:
        todo = [id_]
        while todo:
            for below in self._children.get(todo.pop(), ()):
                if self._entries[below].phase is Phase.BLOCKED:
                    self._move(self._entries[below], Phase.WAITING)
                    todo.append(below)

    # Keeping count.

    def _move(self, entry: _Entry, phase: Phase) -> None:
        counts = self.progress.steps[entry.task.step].counts
        counts[entry.phase] -= 1
        entry.phase = phase
        counts[phase] += 1

    def _note_best(self, task: Task, record: TaskRecord) -> None:
        objective = self.plan.study.report.objective if self.plan.study.report else None
        if objective is None:
            return
        metrics = (record.result or {}).get("metrics") or {}
        step, _, short = objective.metric.partition("/")
        value = metrics.get(objective.metric)
        if value is None and step == task.step:
            value = metrics.get(short)
        if not isinstance(value, int | float):
            return
        best = self.progress.best
        if best is None or (value > best[1] if objective.goal == "max" else value < best[1]):
            label = "·".join(str(part) for part in task.params.values())
            self.progress.best = (objective.metric, float(value), label)

    def _summary(self, counts: Mapping[str, int]) -> Summary:
        total = sum(counts.values())
        if counts.get(Phase.DONE, 0) == total:
            code = 0
        elif self._draining:
            code = 130
        elif any(counts.get(phase, 0) for phase in FINAL - {Phase.DONE}):
            code = 1
        else:
            code = 3
        return Summary(dict(counts), dict(self.progress.gates), len(self._active), code)
