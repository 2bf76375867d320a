"""What a pod starts: brings an attempt's folder and code into place, runs the agent, and says in few words how it went.

    python3 pod.py [FOLDER]

FOLDER (by default where this file lies) holds ``agent.py``, the specification (``spec.json``, or ``spec.gz`` in base64) and
the code in pieces (``code.0``, ``code.1``, ...), all put there by Kubernetes. Like the agent this is one file of the standard
library of Python 3.8. The exit status is the agent's. What it leaves in the termination message is at most 4096 bytes:
JSON, or ``gz:`` and base64 of gzipped JSON.
"""

# ruff: noqa: UP006, UP031, UP035, UP045, PTH100, PTH101, PTH103, PTH104, PTH110, PTH116, PTH119, PTH120, PTH123, RUF005
# (Python 3.8, like the agent.)
import base64
import errno
import gzip
import io
import json
import os
import shutil
import signal
import sys
import tarfile
import time
from typing import Any, Dict, List, Optional

MESSAGE = "/dev/termination-log"
LONGEST = 4096
STORE = 18  # exit status: the store cannot be read or written, as the agent has it
SPEC = 2
DENIED = 1  # the user's to mend
PREEMPTED = 17
CLAIMED = 20
LONG = "shoal-summary: "
QUIET = 90.0  # seconds without a sign of life after which another pod's agent counts as gone


def read_spec(folder: str) -> Dict[str, Any]:
    """Return the specification that Kubernetes put into the folder."""
    path = os.path.join(folder, "spec.gz")
    if os.path.exists(path):
        with open(path, "rb") as file:
            data = gzip.decompress(base64.b64decode(file.read()))
    else:
        with open(os.path.join(folder, "spec.json"), "rb") as file:
            data = file.read()
    spec = json.loads(data.decode("utf-8"))
    if not isinstance(spec, dict):
        raise ValueError("not an object")
    return spec


def for_rank(spec: Dict[str, Any], rank: int) -> Dict[str, Any]:
    """Return the specification of one of several nodes: the first publishes, each other keeps its records beside.

    The command is the same on all, so ``{out}`` is the same folder for all; only the first node empties it.
    """
    if rank == 0:
        return spec
    mine = os.path.join(spec["attempt_dir"], "nodes", str(rank))
    return dict(spec, task_dir=mine, attempt_dir=mine, out=os.path.join(mine, "out"))


def input_digests(spec: Dict[str, Any]) -> Dict[str, Any]:
    """Return the digests of the inputs' outputs, by task id, from the results beside them.

    Raises:
        OSError, ValueError: an input is not there, or is not done.
    """
    found: Dict[str, Any] = {}
    for folders in spec["inputs"].values():
        for out in folders:
            task = os.path.dirname(out)
            with open(os.path.join(task, "result.json"), "rb") as file:
                result = json.loads(file.read().decode("utf-8"))
            found[os.path.basename(task)] = (result.get("outputs") or {}).get("digest")
    return found


def unpack(folder: str, target: str) -> None:
    """Lay out the code that Kubernetes put into the folder in pieces."""
    pieces: List[bytes] = []
    while True:
        try:
            with open(os.path.join(folder, "code.%d" % len(pieces)), "rb") as file:
                pieces.append(file.read())
        except FileNotFoundError:
            break
    if not pieces:
        return
    making = target.rstrip("/") + ".%d" % os.getpid()
    root = os.path.realpath(making)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces)), mode="r:gz") as archive:
        for member in archive.getmembers():
            # Made by Shoal, yet an archive that leads out of its folder is never followed.
            place = os.path.realpath(os.path.join(root, member.name))
            if not member.isfile() or not place.startswith(root + os.sep):
                raise ValueError("unexpected entry %r in the code" % member.name)
            os.makedirs(os.path.dirname(place), exist_ok=True)
            source = archive.extractfile(member)
            assert source is not None
            with open(place, "wb") as file:
                shutil.copyfileobj(source, file)
            os.chmod(place, 0o755 if member.mode & 0o100 else 0o644)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(making, target)


