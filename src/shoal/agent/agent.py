"""The agent: runs one attempt of one task and leaves the whole truth about it on disk.

    python agent.py SPEC_JSON [--tee]     run the attempt that SPEC_JSON describes
    python agent.py --serve               fork an agent for each request on standard input (a socket)

It is one file and needs the standard library of Python 3.8 alone, so it travels unchanged into any image, on
Linux and macOS. Whatever it writes is described in ``docs/reference/files.md``. The exit status is 0 when the
task succeeded and its result is published, 20 when another process has claimed the attempt, 2 when the
specification cannot be read, else ``EXIT_CODES`` of the failure's class.

Two rules explain most of the code. An attempt that was asked to stop never counts as finished: to resume is
cheap, to guess is fatal. And each step of publishing leaves a state from which another process can tell what
happened, even if this one is killed between any two instructions.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import re
import select
import signal
import stat
import sys
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

USER = "user"
OOM_HOST = "oom-host"
OOM_GPU = "oom-gpu"
PREEMPTED = "preempted"
NODE_LOST = "node-lost"
TIMEOUT = "timeout"
STALLED = "stalled"
STORE = "store"
CANCELLED = "cancelled"

#: Exit status of the agent by the class of the failure; 0 is success.
EXIT_CODES = {
    USER: 1,
    OOM_HOST: 12,
    OOM_GPU: 13,
    TIMEOUT: 14,
    STALLED: 15,
    CANCELLED: 16,
    PREEMPTED: 17,
    STORE: 18,
    NODE_LOST: 19,
}
EXIT_SPEC = 2
EXIT_CLAIMED = 20

#: Seconds between two signs of life, and the age after which an agent on another machine is taken for dead.
HEARTBEAT_EVERY = 10.0
HEARTBEAT_DEAD = 120.0

_FIRST_SAMPLE = 0.3  # seconds: most no-op tasks are over by then and cost no sample
_QUIET = 0.5  # a left-over process that has written nothing for so long is asked to end
_DRAIN = 2.0  # and one that still writes, after this
_TERM = 2.0  # from the request to end to SIGKILL
_GIVE_UP = 5.0  # from SIGKILL to leaving: what is still there cannot be killed
_TAIL = 128 * 1024  # bytes of log kept in memory to explain a failure
_CHUNK = 64 * 1024
_MIB = 1 << 20
_WHOLE = 64 * _MIB  # larger files are known by size, first and last MiB
_MAC = sys.platform == "darwin"
_LINUX = sys.platform.startswith("linux")

Failure = Dict[str, Any]


def newest_change(folder: str) -> float:
    """Return when the newest file below ``folder`` was written (seconds since 1970), or 0."""
    newest = 0.0
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as listing:
                for entry in listing:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        newest = max(newest, entry.stat(follow_symlinks=False).st_mtime)
        except OSError:  # it changes while we look
            continue
    return newest


class Malformed(Exception):
    """A file of the task does not say what it should; the text is a sentence for its author."""


# ---------------------------------------------------------------------------------------------- small things


def now(at: Optional[float] = None) -> str:
    """Return the time (seconds since 1970, default: now) as RFC 3339 in UTC with milliseconds."""
    millis = int(round((time.time() if at is None else at) * 1000))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(millis // 1000)) + ".%03dZ" % (millis % 1000)


def write_json_atomic(path: str, value: Any, durable: bool = False) -> None:
    """Write ``value`` as JSON so that ``path`` is at any moment the old file or the whole new one.

    Args:
        path: where to.
        value: what; NaN and infinite numbers are refused with ValueError, since JSON has no word for them.
        durable: also wait until the disk has it, so that a power failure cannot leave an empty file.
    """
    _publish(_write_beside(path, value, durable), path)


def _write_beside(path: str, value: Any, durable: bool) -> str:
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError:  # lone surrogates from undecodable file names
        data = json.dumps(value, allow_nan=False).encode("ascii")
    folder, name = os.path.split(path)
    beside = os.path.join(folder, ".%s.%d.tmp" % (name, os.getpid()))
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(fd, data + b"\n")
        if durable:
            os.fsync(fd)
    except OSError as error:
        error.filename = error.filename or path  # a write knows no name, and whoever reads of it wants one
        raise
    finally:
        os.close(fd)
    return beside


def _publish(beside: str, path: str) -> None:
    os.replace(beside, path)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _read(path: str, limit: int = -1) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)


def read_json(path: str) -> Any:
    """Return what a JSON file holds, or None when it is absent, cut short or not JSON."""
    try:
        return json.loads(_read(path).decode("utf-8"))
    except (OSError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------- processes


class Process:
    """One line of the process table: ids, CPU seconds (own and of reaped children), resident bytes."""

    __slots__ = ("cpu", "group", "name", "parent", "pid", "rss", "session", "start", "state")

    def __init__(
        self,
        pid: int,
        name: str,
        state: str,
        parent: int,
        group: int,
        session: int,
        cpu: float,
        rss: int,
        start: str,
    ) -> None:
        self.pid, self.name, self.state, self.parent = pid, name, state, parent
        self.group, self.session, self.cpu, self.rss, self.start = group, session, cpu, rss, start

    @property
    def alive(self) -> bool:
        """Whether it can still do something (a zombie cannot)."""
        return self.state not in "ZX"


_boot: List[str] = []


def _boot_id() -> str:
    if not _boot:
        try:
            _boot.append(_read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()[:8])
        except OSError:
            _boot.append("")
    return _boot[0]


_TICK = float(os.sysconf("SC_CLK_TCK"))
_PAGE = int(os.sysconf("SC_PAGE_SIZE"))


def _process_linux(pid: int) -> Optional[Process]:
    try:
        data = _read("/proc/%d/stat" % pid).decode("utf-8", "replace")
    except OSError:
        return None
    left, right = data.find("("), data.rfind(")")
    f = data[right + 2 :].split()
    if left < 0 or len(f) < 22:
        return None
    cpu = (int(f[11]) + int(f[12]) + int(f[13]) + int(f[14])) / _TICK
    return Process(
        pid, data[left + 1 : right], f[0], int(f[1]), int(f[2]), int(f[3]), cpu, int(f[21]) * _PAGE,
        f[19] + "@" + _boot_id(),
    )  # fmt: skip


def _processes_ps(pid: Optional[int] = None) -> Dict[int, Process]:
    import subprocess  # macOS only: there is no /proc to read

    which = ["-p", str(pid)] if pid is not None else ["-ax"]
    columns = "pid=,ppid=,pgid=,sess=,state=,rss=,time=,lstart=,comm="
    env = dict(os.environ, LC_ALL="C")
    done = subprocess.run(
        ["ps"] + which + ["-o", columns],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=env,
        check=False,
    )
    table = {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        f = line.split(None, 12)
        if len(f) < 12:
            continue
        seconds = 0.0
        for part in f[6].replace("-", ":").split(":"):
            seconds = seconds * 60 + float(part)
        try:
            session = int(f[3])
        except ValueError:  # an address on macOS
            session = 0
        name = os.path.basename(f[12]) if len(f) > 12 else ""
        table[int(f[0])] = Process(
            int(f[0]), name, f[4], int(f[1]), int(f[2]), session, seconds, int(f[5]) * 1024, " ".join(f[7:12])
        )
    return table


def process(pid: int) -> Optional[Process]:
    """Return what the process table says of ``pid``, or None when there is no such process."""
    if os.path.exists("/proc/self/stat"):
        return _process_linux(pid)
    return _processes_ps(pid).get(pid)


def processes() -> Dict[int, Process]:
    """Return the whole process table by pid."""
    if not os.path.exists("/proc/self/stat"):
        return _processes_ps()
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            found = _process_linux(int(name))
            if found is not None:
                table[found.pid] = found
    return table


def process_start(pid: int) -> Optional[str]:
    """Return when a live process started, as an opaque text to compare, or None when it is gone or a zombie.

    Together with the pid it names a process for good: a recycled pid has another start, also after a reboot.
    """
    found = process(pid)
    return found.start if found is not None and found.alive else None


def _descendants(table: Dict[int, Process], root: int) -> List[Process]:
    children: Dict[int, List[int]] = {}
    for found in table.values():
        children.setdefault(found.parent, []).append(found.pid)
    out, todo = [], list(children.get(root, ()))
    while todo:
        pid = todo.pop()
        out.append(table[pid])
        todo += children.get(pid, ())
    return out


def _marked(pid: int, marker: bytes) -> bool:
    try:
        return marker in b"\0" + _read("/proc/%d/environ" % pid)
    except OSError:
        return False


def left_over(group: Optional[int], group_start: Optional[str], spec_path: str) -> List[Process]:
    """Return the live processes that a dead agent left behind.

    Those are the ones whose environment names the attempt and, where its leader is alive with the
    known start time, the command's process group. A group whose leader started at another time is another's.
    """
    marker = b"\0SHOAL_SPEC=" + os.fsencode(spec_path) + b"\0"
    table = processes()
    leader = table.get(group) if group else None
    ours = leader is not None and group_start is not None and leader.start == group_start
    found = []
    for each in table.values():
        if each.alive and each.pid != os.getpid():
            member = ours and group in (each.group, each.session)
            if member or (_LINUX and _marked(each.pid, marker)):
                found.append(each)
    return found


def kill_left_over(group: Optional[int], group_start: Optional[str], spec_path: str, seconds: float = 5.0) -> bool:
    """Kill what ``left_over`` finds until nothing is left; return whether that came true in ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        found = left_over(group, group_start, spec_path)
        if not found:
            return True
        for each in found:
            if process_start(each.pid) == each.start:
                _kill(each.pid, signal.SIGKILL)
        if time.monotonic() > until:
            return False
        time.sleep(0.01)


