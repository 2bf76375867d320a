"""What a script sees of Shoal from inside of a task: ``shoal.task()``.

(The module is not called ``task``: a module of that name would hide the function in the package.)
"""

from __future__ import annotations

import json
import math
import numbers
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from shoal.errors import TaskError

__all__ = ["Task", "task"]


class Task:
    """The task that this process belongs to. Made by ``shoal.task()``.

    Attributes:
        study: name of the study, or None outside of a run.
        step: name of the step, or None outside of a run.
        id: the task's id, or None outside of a run.
        attempt: which try this is, from 1.
        params: the point of the matrix, name to value.
        out: folder for what the task makes; empty at the start.
        checkpoints: folder that survives attempts: what is written here is there when the task is resumed.
        inputs: name of a step to the ``out`` folders of its tasks that this one needs.
        data: name of a data source to its path.
    """

    study: str | None
    step: str | None
    id: str | None
    attempt: int
    params: Mapping[str, Any]
    out: Path
    checkpoints: Path
    inputs: Mapping[str, list[Path]]
    data: Mapping[str, Path]

    def __init__(self, spec: Mapping[str, Any], folder: Path) -> None:
        self.study, self.step, self.id = spec.get("study"), spec.get("step"), spec.get("task")
        self.attempt = spec["attempt"]
        self.params = dict(spec["params"])
        self.out, self.checkpoints = Path(spec["out"]), Path(spec["checkpoints"])
        self.inputs = {step: [Path(path) for path in paths] for step, paths in spec["inputs"].items()}
        self.data = {name: Path(place["path"]) for name, place in spec["data"].items()}
        self._folder = folder
        self._devices_known = False
        self._next_look = 0.0
        self._stop_seen = False

    def __repr__(self) -> str:
        return f"Task({self.step}/{self.id}, attempt {self.attempt}, params={self.params!r})"

    @property
    def seed(self) -> int | None:
        """The value of the axis ``seed``, or None when the step has no such axis."""
        return self.params.get("seed")

    def log(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, for curves and for the result (the last value of each counts).

        Each call appends one line in one write, so several processes can log without mixing lines. In distributed
        training let only rank 0 log, or each value is recorded once a rank. A number that is not finite is
        recorded as ``null``.

        Args:
            metrics: name to number; a number is an int, a float, or anything whose ``item()`` is one (a tensor
                or array with one element).
            step: where on the curve this is, for example the optimizer's step or the epoch.

        Raises:
            TaskError: when a value is not a number, or when the line cannot be written.
        """
        values = {_name(name): _number(name, value) for name, value in metrics.items()}
        at = None if step is None else _step(step)
        line = json.dumps({"time": _now(), "step": at, "metrics": values}, allow_nan=False) + "\n"
        path = self._folder / "metrics.jsonl"
        data = line.encode()
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                written = os.write(fd, data)
            finally:
                os.close(fd)
        except OSError as error:
            raise TaskError(f"{path}: the metrics cannot be written: {error.strerror}") from error
        if written < len(data):
            raise TaskError(f"{path}: the metrics cannot be written: No space left on device")
        if not self._devices_known and _devices():
            self._devices_known = True
            _write_environment(self._folder)

    @property
    def stopping(self) -> bool:
        """Whether the task was asked to stop: save a checkpoint and leave, with any exit code.

        The first look installs a handler for SIGTERM that takes note of it and then calls the one that was there
        before. A script that never looks is ended by the signal as usual. In a thread, and in processes forked
        from this one, only the request on disk is seen.
        """
        _listen()
        if _terminated.is_set():
            return True
        if not self._stop_seen and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 1.0
            self._stop_seen = (self._folder / "stop").exists()
        return self._stop_seen


# -------------------------------------------------------------------------------------------- finding the task

_found: dict[str, Task] = {}


def task(
    *,
    params: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    inputs: Mapping[str, Sequence[str | os.PathLike[str]]] | None = None,
    data: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Task:
    """Return the task that this process was started for.

    The arguments are for running a script by hand, without Shoal, for example in a notebook; inside of a run they
    are ignored. By hand, metrics go to ``out/metrics.jsonl``.

    Args:
        params: parameters to work with.
        out: folder to write to; made when absent. It is not emptied.
        checkpoints: folder for checkpoints; default is ``checkpoints`` in ``out``.
        inputs: name of a step to the folders to read in its place.
        data: name of a data source to its path.

    Raises:
        TaskError: outside of a run when ``params`` or ``out`` is missing, or when the task's specification cannot
            be read.
    """
    spec_path = os.environ.get("SHOAL_SPEC")
    if spec_path:
        if spec_path not in _found:
            _found[spec_path] = _load(Path(spec_path))
        return _found[spec_path]
    if params is None or out is None:
        raise TaskError(
            "shoal.task() was called outside of a task",
            hint='Start the script by "shoal run", or give it something to work with by hand: '
            'shoal.task(params={"lr": 1e-3}, out="scratch")',
        )
    folder = Path(out).absolute()
    places = {
        "out": folder,
        "checkpoints": Path(checkpoints).absolute() if checkpoints is not None else folder / "checkpoints",
    }
    try:
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TaskError(f"{error.filename}: the folder cannot be made: {error.strerror}") from error
    spec = {
        "attempt": 1,
        "params": params,
        "inputs": inputs or {},
        "data": {name: {"path": path} for name, path in (data or {}).items()},
        **places,
    }
    return Task(spec, folder)


def _load(spec_path: Path) -> Task:
    try:
        spec = json.loads(spec_path.read_bytes())
        found = Task(spec, Path(spec["attempt_dir"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(
            f"{spec_path}: the task's specification cannot be read: {error}",
            hint="SHOAL_SPEC is set by Shoal; unset it to run the script by hand.",
        ) from error
    if os.environ.get("RANK", "0") == "0" and not (found._folder / "environment.json").exists():
        found._devices_known = bool(_devices())
        _write_environment(found._folder)
    return found


# ----------------------------------------------------------------------------------------------------- metrics


def _now() -> str:
    millis = time.time_ns() // 1_000_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(millis // 1000)) + f".{millis % 1000:03d}Z"


def _name(name: object) -> str:
    if not isinstance(name, str) or not name:
        raise TaskError(f"the name of a metric is {name!r}, not a text")
    return name


def _number(name: str, value: Any) -> float | int | None:
    """Return a number for JSON, None for one that is not finite."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except (RuntimeError, ValueError, TypeError) as error:
            raise TaskError(
                f'metric "{name}" has several elements, not one number', hint="Log its mean, or each by a name."
            ) from error
    if isinstance(value, bool | int):
        return int(value) if abs(value) < 1 << 1023 else None
    if isinstance(value, numbers.Real) or (hasattr(value, "__float__") and not isinstance(value, str)):
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            pass
        else:
            return value if math.isfinite(value) else None
    kind = "None" if value is None else type(value).__name__
    raise TaskError(f'metric "{name}" is {kind}, not a number', hint="Metrics are numbers; put texts into {out}.")


def _step(step: Any) -> int:
    number = _number("step", step)
    if number is None or number != int(number):
        raise TaskError(f"step={step!r} is not a whole number")
    return int(number)


# ------------------------------------------------------------------------------------------------- environment


def _devices() -> list[dict[str, Any]]:
    """Return the GPUs that PyTorch uses in this process already; nothing is imported or initialised for it."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return []
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return [{"index": index, "name": each.name, "memory": each.total_memory} for index, each in enumerate(found)]
    except (AttributeError, RuntimeError):  # half imported, or a driver in trouble: not ours to report
        return []


def _write_environment(folder: Path) -> None:
    """Write down Python, packages and devices. That it cannot be written is no reason to end the task."""
    from shoal.packages import installed

    torch = sys.modules.get("torch")
    value = {
        "format": 1,
        "time": _now(),
        "python": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "executable": sys.executable,
        "platform": " ".join(os.uname()[i] for i in (0, 2, 4)),
        "packages": installed(),
        "cuda": getattr(getattr(torch, "version", None), "cuda", None),
        "devices": _devices(),
    }
    beside = folder / f".environment.json.{os.getpid()}.tmp"
    try:
        beside.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        beside.replace(folder / "environment.json")
    except OSError:
        return


# ---------------------------------------------------------------------------------------------------- stopping

_terminated = threading.Event()
_owner: int | None = None  # the process that has installed the handler
_before: Any = None


def _listen() -> None:
    global _owner, _before
    if _owner is not None or threading.current_thread() is not threading.main_thread():
        return
    try:
        _before = signal.signal(signal.SIGTERM, _on_sigterm)
    except ValueError:  # a subinterpreter
        return
    _owner = os.getpid()


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    if os.getpid() != _owner:
        # A data loader's worker, forked with this handler: its parent means to end it.
        signal.signal(signum, _before if _before is not None else signal.SIG_DFL)
        os.kill(os.getpid(), signum)
        return
    _terminated.set()
    if callable(_before):
        _before(signum, frame)