def summary(spec: Dict[str, Any], code: int, problem: Optional[str] = None) -> Dict[str, Any]:
    """Return what became of the attempt, for whoever cannot read the store."""
    said: Dict[str, Any] = {"v": 1, "task": spec.get("task"), "attempt": spec.get("attempt"), "code": code}
    said["node"] = os.environ.get("SHOAL_NODE")
    if problem is not None:
        said["problem"] = problem
    record = _read(os.path.join(str(spec.get("attempt_dir")), "attempt.json"))
    for key in ("started", "ended", "outcome", "exit_code", "signal", "failure", "usage", "checkpointed", "lost_seconds",
                "devices"):  # fmt: skip
        if record.get(key) is not None:
            said[key] = record[key]
    if code == 0:
        result = _read(os.path.join(str(spec.get("task_dir")), "result.json"))
        for key in ("metrics", "outputs", "inputs", "seconds"):
            if key in result:
                said[key] = result[key]
        said["source"] = result.get("code")
    return said


def encode(said: Dict[str, Any], longest: int = LONGEST) -> bytes:
    """Return the message, compressed where it is long, and without its longest parts where it is still too long."""
    said = dict(said)
    packed = pack(said)
    for drop in ("devices", "usage", "inputs", "metrics", "failure", "problem"):
        if len(packed) <= longest:
            break
        if drop in said:
            del said[drop]
            said["left_out"] = said.get("left_out", []) + [drop]
            packed = pack(said)
    return packed[:longest]


def pack(said: Dict[str, Any]) -> bytes:
    """Return the message, compressed where it is long."""
    text = json.dumps(said, separators=(",", ":"), sort_keys=True).encode("utf-8")
    return text if len(text) <= LONGEST else b"gz:" + base64.b64encode(gzip.compress(text, 9))


def _read(path: str) -> Dict[str, Any]:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def tell(spec: Dict[str, Any], code: int, problem: Optional[str] = None) -> None:
    """Leave the termination message; a cluster without that file loses no more than the message.

    What is too long for it is also the last line of the log.
    """
    said = summary(spec, code, problem)
    whole = pack(said)
    if len(whole) > LONGEST:
        sys.stdout.write("\n%s%s\n" % (LONG, whole.decode("ascii")))
        sys.stdout.flush()
    try:
        with open(os.environ.get("SHOAL_MESSAGE", MESSAGE), "wb") as file:
            file.write(encode(said))
    except OSError:
        pass


def settled(spec: Dict[str, Any], codes: Dict[str, int], store: Any = None, quiet: float = QUIET) -> int:
    """Wait until an attempt that another pod has begun is over; return the exit status that it would have had.

    Its pod may be gone, or still about to end: as long as its agent gives signs of life, this waits. The attempt's own folder
    says how it went, so its word is not lost with its pod.
    """
    attempt, result = (
        os.path.join(spec[key], name) for key, name in (("attempt_dir", "attempt.json"), ("task_dir", "result.json"))
    )
    beat, since = None, time.monotonic()
    while True:
        if store is not None:
            store.bring_records([attempt, result])
        record = _read(attempt)
        if record.get("state") == "ended":
            if record.get("outcome") == "succeeded" and _read(result).get("attempt") == spec["attempt"]:
                return 0
            return codes.get(str((record.get("failure") or {}).get("class")), CLAIMED)
        seen = _sign(spec["attempt_dir"]) if store is None else store.sign()
        if seen != beat:
            beat, since = seen, time.monotonic()
        elif time.monotonic() - since > quiet or (store is None and time.time() - seen > 10 * quiet):
            return CLAIMED
        time.sleep(1.0)


def _sign(attempt_dir: str) -> float:
    try:
        return os.stat(os.path.join(attempt_dir, "heartbeat")).st_mtime
    except OSError:
        return 0.0


def fail(spec: Dict[str, Any], code: int, problem: str) -> int:
    """Say what is wrong, in the log and in the message; return the exit status."""
    sys.stderr.write("shoal: %s\n" % problem)
    tell(spec, code, problem)
    return code


class Stopped(BaseException):
    """The pod was asked to end before its command was started."""


class Asked:
    """Hears SIGTERM where the agent does not: before it listens, and while what it left is brought away."""

    def __init__(self, attempt_dir: str) -> None:
        self._dir, self._waiting = attempt_dir, True
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, _number: int, _frame: Any) -> None:
        if self._waiting:
            raise Stopped
        # In the moment before the agent listens: it looks for this file when it does.
        try:
            with open(os.path.join(self._dir, "stop"), "w") as file:
                file.write('{"reason": "preempted", "now": false}')
        except OSError:
            pass

    def hand_over(self) -> None:
        """From here on a request is left for the agent."""
        self._waiting = False