def nudge(pid: int) -> None:
    """Make an agent look at its attempt's file ``stop`` at once. Harmless for one that serves another by now."""
    _kill(pid, signal.SIGUSR1)


def _kill(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
        return True
    except OSError:
        return False


_libc: List[Any] = []


def _prctl(option: int, value: int) -> bool:
    """Ask something of the Linux kernel for this process; False where that is impossible."""
    if not _LINUX:
        return False
    try:
        if not _libc:
            import ctypes

            _libc.append(ctypes.CDLL(None))
        return bool(_libc[0].prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


_PDEATHSIG, _SUBREAPER = 1, 36


# ----------------------------------------------------------------------------------------------------- claim


def claim(attempt_dir: str, pid: int, start: Optional[str]) -> bool:
    """Take the attempt for this process, once and for all; False when another has it.

    The claim is the file ``heartbeat``, made whole by a hard link, so that exactly one process wins and
    whoever reads it sees who did. A runner that finds an attempt without one claims it with pid 0, and a late
    agent stays away.
    """
    path = os.path.join(attempt_dir, "heartbeat")
    data = json.dumps({"host": os.uname().nodename, "pid": pid, "pid_start": start}).encode("utf-8") + b"\n"
    beside = os.path.join(attempt_dir, ".heartbeat.%d.%d.tmp" % (os.getpid(), time.monotonic_ns()))
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(fd, data)
    finally:
        os.close(fd)
    try:
        os.link(beside, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        try:  # a file system without hard links
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            _write_all(fd, data)
        finally:
            os.close(fd)
        return True
    finally:
        os.unlink(beside)


# ---------------------------------------------------------------------------------------------------- digest


def digest_tree(path: str, tick: Callable[[], None] = lambda: None) -> Dict[str, Any]:
    """Return ``{"digest", "files", "bytes"}`` of a folder (or of one file) by content.

    The digest is the SHA-256 of one line ``<relative path> NUL <size> NUL <SHA-256 of the content> LF`` a
    file, sorted by the bytes of the path; a single file has the empty path. Of a file over 64 MiB the first
    and the last MiB are hashed. A symbolic link is not followed: its target's text stands for it (``<path> NUL
    link NUL <target> LF``), so a link can neither lead out of the folder nor around in a circle. Sockets,
    pipes and devices do not count.

    Args:
        path: the folder or file; itself it may be a link.
        tick: called now and then while large files are read.

    Raises:
        OSError: when something cannot be read, or vanishes meanwhile.
    """
    entries: List[Tuple[bytes, bytes]] = []
    count = total = 0
    root = os.fsencode(path)
    if not stat.S_ISDIR(os.stat(root).st_mode):
        size, digest = _digest_file(root, tick, follow=True)
        entries.append((b"", b"%d\0%s" % (size, digest)))
        count, total = 1, size
    todo = [(root, b"")] if not entries else []
    while todo:
        folder, prefix = todo.pop()
        with os.scandir(folder) as listing:
            for entry in listing:
                name = prefix + entry.name
                if entry.is_symlink():
                    entries.append((name, b"link\0" + os.readlink(entry.path)))
                elif entry.is_dir(follow_symlinks=False):
                    todo.append((entry.path, name + b"/"))
                elif entry.is_file(follow_symlinks=False):
                    size, digest = _digest_file(entry.path, tick)
                    entries.append((name, b"%d\0%s" % (size, digest)))
                    count, total = count + 1, total + size
    whole = hashlib.sha256()
    for name, what in sorted(entries):
        whole.update(name + b"\0" + what + b"\n")
    return {"digest": whole.hexdigest(), "files": count, "bytes": total}


def _digest_file(path: bytes, tick: Callable[[], None], follow: bool = False) -> Tuple[int, bytes]:
    # O_NONBLOCK: if a pipe takes the file's place between looking and opening, nothing hangs.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", os.fsdecode(path))
        size, hasher = info.st_size, hashlib.sha256()
        if size > _WHOLE:
            hasher.update(os.pread(fd, _MIB, 0) + os.pread(fd, _MIB, size - _MIB))
        else:
            while True:
                block = os.read(fd, _MIB)
                if not block:
                    break
                hasher.update(block)
                tick()
        return size, hasher.hexdigest().encode("ascii")
    finally:
        os.close(fd)


def empty_folder(path: str, tick: Callable[[], None] = lambda: None) -> None:
    """Make ``path`` an empty folder. Links in it (or at its place) are removed, never followed.

    ``tick`` is called now and then meanwhile.
    """
    try:
        os.makedirs(path)
        return
    except FileExistsError:
        pass
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
        os.mkdir(path)
        return
    todo, folders = [path], []
    while todo:
        folder = todo.pop()
        try:
            listing = list(os.scandir(folder))
        except PermissionError:  # a folder that the task itself made unreadable
            os.chmod(folder, 0o700)
            listing = list(os.scandir(folder))
        tick()
        for entry in listing:
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
                folders.append(entry.path)
            else:
                try:
                    os.unlink(entry.path)
                except PermissionError:
                    os.chmod(folder, 0o700)
                    os.unlink(entry.path)
    for folder in reversed(folders):
        os.rmdir(folder)


# --------------------------------------------------------------------------------------------------- metrics


def _number(value: Any) -> Any:
    """Return a JSON number, or None for one that is not finite; raise TypeError for anything else."""
    if isinstance(value, bool):
        return int(value)
    if value is None:
        return None
    if not isinstance(value, (int, float)):
        raise TypeError
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return value if as_float - as_float == 0 else None  # NaN and infinities fail this


def read_metrics(attempt_dir: str, out: str) -> Dict[str, Any]:
    """Return the task's metrics: the last of each in ``metrics.jsonl``, then those of ``out/metrics.json``.

    A number that is not finite becomes None (``null``): JSON has no NaN. A damaged line of ``metrics.jsonl``
    is skipped.

    Raises:
        Malformed: when ``out/metrics.json`` is not an object of numbers.
    """
    metrics: Dict[str, Any] = {}
    try:
        with open(os.path.join(attempt_dir, "metrics.jsonl"), "rb") as file:
            for line in file:
                try:
                    logged = json.loads(line.decode("utf-8"))["metrics"].items()
                    metrics.update([(str(key), _number(value)) for key, value in logged])
                except (ValueError, KeyError, TypeError, AttributeError):
                    continue
    except FileNotFoundError:
        pass
    path = os.path.join(out, "metrics.json")
    inside = os.path.realpath(path)
    if not os.path.lexists(path):
        return metrics
    if not inside.startswith(os.path.realpath(out) + os.sep) or not os.path.isfile(inside):
        raise Malformed("out/metrics.json is not a file inside of out/")
    if os.path.getsize(inside) > 16 * _MIB:
        raise Malformed("out/metrics.json is larger than 16 MiB; it should hold a few numbers")
    try:
        tree = json.loads(_read(inside).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Malformed("out/metrics.json is not JSON: %s" % error) from None
    if not isinstance(tree, dict):
        raise Malformed('out/metrics.json holds no JSON object; write {"name": number, ...}')
    todo: List[Tuple[str, Any]] = [("", tree)]
    while todo:
        prefix, node = todo.pop()
        for key, value in node.items():
            if isinstance(value, dict):
                todo.append((prefix + key + "/", value))
                continue
            try:
                metrics[prefix + key] = _number(value)
            except TypeError:
                kind = "a text" if isinstance(value, str) else "a list"
                raise Malformed('out/metrics.json: "%s" is %s, not a number' % (prefix + key, kind)) from None
    return metrics


# ------------------------------------------------------------------------------------------------------- log


class Log:
    """Writes the command's output: secrets masked, valid UTF-8, its tail kept to explain a failure.

    Memory stays bounded however long a line is. A secret is also masked when it arrives in pieces.
    """

    def __init__(self, path: str, secrets: Iterable[bytes], tee: bool) -> None:
        values = set()
        for secret in secrets:
            values.add(secret)
            values.update(line for line in secret.splitlines() if len(line) >= 8)
        self._secrets = sorted((value for value in values if value), key=len, reverse=True)
        self._held = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._tee = tee
        self._fresh = True  # at the start of a line
        self.tail = b""
        self.error: Optional[OSError] = None
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def _mask(self, data: bytes, last: bool) -> bytes:
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        self._held = b""
        if not last:
            longest = min(len(self._secrets[0]) - 1, len(data))
            for size in range(longest, 0, -1):
                end = data[-size:]
                if any(secret.startswith(end) for secret in self._secrets):
                    self._held, data = end, data[:-size]
                    break
        return data

    def feed(self, data: bytes, last: bool = False) -> None:
        """Take a piece of output; with ``last`` nothing is held back any more."""
        if self._secrets:
            data = self._mask(data, last)
        if last or not data.isascii() or self._decoder.getstate()[0]:
            data = self._decoder.decode(data, last).encode("utf-8")
        if data:
            self.tail = (self.tail + data)[-_TAIL:] if len(data) < _TAIL else data[-_TAIL:]
            self._fresh = data.endswith(b"\n")
            self._write(data)

    def note(self, text: str) -> None:
        """Add a line of the agent's own."""
        line = ("[shoal] %s\n" % text).encode("utf-8", "replace")
        self._write(line if self._fresh else b"\n" + line)
        self._fresh = True

    def _write(self, data: bytes) -> None:
        if self.error is None:
            try:
                _write_all(self._fd, data)
            except OSError as error:
                self.error = error
        if self._tee:
            try:
                _write_all(1, data)
            except OSError:
                self._tee = False  # nobody watches any more; log.txt has it all

    def close(self) -> None:
        """Write what was held back and close the file."""
        self.feed(b"", last=True)
        os.close(self._fd)


# ------------------------------------------------------------------------------------------------------ GPUs


class Gpus:
    """NVIDIA GPUs by NVML, without any package: absent library, absent GPUs."""

    def __init__(self, only: Optional[List[str]] = None) -> None:
        """Open those in ``only`` (indices or UUIDs as in ``CUDA_VISIBLE_DEVICES``), or all."""
        self._nvml: Any = None
        self._devices: List[Tuple[int, Any]] = []
        try:
            import ctypes

            self._c = ctypes
            nvml = ctypes.CDLL("libnvidia-ml.so.1")
            if nvml.nvmlInit_v2() != 0:
                return
        except (ImportError, OSError, AttributeError):
            return
        self._nvml = nvml
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return
        for place, name in enumerate([str(i) for i in range(count.value)] if only is None else only):
            handle = ctypes.c_void_p()
            if name.isdigit():
                index, code = int(name), nvml.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(handle))
            else:
                index, code = (
                    place,
                    nvml.nvmlDeviceGetHandleByUUID(name.encode("ascii"), ctypes.byref(handle)),
                )
                found = ctypes.c_uint()
                if code == 0 and nvml.nvmlDeviceGetIndex(handle, ctypes.byref(found)) == 0:
                    index = found.value
            if code == 0:
                self._devices.append((index, handle))

    def _memory(self, handle: Any) -> Tuple[Optional[int], Optional[int]]:
        values = (self._c.c_ulonglong * 3)()  # total, free, used
        if self._nvml.nvmlDeviceGetMemoryInfo(handle, self._c.byref(values)) != 0:
            return None, None
        return int(values[0]), int(values[2])

    def devices(self) -> List[Dict[str, Any]]:
        """Return ``{"index", "name", "memory"}`` of each, memory in bytes."""
        found = []
        for index, handle in self._devices:
            text = self._c.create_string_buffer(96)
            known = self._nvml.nvmlDeviceGetName(handle, text, 96) == 0
            name = text.value.decode("utf-8", "replace") if known else "GPU"
            found.append({"index": index, "name": name, "memory": self._memory(handle)[0]})
        return found

    def sample(self) -> List[Dict[str, Any]]:
        """Return ``{"index", "use", "memory"}`` of each: use from 0 to 1 (None on MIG), bytes."""
        found = []
        for index, handle in self._devices:
            values = (self._c.c_uint * 2)()  # GPU, memory bus: percent
            known = self._nvml.nvmlDeviceGetUtilizationRates(handle, self._c.byref(values)) == 0
            use = values[0] / 100.0 if known else None
            found.append({"index": index, "use": use, "memory": self._memory(handle)[1]})
        return found

    def close(self) -> None:
        """Let the library go."""
        if self._nvml is not None:
            self._nvml.nvmlShutdown()


def visible_gpus(spec: Dict[str, Any]) -> Optional[List[str]]:
    """Return which GPUs an attempt may use: names, [] for none, or None for all that there are."""
    given = spec.get("gpus") or []
    if given:
        return [str(index) for index in given]
    env = dict(os.environ, **(spec.get("env") or {}))
    listed = env.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        names = []
        for name in (part.strip() for part in listed.split(",")):
            if name in ("", "-1", "NoDevFiles"):
                break  # as CUDA does: what follows an invalid entry is invisible
            names.append(name)
        return names
    return None if (spec.get("resources") or {}).get("gpu") else []


# ---------------------------------------------------------------------------------------------------- cgroup


def cgroup_dirs(controller: str) -> List[str]:
    """Return the folders where this process's cgroup (v1 or v2) may keep ``controller``, innermost first."""
    found = []
    try:
        lines = _read("/proc/self/cgroup").decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    for line in lines:
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if names == "":
            bases = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        elif controller in names.split(","):
            bases = ["/sys/fs/cgroup/" + names, "/sys/fs/cgroup/" + controller]
        else:
            continue
        for base in bases:
            inner = path.strip("/")
            while True:  # a limit may be set on any level above
                found.append(os.path.join(base, inner) if inner else base)
                if not inner:
                    break
                inner = os.path.dirname(inner)
    return found


_oom_files: List[str] = []


def oom_kills() -> Optional[int]:
    """Return how often the kernel has killed for want of memory in this cgroup, else on this machine."""
    if not _oom_files:
        names = ("memory.events", "memory.oom_control")
        _oom_files.extend(os.path.join(folder, name) for folder in cgroup_dirs("memory") for name in names)
        _oom_files.append("/proc/vmstat")
    for path in _oom_files:
        try:
            found = re.search(rb"^oom_kill (\d+)", _read(path), re.M)
        except OSError:
            continue
        if found:
            _oom_files[:] = [path]
            return int(found.group(1))
    return None


# -------------------------------------------------------------------------------------- why a command failed

_GPU_MEMORY = re.compile(
    r"(?:CUDA|HIP|MPS backend|XPU) out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY"
    r"|cudaErrorMemoryAllocation|CU(?:BLAS|DNN|FFT|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|torch\.(?:cuda\.)?OutOfMemoryError"
    r"|RESOURCE_EXHAUSTED: .*(?:[Oo]ut of memory|OOM)|OOM when allocating tensor.*device:GPU"
)
_SHARED_MEMORY = re.compile(
    r"out of shared memory|insufficient shared memory"
    r"|unable to (?:open|write|allocate) .*(?:shm|torch_\d).*No space left"
    r"|/dev/shm.*No space left|No space left.*/dev/shm"
)
_HOST_MEMORY = re.compile(
    r"\bMemoryError\b|Cannot allocate memory|std::bad_alloc|can't allocate memory"
    r"|Unable to allocate .* for an array|killed by signal: Killed|OOM when allocating tensor"
    r"|[Oo]ut of [Mm]emory: Killed|java\.lang\.OutOfMemoryError"
)
_KILLED = re.compile(r"\bKilled\b|SIGKILL|[Ss]ignal 9\b|exitcode\s*: -9")
_DISK = re.compile(r"No space left on device|Disk quota exceeded|Stale (?:NFS )?file handle")
_BROKEN = re.compile(
    r"uncorrectable (?:ECC|NVLink) error|CUDA_ERROR_ECC_UNCORRECTABLE|cudaErrorECCUncorrectable|GPU is lost"
    r"|fallen off the bus|NVRM: Xid|cudaErrorHardwareStackError|nvmlErrorGpuIsLost"
    r"|Unable to determine the device handle for GPU"
)
# The traceback of a launcher or of a rank that lost its peer says nothing of the cause.
_WRAPPER = re.compile(
    r"ChildFailedError|ProcessRaisedException|ProcessExitedException|CalledProcessError|SignalException"
    r"|DistBackendError|Connection (?:closed|reset) by peer|NCCL(?:CommAbort| communicator was aborted)"
    r"|BrokenPipeError|KeyboardInterrupt"
)
_FRAME = re.compile(r'^\s*File "(.+)", line (\d+)(?:, in (.+))?$')
_EXCEPTION = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Failure|Timeout)\b")
_RANK = re.compile(r"^\[(?:rank)?\d+\]:\s?|^\[default\d+\]:")
_NOT_OURS = (
    "/site-packages/",
    "/dist-packages/",
    "/lib/python3",
    "/lib64/python3",
    "<frozen",
    "/python3.",
    "/Python.framework/",
)
_WORDS = {
    "SIGSEGV": "crashed with a segmentation fault (SIGSEGV): a bug in compiled code or a broken install",
    "SIGBUS": "crashed with a bus error (SIGBUS): often /dev/shm or a disk is full",
    "SIGABRT": "aborted itself (SIGABRT)",
    "SIGFPE": "crashed with an arithmetic error (SIGFPE)",
    "SIGILL": "used an instruction that this processor does not have (SIGILL)",
    "SIGKILL": "was killed (SIGKILL) by something outside of Shoal; want of memory is the usual reason",
    "SIGTERM": "was ended by a SIGTERM that did not come from Shoal",
    "SIGINT": "was interrupted (SIGINT) by something outside of Shoal",
    "SIGXCPU": "used up its CPU time limit (SIGXCPU)",
    "SIGXFSZ": "wrote a file over its size limit (SIGXFSZ)",
}


def failure(kind: str, message: str, lines: Iterable[str] = ()) -> Failure:
    """Return a failure as ``attempt.json`` holds it."""
    return {"class": kind, "message": message, "lines": [_short(line, 400) for line in lines][:12]}


def _short(text: str, size: int) -> str:
    text = text.rstrip()
    return text if len(text) <= size else text[: size - 1] + "…"


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return "signal %d" % signum


class _Trace:
    """A traceback in the log: its frames and the exception's own lines."""

    def __init__(self) -> None:
        self.frames: List[Tuple[str, str, str, str]] = []  # file, line, function, source
        self.error: List[str] = []

    @property
    def own(self) -> Optional[Tuple[str, str, str, str]]:
        """The last frame in code that is not an installed package's."""
        ours = [frame for frame in self.frames if not any(part in frame[0] for part in _NOT_OURS)]
        return ours[-1] if ours else None


def _tracebacks(lines: List[str]) -> List[_Trace]:
    found: List[_Trace] = []
    trace: Optional[_Trace] = None
    for number, line in enumerate(lines):
        if "Traceback (most recent call last)" in line and not line.startswith("│"):
            trace = _Trace()
            found.append(trace)
            continue
        if trace is None:
            continue
        frame = _FRAME.match(line)
        if frame and not trace.error:
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            source = "" if _FRAME.match(following) or _EXCEPTION.match(following) else following
            trace.frames.append((frame.group(1), frame.group(2), frame.group(3) or "", source))
        elif line[:1] not in ("", " ", "\t") or trace.error:
            if not line.strip() or len(trace.error) >= 30:
                trace = None
            else:
                trace.error.append(line)
    return [each for each in found if each.error]


def explain(code: Optional[int], signum: Optional[int], log: bytes, oom_killed: bool, argv: List[str]) -> Failure:
    """Return why a command failed that was not stopped: class, one sentence, decisive lines.

    Args:
        code: its exit code, or None when a signal ended it.
        signum: that signal, or None.
        log: the end of its output.
        oom_killed: whether the kernel killed something for want of memory meanwhile.
        argv: the command.
    """
    text = log.decode("utf-8", "replace")
    lines = [_RANK.sub("", line.rpartition("\r")[2] or line.rstrip("\r")) for line in text.split("\n")]
    lines = [line for line in lines if not line.startswith("[shoal] ")]
    traces = _tracebacks(lines)
    causes = [trace for trace in traces if not _WRAPPER.search(trace.error[0])]
    many = len(causes) != len(traces) or "[rank" in text
    full = [line.strip() for line in lines if any(char.isalnum() for char in line)]
    if causes:
        chosen = causes[-1]
        block = "\n".join(chosen.error)
        if many:  # of several ranks, the one that names a resource is the cause of the others' errors
            for trace in causes:
                body = "\n".join(trace.error)
                if _GPU_MEMORY.search(body) or _HOST_MEMORY.search(body) or _BROKEN.search(body) or _DISK.search(body):
                    chosen, block = trace, body
                    break
        shown = _trace_lines(chosen)
    else:
        chosen, block, shown = None, "\n".join(full[-40:]), full[-5:]

    def line_with(pattern: "re.Pattern[str]") -> str:
        return next((line.strip() for line in block.split("\n") if pattern.search(line)), "")

    killed = signum == signal.SIGKILL or code == 128 + signal.SIGKILL or _KILLED.search("\n".join(full[-40:]))
    if oom_killed and (killed or not full):
        return failure(OOM_HOST, "Out of memory: the kernel killed a process of the task to free memory.", shown)
    if _GPU_MEMORY.search(block):
        return failure(OOM_GPU, _gpu_sentence(block), shown if chosen else [line_with(_GPU_MEMORY)])
    if _SHARED_MEMORY.search(block):
        message = "Out of shared memory: /dev/shm is too small for the data loader's workers; raise resources.shm."
        return failure(OOM_HOST, message, shown if chosen else [line_with(_SHARED_MEMORY)])
    if _HOST_MEMORY.search(block):
        message = "Out of memory: %s." % _short(line_with(_HOST_MEMORY), 200).rstrip(".")
        return failure(OOM_HOST, message, shown if chosen else [line_with(_HOST_MEMORY)])
    if _BROKEN.search(block):
        message = "The GPU or its driver failed: %s." % _short(line_with(_BROKEN), 200).rstrip(".")
        return failure(NODE_LOST, message, shown if chosen else [line_with(_BROKEN)])
    if _DISK.search(block):
        message = "The disk failed the task: %s." % _short(line_with(_DISK), 200).rstrip(".")
        return failure(STORE, message, shown if chosen else [line_with(_DISK)])
    if chosen is not None:
        return failure(
            USER,
            "The command failed with %s%s." % (_short(chosen.error[0], 300).rstrip("."), _where(chosen)),
            shown,
        )
    if signum is not None:
        name = _signal_name(signum)
        return failure(USER, "The command %s." % _WORDS.get(name, "was ended by %s" % name), shown)
    if code == 127:
        missing = next((line for line in reversed(full) if "not found" in line or "No such file" in line), "")
        return failure(
            USER,
            "Command not found%s." % (": " + _short(missing, 200) if missing else ""),
            [missing or argv[0]],
        )
    if code == 126:
        return failure(USER, "The command cannot be executed: %s." % _short(full[-1] if full else argv[0], 200), shown)
    said = next((line for line in reversed(full[-20:]) if _EXCEPTION.match(line)), "") or next(
        (line for line in reversed(full[-20:]) if re.search(r"\berror\b", line, re.I)), ""
    )
    said = said or (full[-1] if full else "")
    if code is not None and code > 128 and _signal_name(code - 128).startswith("SIG"):
        name = _signal_name(code - 128)
        return failure(USER, "A process of the command %s." % _WORDS.get(name, "was ended by %s" % name), shown)
    tail = ": %s" % _short(said, 300) if said else " and wrote nothing"
    return failure(USER, "The command ended with exit code %s%s." % (code, tail.rstrip(".")), shown)


def _gpu_sentence(block: str) -> str:
    wanted = re.search(r"Tried to allocate ([\d.]+ [KMGT]i?B)", block)
    size = re.search(r"total capacity of ([\d.]+ [KMGT]i?B)|([\d.]+ [KMGT]i?B) total capacity", block)
    message = "Out of GPU memory"
    if wanted:
        message += ": could not get another %s" % wanted.group(1)
    if size:
        message += " on a GPU of %s" % (size.group(1) or size.group(2))
    return message + "."


def _where(trace: _Trace) -> str:
    own = trace.own
    if own is None:
        return ""
    inside = ", in %s" % own[2] if own[2] and own[2] != "<module>" else ""
    return " (%s, line %s%s)" % (os.path.basename(own[0]), own[1], inside)


def _trace_lines(trace: _Trace) -> List[str]:
    lines = []
    own = trace.own
    if own is not None:
        lines.append('File "%s", line %s%s' % (own[0], own[1], ", in " + own[2] if own[2] else ""))
        if own[3]:
            lines.append("    " + own[3])
    return lines + trace.error[:6]


# ------------------------------------------------------------------------------------------------------- use


class Use:
    """Samples what the command and its descendants use, into ``usage.jsonl``; sums it up at the end."""

    def __init__(self, path: str, spec: Dict[str, Any], root: int, skip_root: bool) -> None:
        self._path, self._spec, self._root, self._skip_root = path, spec, root, skip_root
        self._gpus: Optional[Gpus] = None
        self._last = (time.monotonic(), 0.0)  # when, CPU seconds until then
        self._pss: Optional[float] = 1.0  # None: reading it was too slow here
        self._ratio = 1.0
        self.reaped = 0.0  # CPU seconds of processes that this agent waited for
        self.peak = 0
        self.devices: List[Dict[str, Any]] = []
        self.samples = 0
        self._gpu_uses: List[float] = []
        self._gpu_peak: Optional[int] = None

    def reap(self, rusage: Any) -> None:
        """Count what a process used that has just been waited for."""
        self.reaped += rusage.ru_utime + rusage.ru_stime
        self.peak = max(self.peak, rusage.ru_maxrss * (1 if _MAC else 1024))

    def _memory(self, found: List[Process]) -> int:
        resident = sum(each.rss for each in found)
        if len(found) < 2 or not _LINUX:
            return resident
        # Workers that were forked share most pages: counted in each, they would look many times their size.
        if self._pss is not None:
            begin, total = time.monotonic(), 0
            for each in found:
                try:
                    match = re.search(rb"^Pss:\s+(\d+) kB", _read("/proc/%d/smaps_rollup" % each.pid), re.M)
                    total += int(match.group(1)) * 1024 if match else each.rss
                except OSError:
                    total += each.rss
            self._ratio = total / resident if resident else 1.0
            if time.monotonic() - begin > 0.1:
                self._pss = None
        return int(resident * self._ratio)

    def sample(self) -> None:
        """Take one sample.

        Raises:
            OSError, ValueError: when something cannot be measured or written.
        """
        if self._gpus is None:
            only = visible_gpus(self._spec)
            self._gpus = Gpus(only) if only is None or only else Gpus([])
            self.devices = self._gpus.devices()
        table = processes()
        found = _descendants(table, self._root)
        if not self._skip_root and self._root in table:
            found.append(table[self._root])
        at = time.monotonic()
        cpu = self.reaped + sum(each.cpu for each in found)
        memory = self._memory(found)
        self.peak = max(self.peak, memory)
        before, self._last = self._last, (at, cpu)
        gpus = self._gpus.sample()
        line = {
            "time": now(),
            "cpu": round(max(0.0, cpu - before[1]) / max(1e-3, at - before[0]), 3),
            "memory": memory,
            "processes": len(found),
            "gpus": gpus,
        }
        self.samples += 1
        self._gpu_uses += [gpu["use"] for gpu in gpus if gpu["use"] is not None]
        for gpu in gpus:
            if gpu["memory"] is not None:
                self._gpu_peak = max(self._gpu_peak or 0, gpu["memory"])
        with open(self._path, "ab", buffering=0) as file:
            file.write(json.dumps(line).encode("ascii") + b"\n")

    def summary(self, seconds: float) -> Dict[str, Any]:
        """Return ``usage`` of ``attempt.json``."""
        uses = self._gpu_uses
        return {
            "cpu_seconds": round(self.reaped, 3),
            "cpu_mean": round(self.reaped / seconds, 3) if seconds > 0 else None,
            "memory_peak": self.peak or None,
            "gpu_mean": round(sum(uses) / len(uses), 4) if uses else None,
            "gpu_memory_peak": self._gpu_peak,
            "samples": self.samples,
        }

    def close(self) -> None:
        """Let the GPUs go."""
        if self._gpus is not None:
            self._gpus.close()


# --------------------------------------------------------------------------------------------------- attempt


def digests_of(spec: Dict[str, Any], key: str) -> Dict[str, Any]:
    """Return the digests that a specification has of its inputs or its data, by name."""
    found = spec.get(key) or {}
    return {name: value.get("digest") if isinstance(value, dict) else value for name, value in found.items()}


class Attempt:
    """One attempt, from the claim to the published result."""

    def __init__(self, spec_path: str, tee: bool = False, alone: bool = True, stdin: Optional[int] = None) -> None:
        """Read the specification.

        Args:
            spec_path: where it is.
            tee: write the command's output to standard output too.
            alone: this process exists for this attempt only, so every child of it belongs to the attempt.
            stdin: the command's standard input; default is an empty one.

        Raises:
            OSError, ValueError, KeyError: when the specification cannot be read.
        """
        self.spec: Dict[str, Any] = json.loads(_read(spec_path).decode("utf-8"))
        self.spec_path = os.path.abspath(spec_path)
        spec = self.spec
        self.task_dir, self.dir, self.out = spec["task_dir"], spec["attempt_dir"], spec["out"]
        self.argv: List[str] = [str(part) for part in spec["argv"]]
        if not self.argv or spec["format"] != 1:
            raise ValueError("no command, or a format that this agent does not know")
        self._tee, self._alone, self._stdin = tee, alone, stdin
        self.signals: List[int] = []  # those that arrived
        self._seen = 0
        self._group = 0
        self._complete = False  # whether every process that the command leaves becomes a child of this one
        self._status: Optional[int] = None  # of the command, as wait() gives it
        self._children = True  # whether anything is left to wait for
        self._stop: Optional[str] = None  # preempted, cancelled, timeout, stalled, store
        self._why = ""
        self._kill_at = 0.0
        self._signalled: Dict[int, str] = {}
        self._store_error: Optional[OSError] = None
        self._failure: Optional[Failure] = None
        self._wake: Tuple[int, int] = (-1, -1)
        self._handlers: Dict[int, Any] = {}
        self._resets = [signal.SIGTERM]  # so that none is lost between the fork and the command's first moment
        self._recorded = False
        self._bad = -1  # says why the command could not be started
        self._log: Optional[Log] = None
        self._use: Optional[Use] = None
        self._oom_before: Optional[int] = None
        self._oom_killed = False
        self._next_beat = 0.0
        self._record: Dict[str, Any] = {}
        self._started = 0.0

    def _path(self, name: str) -> str:
        return os.path.join(self.dir, name)

    # -- the whole

    def run(self) -> int:
        """Run it; return the exit status for the agent (see the module's text)."""
        self._listen()
        try:
            if not claim(self.dir, os.getpid(), process_start(os.getpid())):
                return EXIT_CLAIMED
            return self._run()
        finally:
            self._unlisten()

    def _run(self) -> int:
        self._started = time.time()
        begin = time.monotonic()
        self._next_beat = begin + HEARTBEAT_EVERY
        spec = self.spec
        self._record = {key: spec[key] for key in ("format", "study", "step", "task", "attempt", "executor")}
        self._record.update(
            state="running", queued=spec.get("queued"), started=now(self._started), ended=None,
            host=os.uname().nodename, pid=os.getpid(), pid_start=process_start(os.getpid()),
            group=None, group_start=None, devices=[], outcome=None, exit_code=None, signal=None, failure=None,
            usage=None, checkpointed=None, lost_seconds=None,
        )  # fmt: skip
        reader = -1
        try:
            self._prepare()
            self._look_for_stop()
            if self._stop is None:
                reader = self._start()
                self._watch(reader, begin)
        except OSError as error:
            self._store_error = self._store_error or error
        except Exception as error:  # a bug of the agent: say so, and leave nothing running
            self._failure = failure(NODE_LOST, "Shoal's agent failed: %s: %s." % (type(error).__name__, error))
        finally:
            self._end_everything()
            if reader >= 0:
                os.close(reader)
        return self._finish(time.monotonic() - begin)

    def _prepare(self) -> None:
        result = os.path.join(self.task_dir, "result.json")
        if self._begins_anew(result):
            # Whoever started this may not see the store. Before the result goes, so that a kill in between forgets nothing.
            empty_folder(self.spec["checkpoints"], self._beat)
        # The result goes before out/: while that is not what it describes, the task is not done.
        try:
            os.unlink(result)
        except FileNotFoundError:
            pass
        if self.spec["attempt"] > 1:
            for name in os.listdir(self.task_dir):  # what an agent left that was killed while publishing
                if name.startswith(".result.json.") and name.endswith(".tmp"):
                    os.unlink(os.path.join(self.task_dir, name))
        empty_folder(self.out, self._beat)
        os.makedirs(self.spec["checkpoints"], exist_ok=True)
        values = [os.environb.get(os.fsencode(name), b"") for name in self.spec.get("secrets") or ()]
        self._log = Log(self._path("log.txt"), values, self._tee)

    def _begins_anew(self, result: str) -> bool:
        """Whether the task was finished, or the attempt before was made from other inputs: nothing to resume from."""
        done = read_json(result)
        if isinstance(done, dict) and done.get("task") == self.spec["task"]:
            return True
        before = read_json(os.path.join(self.task_dir, "attempts", str(self.spec["attempt"] - 1), "spec.json"))
        if not isinstance(before, dict):
            return False
        return any(digests_of(before, key) != digests_of(self.spec, key) for key in ("input_digests", "data"))

    # -- starting the command

    def _environment(self) -> Dict[str, str]:
        env = dict(os.environ)
        env.setdefault("PYTHONUNBUFFERED", "1")
        gpus = self.spec.get("gpus") or []
        if gpus:
            env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # so that an index means the same to CUDA and to NVML
            env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in gpus)
        env.update(self.spec.get("env") or {})
        env["SHOAL_SPEC"] = self.spec_path
        return env

    def _program(self, env: Dict[str, str]) -> Optional[str]:
        """Return the file to execute, or None where the system's own search has to say what is wrong."""
        name = self.argv[0]
        if "/" in name:
            return name
        for folder in env.get("PATH", os.defpath).split(os.pathsep):
            path = os.path.join(folder, name)
            if os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK):
                return path
        return None

    def _start(self) -> int:
        """Start the command; return the reading end of its output.

        Where the system does not end the command together with a killed agent (macOS), the command waits until its
        process group is on record, so that whoever finds the agent dead knows what to end.
        """
        env, parent = self._environment(), os.getpid()
        program = self._program(env)
        complete = self._alone and _prctl(_SUBREAPER, 1)
        self._complete = complete or (self._alone and parent == 1)
        stdin = os.open(os.devnull, os.O_RDONLY) if self._stdin is None else self._stdin
        out_r, out_w = os.pipe()
        go_r, go_w = (-1, -1) if _LINUX else os.pipe()
        self._bad, bad_w = os.pipe()
        os.set_blocking(out_r, False)
        os.set_blocking(self._bad, False)
        self._oom_before = oom_kills()
        # Blocked until the child has its own handlers: a signal between would be lost to it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        pid = os.fork()
        if pid == 0:
            self._become(program, env, parent, mask, stdin, out_w, go_r, go_w, bad_w)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._group = pid
        for fd in (out_w, go_r, bad_w) + ((stdin,) if self._stdin is None else ()):
            if fd >= 0:
                os.close(fd)
        try:
            _prefer_for_oom(pid)
            self._record.update(group=pid, group_start=process_start(pid))
            self._use = Use(self._path("usage.jsonl"), self.spec, parent if self._alone else pid, self._alone)
            write_json_atomic(self._path("attempt.json"), self._record)
            if go_w >= 0:
                os.write(go_w, b"g")
        finally:
            if go_w >= 0:
                os.close(go_w)
        return out_r

    def _become(
        self,
        program: Optional[str],
        env: Dict[str, str],
        parent: int,
        mask: Iterable[Any],
        stdin: int,
        out_w: int,
        go_r: int,
        go_w: int,
        bad_w: int,
    ) -> None:
        """In the child: become the command. Never returns. Each page of memory that is touched here costs."""
        stage = "start"
        try:
            os.setsid()
            for signum in self._resets:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _prctl(_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(125)
            if go_r >= 0:
                os.close(go_w)
                if os.read(go_r, 1) != b"g":
                    os._exit(125)
            os.dup2(stdin, 0)
            os.dup2(out_w, 1)
            os.dup2(out_w, 2)
            stage = "cwd"
            os.chdir(self.spec["cwd"])
            stage = "exec"
            if program is not None:
                os.execve(program, self.argv, env)
            os.execvpe(self.argv[0], self.argv, env)
        except BaseException as error:
            code = error.errno if isinstance(error, OSError) else 0
            os.write(bad_w, ("%s %d %s" % (stage, code or 0, error)).encode("utf-8", "replace")[:4000])
        finally:
            os._exit(127)

    def _cannot_start(self, error: str) -> Failure:
        stage, code, text = error.split(" ", 2)
        name, number = self.argv[0], int(code)
        if stage == "cwd":
            return failure(
                USER,
                "The command's folder %s cannot be entered: %s." % (self.spec["cwd"], os.strerror(number)),
            )
        if stage == "exec" and number == errno.ENOENT:
            if "/" in name and os.path.exists(os.path.join(self.spec["cwd"], name)):
                return failure(USER, "Command not found: the interpreter that the first line of %s names." % name)
            return failure(USER, 'Command not found: "%s" is neither a file nor on the PATH.' % name)
        if stage == "exec" and number == errno.EACCES:
            return failure(USER, 'The command "%s" may not be executed: permission denied (chmod +x?).' % name)
        if stage == "exec" and number == errno.ENOEXEC:
            return failure(USER, 'The command "%s" is not a program for this machine; a script needs a #! line.' % name)
        if stage == "exec" and number == errno.E2BIG:
            return failure(USER, "The command line or its environment is too long for this system.")
        if stage == "exec" and number in (errno.ENOMEM, errno.EAGAIN):
            return failure(NODE_LOST, "This machine could not start the command: %s." % os.strerror(number))
        return failure(USER, 'The command "%s" could not be started: %s.' % (name, text))

    # -- signals and children

    def _listen(self) -> None:
        # A signal with a handler is reset by exec, one that is ignored is not. So what this process would ignore
        # has a handler that does nothing, and the command need not be freed of it.
        heard = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1, signal.SIGPIPE, signal.SIGXFSZ]
        try:
            for signum in heard + ([signal.SIGHUP] if self._alone else []):
                self._handlers[signum] = signal.signal(signum, self._on_signal)
        except ValueError:  # not the main thread: children and stop requests are polled for
            self._resets = [signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ]
            return
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        self._wake = (reader, writer)
        self._old_wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def _on_signal(self, signum: int, _frame: Any) -> None:
        if signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            self.signals.append(signum)  # SIGUSR1 says no more than: look at the file ``stop``

    def _unlisten(self) -> None:
        if self._wake[0] < 0:
            return
        signal.set_wakeup_fd(self._old_wakeup)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        for fd in self._wake:
            os.close(fd)

    @property
    def clean(self) -> bool:
        """Whether the attempt's end is on record and nothing of it is left, so that this process may go on."""
        return self._recorded and not self._children

    def _reap(self) -> None:
        which = -1 if self._alone else self._group
        while self._children:
            try:
                pid, status, rusage = os.wait4(which, os.WNOHANG)
            except ChildProcessError:
                self._children = False
                return
            if pid == 0:
                return
            if self._use is not None:
                self._use.reap(rusage)
            if pid == self._group:
                self._status = status
                if not self._alone:
                    self._children = False

    def _left(self) -> bool:
        """Whether processes of the command are left, now that the command itself has ended."""
        if self._complete:
            self._reap()
            return self._children
        try:
            os.killpg(self._group, 0)
            return True
        except ProcessLookupError:
            return False
        except PermissionError:
            return True

    def _members(self) -> List[Process]:
        """Return the live processes of the command: its descendants, its session and its group."""
        table = processes()
        leader = table.get(self._group)
        recycled = leader is not None and leader.start != self._record["group_start"]
        found = {each.pid: each for each in _descendants(table, os.getpid() if self._complete else self._group)}
        if not recycled:
            for each in table.values():
                if self._group in (each.pid, each.group, each.session):
                    found[each.pid] = each
        return [each for each in found.values() if each.alive and each.pid != os.getpid()]

    def _signal_all(self, signum: int) -> None:
        if self._status is None:
            try:
                os.killpg(self._group, signum)  # reaches at once what is forked meanwhile
            except OSError:
                pass
        for each in self._members():
            _kill(each.pid, signum)

    def _end_everything(self) -> None:
        if not self._group:
            return
        until = time.monotonic() + _GIVE_UP
        while (self._status is None or self._left()) and time.monotonic() < until:
            self._signal_all(signal.SIGKILL)
            time.sleep(0.005)
            self._reap()

    # -- stopping

    def _look_for_stop(self) -> None:
        """Take note of signals and of the request in the file ``stop``."""
        fresh, self._seen = self.signals[self._seen :], len(self.signals)
        asked = read_json(self._path("stop"))
        if isinstance(asked, dict):
            reason = CANCELLED if asked.get("reason") != PREEMPTED else PREEMPTED
            self._ask_to_end(reason, "a stop was asked for", now=bool(asked.get("now")))
        elif signal.SIGINT in fresh:
            self._ask_to_end(CANCELLED, "interrupted", now=self._stop == CANCELLED)
        elif signal.SIGTERM in fresh:
            self._ask_to_end(PREEMPTED, "the agent was asked to end (SIGTERM)")

    def _ask_to_end(self, reason: str, why: str, now: bool = False) -> None:
        moment = time.monotonic()
        if now and self._stop is not None:
            self._kill_at = min(self._kill_at, moment)
        if self._stop is not None or self._status is not None:
            return
        grace = float(self.spec["grace"])
        self._stop, self._why = reason, why
        self._kill_at = moment if now else moment + grace
        if self._log is not None:
            self._log.note("%s: %s" % (why, "killed" if now else "SIGTERM, then %g s of grace" % grace))
        if self._group and not now:
            self._pass_on()

    def _pass_on(self) -> None:
        """Send SIGTERM to the command and, through shells, to what they wait for.

        Not to everything: the workers of a data loader are their trainer's to end. Killed before it, they
        would make it fail in the middle of its last checkpoint. What outlives its parent is asked in turn.
        """
        table = processes()
        todo = [self._group]
        while todo:
            found = table.get(todo.pop())
            if found is None or not found.alive:
                continue
            self._terminate(found)
            if found.name in (
                "sh",
                "bash",
                "dash",
                "ash",
                "zsh",
                "ksh",
                "busybox",
                "make",
                "time",
                "nice",
                "env",
            ):
                todo += [each.pid for each in table.values() if each.parent == found.pid]

    def _pass_on_to_orphans(self) -> None:
        """Send SIGTERM to what has outlived its parent and was not asked yet."""
        members = self._members()
        pids = {each.pid for each in members}
        for each in members:
            if each.parent not in pids:
                self._terminate(each)

    def _terminate(self, found: Process) -> None:
        if self._signalled.get(found.pid) != found.start:
            self._signalled[found.pid] = found.start
            _kill(found.pid, signal.SIGTERM)

    # -- the loop

    def _watch(self, reader: int, begin: float) -> None:
        """Serve the command until it and all that it started are gone and its output is read."""
        spec, use, log = self.spec, self._use, self._log
        assert use is not None
        assert log is not None
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        if self._wake[0] >= 0:
            poll.register(self._wake[0], select.POLLIN)
        every = float(spec.get("sample_every") or 5.0)
        timeout, stall = spec.get("timeout"), spec.get("stall")
        next_sample, next_look = begin + min(_FIRST_SAMPLE, every), begin + 1.0
        lively, metrics_size = begin, 0
        opened, ended_at, asked_at, killed_at = True, 0.0, 0.0, 0.0
        while True:
            moment = time.monotonic()
            waits = [next_sample, next_look, self._next_beat]
            if self._stop is not None:
                waits.append(self._kill_at)
            else:
                waits += [begin + timeout] if timeout is not None else []
                waits += [lively + stall] if stall is not None else []
            wait = max(0.0, min(waits) - moment)
            if self._status is not None:
                wait = min(wait, 0.02)
            elif self._wake[0] < 0:
                wait = min(wait, 0.05)
            for fd, _ in poll.poll(int(wait * 1000) + 1):
                if fd == reader:
                    got = self._read_some(reader)
                    if got is None:
                        poll.unregister(reader)
                        opened = False
                    elif got:
                        lively = time.monotonic()
                else:
                    os.read(fd, 4096)
            self._reap()
            moment = time.monotonic()
            if len(self.signals) > self._seen or moment >= next_look:
                next_look = moment + 1.0
                self._look_for_stop()
            self._beat(moment)
            if log.error is not None and self._store_error is None:
                self._store_error = log.error
                self._ask_to_end(STORE, "the log cannot be written")
            if moment >= next_sample:
                next_sample = moment + every
                try:
                    use.sample()
                except (OSError, ValueError):
                    pass  # a figure less is no reason to fail
                if use.devices and not self._record["devices"]:
                    self._record["devices"] = use.devices
                    write_json_atomic(self._path("attempt.json"), self._record)
            if self._status is None:
                if timeout is not None and moment - begin >= timeout:
                    self._ask_to_end(TIMEOUT, "the timeout of %g s is over" % timeout)
                if stall is not None and moment - lively >= stall:
                    size = self._metrics_size()
                    if size != metrics_size:
                        lively, metrics_size = moment, size
                    else:
                        self._ask_to_end(STALLED, "no output and no metrics for %g s" % stall)
                if self._stop is not None and moment >= self._kill_at:
                    self._signal_all(signal.SIGKILL)
                    self._kill_at = moment + 0.05
                continue
            # The command has ended; see what it left.
            ended_at = ended_at or moment
            if not self._left():
                if not opened or moment - ended_at > 1.0:
                    return
                continue
            if self._stop is not None and moment < self._kill_at:
                if moment - asked_at > 0.1:
                    asked_at = moment
                    self._pass_on_to_orphans()
            elif not asked_at:
                quiet = not opened or moment - lively > _QUIET
                if self._stop is not None or (quiet and moment - ended_at > 0.05) or moment - ended_at > _DRAIN:
                    asked_at = moment
                    if self._stop is None:
                        log.note("the command has ended and left processes behind: they are ended too")
                        self._signal_all(signal.SIGTERM)
            elif not killed_at:
                if moment - asked_at > _TERM or self._stop is not None:
                    killed_at = moment
                    self._signal_all(signal.SIGKILL)
            elif moment - killed_at > _GIVE_UP:
                log.note("some of them cannot be killed")
                return
            else:
                self._signal_all(signal.SIGKILL)

    def _read_some(self, reader: int) -> Optional[bool]:
        """Read what is there, within a bound; None at the end of the output, else whether there was any."""
        assert self._log is not None
        for turn in range(16):
            try:
                data = os.read(reader, _CHUNK)
            except BlockingIOError:
                return turn > 0
            if not data:
                return None
            self._log.feed(data)
        return True

    def _metrics_size(self) -> int:
        try:
            return os.stat(self._path("metrics.jsonl")).st_size
        except OSError:
            return 0

    def _beat(self, moment: Optional[float] = None) -> None:
        moment = time.monotonic() if moment is None else moment
        if moment >= self._next_beat:
            self._next_beat = moment + HEARTBEAT_EVERY
            try:
                os.utime(self._path("heartbeat"))
            except OSError:
                pass

    # -- publishing

    def _finish(self, seconds: float) -> int:
        """Say what became of it: ``attempt.json``, and for a success ``result.json``, last."""
        if self._status:
            before, after = self._oom_before, oom_kills()
            self._oom_killed = before is not None and after is not None and after > before
        if self._log is not None:
            self._log.close()
            self._store_error = self._store_error or self._log.error
        if self._use is not None:
            self._use.close()
        record = self._record
        code = os.WEXITSTATUS(self._status) if self._status is not None and os.WIFEXITED(self._status) else None
        signum = os.WTERMSIG(self._status) if self._status is not None and os.WIFSIGNALED(self._status) else None
        if self._bad >= 0:
            error = b"" if self._status in (None, 0) else os.read(self._bad, 4096)
            os.close(self._bad)
            if error:
                self._failure = self._failure or self._cannot_start(error.decode("utf-8", "replace"))
        found = self._what_failed(code, signum)
        beside = ""
        result_path = os.path.join(self.task_dir, "result.json")
        ended = self._started + seconds
        record.update(state="ended", ended=now(ended), exit_code=code, signal=signum)
        if found is None:
            try:
                # To wait for the disk costs more than a short task: after a power failure that is run again.
                beside = _write_beside(result_path, self._result(ended, seconds), durable=seconds >= 1)
            except Malformed as error:
                found = failure(USER, "The command succeeded, but %s." % error)
            except OSError as error:
                found = self._store_failure(error)
        record["outcome"] = "succeeded" if found is None else "failed"
        record["failure"] = found
        record["usage"] = (self._use or Use("", self.spec, 0, True)).summary(seconds)
        newest = self._checkpointed()
        record["checkpointed"] = None if newest is None else now(newest)
        record["lost_seconds"] = 0 if found is None else round(max(0.0, ended - (newest or self._started)), 3)
        try:
            write_json_atomic(self._path("attempt.json"), record)
            if found is None:
                _publish(beside, result_path)
            self._recorded = True
        except OSError as error:
            found = record["failure"] = self._store_failure(error)
            record.update(outcome="failed", lost_seconds=round(seconds, 3))
            try:
                write_json_atomic(self._path("attempt.json"), record)
                self._recorded = True
            except OSError:
                pass  # the exit status still says it
        return 0 if found is None else EXIT_CODES[found["class"]]

    def _result(self, ended: float, seconds: float) -> Dict[str, Any]:
        spec = self.spec
        result = {key: spec[key] for key in ("format", "study", "step", "task", "params", "attempt")}
        result["metrics"] = read_metrics(self.dir, self.out)
        result["outputs"] = digest_tree(self.out, self._beat)
        result["inputs"] = spec.get("input_digests") or {}
        result["data"] = {name: place.get("digest") for name, place in (spec.get("data") or {}).items()}
        result.update(
            code=spec.get("code"),
            started=self._record["started"],
            ended=now(ended),
            seconds=round(seconds, 3),
        )
        return result

    def _what_failed(self, code: Optional[int], signum: Optional[int]) -> Optional[Failure]:
        spec = self.spec
        killed = " It had to be killed after %g s of grace." % spec["grace"] if signum == signal.SIGKILL else ""
        tail = [] if self._log is None else self._log.tail.decode("utf-8", "replace").splitlines()[-5:]
        if self._stop in (PREEMPTED, CANCELLED):
            word = "Preempted" if self._stop == PREEMPTED else "Cancelled"
            return failure(self._stop, "%s: %s." % (word, self._why))
        if self._failure is not None:
            return self._failure
        if self._store_error is not None:
            return self._store_failure(self._store_error)
        if self._stop == TIMEOUT:
            return failure(TIMEOUT, "Not done within its timeout of %g s.%s" % (spec["timeout"], killed), tail)
        if self._stop == STALLED:
            message = "Stalled: no output and no metrics for %g s.%s" % (spec["stall"], killed)
            return failure(STALLED, message, tail)
        if self._status is None:
            return failure(NODE_LOST, "The command could not be ended: a process of it cannot be killed.")
        if code == 0:
            return None
        log = b"" if self._log is None else self._log.tail
        return explain(code, signum, log, self._oom_killed, self.argv)

    def _store_failure(self, error: OSError) -> Failure:
        where = " (%s)" % error.filename if error.filename else ""
        return failure(STORE, "The store cannot be read or written: %s%s." % (error.strerror or error, where))

    def _checkpointed(self) -> Optional[float]:
        newest = newest_change(self.spec["checkpoints"])
        # Some file systems keep times by the kernel's tick, a few milliseconds behind the clock.
        return newest if newest >= self._started - 0.01 else None


