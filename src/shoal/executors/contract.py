"""What an executor is: the one contract that every place to run obeys, and the words it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from shoal.failures import FailureClass
from shoal.plan.resources import Resources

__all__ = [
    "AttemptKey",
    "AttemptSpec",
    "Ended",
    "Executor",
    "Failure",
    "Note",
    "Resources",
    "Site",
    "Started",
    "StopReason",
]

StopReason = Literal["cancelled", "preempted"]


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """Names an attempt: the task's id and the attempt's number, from 1."""

    task: str
    number: int


@dataclass(frozen=True, kw_only=True)
class AttemptSpec:
    """All that an agent has to know: the typed form of ``spec.json``.

    Lengths of time are seconds. ``gpus`` is filled in by the executor that gives them out. ``data`` maps a
    name to path and digest. ``secrets`` are names only: their values come from the environment. All folders are as the
    attempt sees them; where the runner keeps its records of it elsewhere, ``records`` says in which folder.
    """

    study: str
    step: str
    task: str
    attempt: int
    params: Mapping[str, Any]
    argv: tuple[str, ...]
    cwd: Path
    task_dir: Path
    attempt_dir: Path
    out: Path
    checkpoints: Path
    executor: str
    grace: float = 30.0
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    input_digests: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, tuple[Path, str | None]] = field(default_factory=dict)
    code: str | None = None
    resources: Resources = field(default_factory=Resources)
    gpus: tuple[int, ...] = ()
    timeout: float | None = None
    stall: float | None = None
    sample_every: float = 5.0
    queued: str | None = None
    records: Path | None = None

    @property
    def key(self) -> AttemptKey:
        """Which attempt this is."""
        return AttemptKey(self.task, self.attempt)

    @property
    def folder(self) -> Path:
        """The attempt's folder as this process sees it."""
        return self.records or self.attempt_dir

    @property
    def path(self) -> Path:
        """Where ``spec.json`` belongs."""
        return self.folder / "spec.json"

    def with_gpus(self, gpus: Iterable[int]) -> AttemptSpec:
        """Return a copy that has been given these GPUs."""
        return replace(self, gpus=tuple(gpus))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``spec.json``."""
        return {
            "format": 1,
            "study": self.study,
            "step": self.step,
            "task": self.task,
            "attempt": self.attempt,
            "params": dict(self.params),
            "argv": list(self.argv),
            "env": dict(self.env),
            "secrets": list(self.secrets),
            "cwd": str(self.cwd),
            "task_dir": str(self.task_dir),
            "attempt_dir": str(self.attempt_dir),
            "out": str(self.out),
            "checkpoints": str(self.checkpoints),
            "inputs": {step: [str(path) for path in paths] for step, paths in self.inputs.items()},
            "input_digests": dict(self.input_digests),
            "data": {name: {"path": str(path), "digest": digest} for name, (path, digest) in self.data.items()},
            "code": self.code,
            "resources": self.resources.to_json(),
            "gpus": list(self.gpus),
            "timeout": self.timeout,
            "stall": self.stall,
            "grace": self.grace,
            "sample_every": self.sample_every,
            "executor": self.executor,
            "queued": self.queued,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AttemptSpec:
        """Read the content of ``spec.json``.

        Raises:
            KeyError, TypeError, ValueError: when it is not what ``to_json`` writes.
        """
        rest = {name: value[name] for name in ("study", "step", "task", "attempt", "params", "executor")}
        return cls(
            **rest,
            argv=tuple(value["argv"]),
            env=value["env"],
            secrets=tuple(value["secrets"]),
            cwd=Path(value["cwd"]),
            task_dir=Path(value["task_dir"]),
            attempt_dir=Path(value["attempt_dir"]),
            out=Path(value["out"]),
            checkpoints=Path(value["checkpoints"]),
            inputs={step: tuple(map(Path, paths)) for step, paths in value["inputs"].items()},
            input_digests=value["input_digests"],
            data={name: (Path(place["path"]), place["digest"]) for name, place in value["data"].items()},
            code=value["code"],
            resources=Resources.from_json(value["resources"]),
            gpus=tuple(value["gpus"]),
            timeout=value["timeout"],
            stall=value["stall"],
            grace=value["grace"],
            sample_every=value["sample_every"],
            queued=value["queued"],
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed: class, one sentence, the log's decisive lines."""

    kind: FailureClass
    message: str
    lines: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as ``attempt.json`` holds it."""
        return {"class": self.kind.value, "message": self.message, "lines": list(self.lines)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Failure:
        """Read it from ``attempt.json``."""
        return cls(FailureClass(value["class"]), value["message"], tuple(value["lines"]))


@dataclass(frozen=True, slots=True)
class Started:
    """An attempt has begun; ``at`` is an RFC 3339 time."""

    key: AttemptKey
    at: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt has ended, and what it leaves is on disk. A failure is given exactly when it failed."""

    key: AttemptKey
    outcome: Literal["succeeded", "failed"]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something that a person who watches should hear, for example why nothing starts."""

    text: str


@dataclass(frozen=True)
class Site:
    """Where tasks find things, for an executor whose tasks do not see this machine's files.

    Attributes:
        root: the study's folder in the store, as tasks see it.
        cwd: step to the folder that its commands start in.
        fill: adds the place's own defaults to what a task asks for.
    """

    root: PurePosixPath
    cwd: Mapping[str, str] = field(default_factory=dict)
    fill: Callable[[Resources], Resources] = lambda asked: asked


class Executor(Protocol):
    """A place where attempts run.

    It decides nothing: retries, order and limits are the runner's. It is used from one thread. Every attempt
    that was started or adopted is reported by ``wait`` as ended exactly once.
    """

    name: str
    site: Site | None

    def fits(self, resources: Resources) -> bool:
        """Return whether there is room now; asked before each start."""
        ...

    def impossible(self, resources: Resources) -> str | None:
        """Return a sentence when this can never fit here, else None."""
        ...

    def gpus_in_use(self) -> Mapping[str, int]:
        """Return how many GPUs running attempts hold, by type."""
        ...

    def start(self, spec: AttemptSpec) -> None:
        """Write ``spec.json`` and start the attempt. Harmless when repeated under the same key.

        Raises:
            StoreError: when the attempt's folder cannot be written.
        """
        ...

    def adopt(self, keys: Iterable[tuple[Path, AttemptKey]]) -> set[AttemptKey]:
        """Take over attempts that an earlier runner started, given by attempt folder and key.

        Returns those that were handed over to an executor, alive or not: alive ones count against the slots,
        and each of them is reported by ``wait``, dead ones at once. One that no agent has begun is
        barred, so that a late agent does not start it, and reported as ``node-lost``; or it is begun now, where a late
        agent cannot come.
        """
        ...

    def wait(self, timeout: float) -> list[Started | Ended | Note]:
        """Return what happened, as soon as something did, or nothing after ``timeout`` seconds."""
        ...

    def stop(self, keys: Iterable[AttemptKey], reason: StopReason, now: bool = False) -> None:
        """Ask running attempts to end within their grace, or ``now``; ``wait`` reports them when they have."""
        ...

    def close(self) -> None:
        """Let go of everything but the running attempts, which go on."""
        ...
