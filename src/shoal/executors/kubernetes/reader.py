"""What runs in a pod that has the store mounted, for somebody who has not: sends files as a tar stream, takes small ones.

    python3 reader.py wait                         do nothing until the pod is removed
    python3 reader.py records '{"root": ...}'      the small files of a study that have changed
    python3 reader.py outputs FOLDER               what a task made
    python3 reader.py put FILE SIZE                write a file, whole or not at all; its content comes by standard input

One file of the standard library of Python 3.8, so any image will do. It never writes outside of a ``put``.
"""

import io
import json
import os
import signal
import sys
import tarfile
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

STATE = ".shoal-state.json"
LONGEST = 4 << 20  # bytes of a small file that are sent; of a log its end
_TOP = ("plan.json", "study.yaml", "place.json", "policies.json", "runner.json")
_TASK = ("task.json", "result.json")
_ATTEMPT = (
    "spec.json", "attempt.json", "waiting.json", "stop", "heartbeat", "environment.json", "metrics.jsonl",
    "usage.jsonl", "log.txt",
)  # fmt: skip
_NO_STEPS = ("runs", "code", "control")


def records(asked: Dict[str, Any], out: Any) -> None:
    """Send small files as a tar stream; the first entry says what there is.

    Args:
        asked: ``root``, the study's folder; ``since``, seconds since 1970 by this machine's clock: only files changed after it;
            ``tasks``, a list of ``STEP/TASK``, or null for all; ``pictures``, whether those are sent too.
        out: a binary stream.
    """
    root, since = asked["root"], float(asked.get("since") or 0)
    now = time.time()
    tasks = asked.get("tasks")
    known = _tasks(root) if tasks is None else list(tasks)
    state = {
        "now": now,
        "done": [task for task in known if os.path.exists(os.path.join(root, task, "result.json"))],
        "waiting": [],
        "complete": tasks is None,
    }  # type: Dict[str, Any]
    files = _small(root, known, tasks is None, bool(asked.get("pictures")))
    chosen = []
    for path in files:
        info = _stat(os.path.join(root, path))
        if info is not None and path.endswith("/waiting.json"):
            state["waiting"].append(path)
        if info is not None and (info.st_mtime > since or info.st_ctime > since):
            chosen.append(path)
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, STATE, json.dumps(state).encode("utf-8"), now)
        for path in chosen:
            found = _read(os.path.join(root, path))
            if found is not None:
                _add(archive, path, *found)


def steps(root: str) -> List[str]:
    """Return the names of the steps' folders in a study's folder."""
    return [name for name in _names(root) if name not in _NO_STEPS and not name.startswith(".")]


def _tasks(root: str) -> List[str]:
    found = []
    for step in steps(root):
        found += ["%s/%s" % (step, task) for task in _names(os.path.join(root, step)) if task[:1] != "."]
    return found


def _small(root: str, tasks: List[str], whole: bool, pictures: bool) -> Iterator[str]:
    if whole:
        for name in _TOP:
            yield name
        for name in _names(os.path.join(root, "runs")):
            yield "runs/" + name
    for task in tasks:
        # A result comes after what it rests on.
        for number in _names(os.path.join(root, task, "attempts")):
            for name in _ATTEMPT:
                yield "%s/attempts/%s/%s" % (task, number, name)
        if pictures:
            top = os.path.join(root, task, "out", "pictures")
            for folder, _, names in os.walk(top):
                for name in names:
                    yield os.path.relpath(os.path.join(folder, name), root)
        for name in _TASK:
            yield "%s/%s" % (task, name)


def outputs(folder: str, out: Any) -> None:
    """Send a folder as a tar stream: files, links as links, nothing else."""
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for place, folders, names in os.walk(folder):
            for name in sorted(names + [one for one in folders if os.path.islink(os.path.join(place, one))]):
                path = os.path.join(place, name)
                if os.path.islink(path) or os.path.isfile(path):
                    archive.inodes = {}  # type: ignore[attr-defined]  # a hard link is sent as the file that it is
                    archive.add(path, os.path.relpath(path, folder), recursive=False)


def put(path: str, data: bytes) -> None:
    """Write a file, whole or not at all."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    making = os.path.join(os.path.dirname(path), ".%s.%d.tmp" % (os.path.basename(path), os.getpid()))
    with open(making, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(making, path)


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except OSError:
        return None


def _read(path: str) -> Optional[Tuple[bytes, float]]:
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_size > LONGEST:
                if not path.endswith(("log.txt", ".jsonl")):
                    return None
                file.seek(info.st_size - LONGEST)
                file.readline()
            return file.read(LONGEST), info.st_mtime
    except OSError:  # it went away meanwhile
        return None


def _add(archive: tarfile.TarFile, name: str, data: bytes, at: float) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), at
    archive.addfile(entry, io.BytesIO(data))


def main(argv: List[str]) -> int:
    """Run the command line; return the exit status."""
    verb, rest = argv[0] if argv else "", argv[1:]
    try:
        if verb == "wait":
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            while True:
                signal.pause()
        elif verb == "records":
            records(json.loads(rest[0]), sys.stdout.buffer)
        elif verb == "outputs":
            if not os.path.isdir(rest[0]):
                sys.stderr.write("there is no folder %s\n" % rest[0])
                return 3
            outputs(rest[0], sys.stdout.buffer)
        elif verb == "put":
            data = sys.stdin.buffer.read(int(rest[1]))
            if len(data) < int(rest[1]):
                sys.stderr.write("%s came cut short\n" % rest[0])
                return 1
            put(rest[0], data)
        else:
            sys.stderr.write("usage: reader.py wait | records JSON | outputs FOLDER | put FILE SIZE\n")
            return 2
    except OSError as error:
        sys.stderr.write("%s\n" % error)
        return 1
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