_oom_score: List[int] = []


def _prefer_for_oom(pid: int) -> None:
    """Make ``pid`` likelier to be chosen by the kernel than the agent, which has to tell the tale."""
    try:
        if not _oom_score:
            _oom_score.append(int(_read("/proc/self/oom_score_adj")))
        fd = os.open("/proc/%d/oom_score_adj" % pid, os.O_WRONLY)
        try:
            os.write(fd, b"%d" % min(1000, _oom_score[0] + 200))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        pass


def run(spec_path: str, tee: bool = False) -> Tuple[int, bool]:
    """Run the attempt that ``spec_path`` describes; no other child may belong to this process.

    Returns the exit status, and whether the process is as good as new.
    """
    try:
        attempt = Attempt(spec_path, tee)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _write_all(2, ("shoal agent: cannot read %s: %r\n" % (spec_path, error)).encode("utf-8", "replace"))
        return EXIT_SPEC, False
    try:
        return attempt.run(), attempt.clean
    except OSError as error:  # not even the claim could be written
        _write_all(2, ("shoal agent: %s\n" % error).encode("utf-8", "replace"))
        return EXIT_CODES[STORE], False
    except Exception as error:  # a bug while publishing: the attempt is not over by its record, so it is lost
        _write_all(2, ("shoal agent: %r\n" % error).encode("utf-8", "replace"))
        return EXIT_CODES[NODE_LOST], False