def open_staging(spec: Dict[str, Any], rank: int, digest: Any) -> Any:
    """Return what brings files from and to the bucket, or None where the store is mounted.

    The keys leave the environment: the command has no use for them.

    Raises:
        ValueError: the keys are not there.
    """
    place = spec.get("bucket")
    names = ("SHOAL_S3_KEY", "SHOAL_S3_SECRET", "SHOAL_S3_TOKEN")
    key, secret, token = (os.environ.pop(name, None) for name in names)
    if place is None:
        return None
    if not key or not secret:
        raise ValueError("the keys of the bucket %s are not in the pod's environment" % place["name"])
    import s3  # type: ignore[import-not-found,unused-ignore]
    import staging  # type: ignore[import-not-found,unused-ignore]

    bucket = s3.Bucket(place["endpoint"], place["name"], place["region"], key, secret, token)
    every = float(os.environ.get("SHOAL_SYNC_SECONDS") or staging.SYNC_EVERY)
    return staging.Staging(bucket, spec, digest, rank, every)


def prepare(folder: str, spec: Dict[str, Any], rank: int, store: Any) -> str:
    """Bring everything into place; return the path of the specification.

    Raises:
        LookupError: an input is not in the store, or not whole.
        OSError, ValueError, tarfile.TarError: it cannot be done.
    """
    if store is not None:
        store.bring_inputs()
    try:
        spec["input_digests"] = input_digests(spec)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LookupError("an input is not in the store: %s" % error) from None
    if store is not None:
        store.bring_checkpoints()
    unpack(folder, spec["cwd"])
    for place in (spec["task_dir"], spec["attempt_dir"]):
        os.makedirs(place, exist_ok=True)
    path = os.path.join(spec["attempt_dir"], "spec.json")
    with open(path + ".tmp", "w") as file:
        json.dump(spec, file)
    os.rename(path + ".tmp", path)
    return path


def main(folder: str) -> int:
    """Run the attempt; return the exit status."""
    try:
        spec = read_spec(folder)
        rank = int(os.environ.get("JOB_COMPLETION_INDEX") or 0)
        spec = for_rank(spec, rank)
        asked = Asked(str(spec["attempt_dir"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return fail({}, SPEC, "cannot read the specification: %r" % error)
    sys.path.insert(0, folder)
    import agent  # type: ignore[import-not-found,unused-ignore]

    try:
        store = open_staging(spec, rank, agent.digest_tree)
        if store is not None and not store.claim({"host": os.uname().nodename, "pid": os.getpid()}):
            code = settled(spec, agent.EXIT_CODES, store)
            tell(spec, code, "another pod had begun this attempt" if code == CLAIMED else None)
            return code
        path = prepare(folder, spec, rank, store)
    except Stopped:
        return fail(spec, PREEMPTED, "asked to end (SIGTERM) before the command was started")
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError) as error:
        if getattr(error, "status", None) in (401, 403):  # waiting would not help
            return fail(spec, DENIED, "the object store does not accept the keys, or not for this bucket: %s" % error)
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            return fail(spec, DENIED, "the user that the pod runs as may not write to the store: %s" % error)
        return fail(spec, STORE, "cannot prepare the attempt: %s" % error)
    except LookupError as error:
        return fail(spec, STORE, str(error))
    asked.hand_over()
    if store is not None:
        store.start()
    code = int(agent.run(path, True)[0])
    if code == CLAIMED:
        code = settled(spec, agent.EXIT_CODES)
    problem = None
    if store is not None:
        store.stop()
        try:
            store.publish(code == 0)
        except (OSError, ValueError, LookupError) as error:
            problem = "what the attempt left cannot be brought to the bucket: %s" % error
            sys.stderr.write("shoal: %s\n" % problem)
            code = code or STORE
    tell(spec, code, problem)
    return code


if __name__ == "__main__":
    status = main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
    sys.stdout.flush()
    sys.stderr.flush()
    # Downloads that were cut short are not waited for.
    os._exit(status)