# ---------------------------------------------------------------------------------------------------- serve


class _Worker:
    """An agent that the server has forked: busy with an attempt, or waiting for its next one."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid, self.fd = pid, fd
        self.start = process_start(pid)
        self.path: Optional[str] = None


def serve() -> int:
    """Hand each request on standard input to an agent of its own, until that is closed.

    A request is a line ``{"run": SPEC_PATH}``; answers are lines ``{"run", "pid", "start"}`` when its agent has
    begun and ``{"end": SPEC_PATH, "code"}`` when it has ended (a negative code is the signal that killed the
    agent). Agents are forked, and used again when an attempt has ended well: a new interpreter costs twenty
    milliseconds, a fork a few, an agent that waits almost nothing. An agent serves one attempt at a time
    and ends it even if the server is gone.
    """
    import gc

    _prctl(_PDEATHSIG, 0)  # loads ctypes once, for all of the agents
    _boot_id()
    oom_kills()
    control = os.dup(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    gc.freeze()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    workers: Dict[int, _Worker] = {}
    idle: List[_Worker] = []
    pending = b""
    while True:
        answers: List[Dict[str, Any]] = []
        for fd, _ in poll.poll():
            data = _receive(fd)
            if fd != control:
                worker = workers[fd]
                if data:
                    answers.append({"end": worker.path, "code": int(data)})
                    worker.path = None
                    idle.append(worker)
                    continue
                poll.unregister(fd)
                os.close(fd)
                del workers[fd]
                status = os.waitpid(worker.pid, 0)[1]
                code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
                if worker.path is None:
                    idle.remove(worker)
                else:
                    answers.append({"end": worker.path, "code": code})
                continue
            if not data:
                return 0
            *requests, pending = (pending + data).split(b"\n")
            for request in requests:
                worker = idle.pop() if idle else _fork_worker([control, *workers])
                if worker.fd not in workers:
                    workers[worker.fd] = worker
                    poll.register(worker.fd, select.POLLIN)
                worker.path = json.loads(request)["run"]
                try:
                    os.write(worker.fd, json.dumps(worker.path).encode("ascii") + b"\n")
                except OSError:
                    pass  # it has just been killed: the end of its stream comes next
                answers.append({"run": worker.path, "pid": worker.pid, "start": worker.start})
        if answers:
            _write_all(control, b"".join(json.dumps(answer).encode("ascii") + b"\n" for answer in answers))


def _receive(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK)
    except ConnectionResetError:
        return b""


def _fork_worker(others: List[int]) -> _Worker:
    import socket

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        code = EXIT_CODES[NODE_LOST]
        try:
            os.setsid()
            ours.close()
            for fd in others:
                os.close(fd)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            code = _work(theirs.detach())
        finally:
            os._exit(code)
    theirs.close()
    return _Worker(pid, ours.detach())


def _work(fd: int) -> int:
    """In a forked agent: run one attempt after another, as the server asks."""
    pending = b""
    while True:
        while b"\n" not in pending:
            data = _receive(fd)
            if not data:
                return 0
            pending += data
        line, _, pending = pending.partition(b"\n")
        code, clean = run(json.loads(line))
        if not clean:
            return code
        try:
            os.write(fd, b"%d\n" % code)
        except OSError:
            return code  # the server is gone


def main(argv: List[str]) -> int:
    """Run the command line; return the exit status."""
    if argv == ["--serve"]:
        return serve()
    rest = [arg for arg in argv if arg != "--tee"]
    if len(rest) != 1 or rest[0].startswith("-"):
        _write_all(2, b"usage: agent.py SPEC_JSON [--tee] | --serve\n")
        return EXIT_SPEC
    return run(rest[0], tee="--tee" in argv)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
