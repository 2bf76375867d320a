"""Brings to a pod's disk what its attempt needs from a bucket, and back what it leaves: for clusters without a shared claim.

The bucket holds the files of docs/reference/files.md under the same names. Two small files are there besides, since an object
store has neither folders nor links and does not write several files at once: ``out.json`` and ``checkpoints.json`` list what
belongs together, and are written after it. Checkpoints go up while the task runs, each set of them beside the one before,
so that whenever the pod dies there is one that is whole. ``result.json`` is written last.

Like the agent this is one file of the standard library of Python 3.8.
"""

import concurrent.futures
import functools
import json
import os
import shutil
import sys
import threading
import time
import uuid
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

THREADS = 8
SYNC_EVERY = 30.0
_SETTLED = 2.0  # a file that changed a moment ago may be half written
_PATIENCE = 1800.0  # for the first of several nodes
_LOG_STEP = 1 << 20  # a log that is longer goes up again when it has grown by a quarter
_RECORDS = ("spec.json", "attempt.json", "metrics.jsonl", "usage.jsonl", "environment.json", "log.txt")

Digest = Callable[[str], Dict[str, Any]]


class Broken(LookupError):
    """What is in the bucket is not whole; the text is a sentence."""


class Staging:
    """One attempt's files, between a bucket and this disk.

    Args:
        bucket: an ``s3.Bucket``.
        spec: the specification; its key ``bucket`` says which prefix of the bucket is which folder here.
        digest: the agent's ``digest_tree``.
        rank: of this node among those of the task; only the first writes outputs and checkpoints.
        every: seconds between two looks for what is new.
    """

    def __init__(
        self, bucket: Any, spec: Dict[str, Any], digest: Digest, rank: int = 0, every: float = SYNC_EVERY
    ) -> None:
        place = spec["bucket"]
        self._bucket, self._digest, self._rank, self._every = bucket, digest, rank, every
        self._root, self._prefix = place["root"].rstrip("/"), place["prefix"]
        self._spec = spec
        self._attempt = spec["attempt_dir"]
        self._checkpoints = spec["checkpoints"]
        self._task = os.path.dirname(self._checkpoints)
        self._sent = {}  # type: Dict[str, Tuple[int, int]]
        self._kept = {}  # type: Dict[str, Any]  # checkpoints.json as it is in the bucket
        self._stamps = {}  # type: Dict[str, Tuple[int, int, int]]
        self._over = threading.Event()
        self._thread = None  # type: Optional[threading.Thread]

    def key(self, path: str) -> str:
        """Return the object's key of a file below the store's folder."""
        relative = os.path.relpath(path, self._root)
        if relative.startswith(".."):
            raise ValueError("%s is not below %s" % (path, self._root))
        try:
            relative.encode("utf-8")
        except UnicodeEncodeError:
            raise Broken("a bucket cannot hold the file name %a" % relative) from None
        return "%s/%s" % (self._prefix, relative) if self._prefix else relative

    # -- before the command

    def claim(self, who: Dict[str, Any]) -> bool:
        """Take the attempt for this pod, once and for all; False when another has it."""
        body = json.dumps(dict(who, claim=uuid.uuid4().hex)).encode("utf-8")
        return bool(self._bucket.create(self.key(os.path.join(self._attempt, "heartbeat")), body))

    def bring_records(self, paths: List[str]) -> None:
        """Bring small files of an attempt that another pod has, as far as they are there."""
        for path in paths:
            self._bring_small(path)

    def sign(self) -> Optional[int]:
        """Return what changes as long as the pod lives that has the attempt: how much use it has recorded."""
        size = self._bucket.size(self.key(os.path.join(self._attempt, "usage.jsonl")))
        return None if size is None else int(size)

    def bring_inputs(self) -> None:
        """Bring the outputs of what the task needs, compared with what their results say.

        Raises:
            Broken: an input is not there, or not what its result says.
            OSError: the bucket or the disk fails.
        """
        for folders in self._spec["inputs"].values():
            for out in folders:
                self._bring_input(out)

    def bring_checkpoints(self) -> None:
        """Bring where to resume from; what is nothing to resume from is removed. To be called with the inputs' digests known.

        Raises:
            Broken, OSError: as `bring_inputs`.
        """
        number = int(self._spec["attempt"])
        ready = self.key(os.path.join(self._task, "attempts", str(number), "nodes", "ready"))
        many = int((self._spec.get("resources") or {}).get("nodes") or 1) > 1
        if self._rank == 0:
            before = os.path.join(self._task, "attempts", str(number - 1), "spec.json")
            for path in [os.path.join(self._task, "result.json")] + ([before] if number > 1 else []):
                self._bring_small(path)
            if clear(self._spec, self._task):
                self._drop_checkpoints()
            # From here on the task is not done, whatever happens next.
            self._bucket.delete(self.key(os.path.join(self._task, "result.json")))
            if many:
                self._bucket.put(ready, b"{}")
        elif many:
            # The first node decides which checkpoints count.
            until = time.monotonic() + _PATIENCE
            while self._bucket.size(ready) is None:
                if time.monotonic() > until:
                    raise Broken("the first node of the task did not get ready")
                time.sleep(1.0)
        kept = self._bring_small(os.path.join(self._task, "checkpoints.json"))
        if kept is not None:
            self._kept = json.loads(kept.decode("utf-8"))
            self._download(self._kept, self._checkpoints)
            self._stamps = {path: _stamp(os.path.join(self._checkpoints, path)) for path in self._kept["files"]}
        for folder in (self._checkpoints, os.path.join(self._task, "out")):
            os.makedirs(folder, exist_ok=True)

    def _bring_small(self, path: str) -> Optional[bytes]:
        data = self._bucket.get(self.key(path))
        if data is not None:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
        return data  # type: ignore[no-any-return]

    def _bring_input(self, out: str) -> None:
        task = os.path.dirname(out)
        result = self._bring_small(os.path.join(task, "result.json"))
        if result is None:
            raise Broken("an input is not in the store: %s has no result.json" % self.key(task))
        said = json.loads(result.decode("utf-8")).get("outputs")
        if not said:  # what a person approved has no outputs
            return
        listed = self._bucket.get(self.key(os.path.join(task, "out.json")))
        if listed is not None:
            tree = json.loads(listed.decode("utf-8"))
        else:  # a store that was copied here by other means
            prefix = self.key(out) + "/"
            names = ((key[len(prefix) :], size) for key, size in self._bucket.list(prefix))
            tree = {"files": {name: {"key": "out/" + name, "size": size} for name, size in names}}
        self._download(tree, out)
        os.makedirs(out, exist_ok=True)
        if self._digest(out)["digest"] != said.get("digest"):
            raise Broken("an input is not whole: %s is not what its result.json says" % self.key(out))

    def _download(self, tree: Dict[str, Any], folder: str) -> None:
        home = self.key(os.path.dirname(folder))
        root = os.path.realpath(folder)

        def place(path: str) -> str:
            found = os.path.normpath(os.path.join(root, path))
            if not found.startswith(root + os.sep):
                raise Broken("a file list leads out of its folder: %r" % path)
            return found

        def one(path: str, entry: Dict[str, Any]) -> None:
            target = place(path)
            self._bucket.download("%s/%s" % (home, entry["key"]), target, entry.get("size"))
            if entry.get("executable"):
                os.chmod(target, 0o755)

        _all([functools.partial(one, path, entry) for path, entry in tree["files"].items()])
        # Links come last, so that no file is written through one.
        for path, target in (tree.get("links") or {}).items():
            os.makedirs(os.path.dirname(place(path)), exist_ok=True)
            os.symlink(target, place(path))

    def _drop_checkpoints(self) -> None:
        kept = self._bucket.get(self.key(os.path.join(self._task, "checkpoints.json")))
        if kept is None:
            return
        self._bucket.delete(self.key(os.path.join(self._task, "checkpoints.json")))
        for entry in json.loads(kept.decode("utf-8"))["files"].values():
            self._bucket.delete("%s/%s" % (self.key(self._task), entry["key"]))

    # -- while it runs

    def start(self) -> None:
        """Begin to send what is new now and then."""
        self._thread = threading.Thread(target=self._watch, name="staging", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            try:
                self.beat()
                self.send_records()
                self.send_checkpoints()
            except (OSError, Broken, ValueError) as error:
                # The next round tries again; the last one says it.
                sys.stderr.write("[shoal] the store does not answer, trying again: %s\n" % error)

    def stop(self) -> None:
        """End what `start` began; what is on its way arrives first."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def beat(self) -> None:
        """Give a sign of life: the object's time is when this was."""
        try:
            with open(os.path.join(self._attempt, "heartbeat"), "rb") as file:
                self._bucket.put(self.key(os.path.join(self._attempt, "heartbeat")), file.read())
        except FileNotFoundError:
            pass

    def send_records(self, last: bool = False) -> None:
        """Send the attempt's small files that have changed."""
        for name in _RECORDS:
            path = os.path.join(self._attempt, name)
            try:
                info = os.stat(path)
            except FileNotFoundError:
                continue
            stamp = (info.st_size, info.st_mtime_ns)
            before = self._sent.get(path)
            if before == stamp:
                continue
            if not last and before and info.st_size > _LOG_STEP and info.st_size < before[0] * 1.25:
                continue
            self._bucket.upload(self.key(path), path)
            self._sent[path] = stamp

    def send_checkpoints(self, last: bool = False) -> bool:
        """Send the checkpoints if there are new ones and nothing is being written to them.

        The files that have changed are put beside those of before; then the list of files is written, which makes the new set
        the one that counts; then what it does not name is removed.

        Returns:
            Whether the bucket has them as they are here.
        """
        if self._rank:
            return True
        try:
            return self._send_checkpoints(last)
        except FileNotFoundError:  # it was renamed or removed meanwhile
            return False

    def _send_checkpoints(self, last: bool) -> bool:
        found, links = _walk(self._checkpoints)
        stamps = {path: _stamp(os.path.join(self._checkpoints, path)) for path in found}
        if stamps == self._stamps and links == (self._kept.get("links") or {}):
            return True
        newest = max((stamp[1] for stamp in stamps.values()), default=0)
        if not last and time.time() - newest / 1e9 < _SETTLED:
            return False
        before = self._kept.get("files") or {}
        number = int(self._kept.get("number") or 0) + 1
        files = {}
        changed = []
        for path in found:
            if path in before and stamps[path] == self._stamps.get(path):
                files[path] = before[path]
            else:
                self.key(os.path.join(self._checkpoints, path))
                files[path] = _entry("checkpoints/%d/%s" % (number, path), self._checkpoints, path)
                changed.append(path)
        home = self.key(self._task)
        _all([self._sender(home, files[path], self._checkpoints, path) for path in changed])
        if {path: _stamp(os.path.join(self._checkpoints, path)) for path in _walk(self._checkpoints)[0]} != stamps:
            return False  # it was written to meanwhile: the set may not fit together
        self._kept = {"format": 1, "number": number, "files": files, "links": links}
        self._bucket.put(home + "/checkpoints.json", json.dumps(self._kept).encode("utf-8"))
        self._stamps = stamps
        kept = {entry["key"] for entry in files.values()}
        for entry in before.values():
            if entry["key"] not in kept:
                self._bucket.delete("%s/%s" % (home, entry["key"]))
        return True

    def _sender(self, home: str, entry: Dict[str, Any], folder: str, path: str) -> Callable[[], None]:
        def send() -> None:
            entry["size"] = self._bucket.upload("%s/%s" % (home, entry["key"]), os.path.join(folder, path))

        return send

    # -- after it

    def publish(self, succeeded: bool) -> None:
        """Send all that the attempt leaves; of a success, the result last.

        Raises:
            Broken, OSError: it did not arrive; the task is not done then.
        """
        if succeeded and self._rank == 0:
            self._send_outputs()
        else:
            for _ in range(3):
                if self.send_checkpoints(last=True):
                    break
        self.send_records(last=True)
        if succeeded:
            folder = self._spec["task_dir"]
            self._bucket.upload(self.key(os.path.join(folder, "result.json")), os.path.join(folder, "result.json"))

    def _send_outputs(self) -> None:
        out = os.path.join(self._task, "out")
        home = self.key(self._task)
        old = self._bucket.get(home + "/out.json")
        found, links = _walk(out)
        for path in found:
            self.key(os.path.join(out, path))
        files = {path: _entry("out/" + path, out, path) for path in found}
        _all([self._sender(home, files[path], out, path) for path in found])
        self._bucket.put(home + "/out.json", json.dumps({"format": 1, "files": files, "links": links}).encode("utf-8"))
        for path in json.loads(old.decode("utf-8"))["files"] if old else ():
            if path not in files:
                self._bucket.delete("%s/out/%s" % (home, path))


def clear(spec: Dict[str, Any], task: str) -> bool:
    """Remove checkpoints that are nothing to resume from: of a run that was finished, or of other inputs. Say whether.

    The same rule as the runner's for a folder of its own.
    """
    done = os.path.exists(os.path.join(task, "result.json"))
    number = int(spec["attempt"])
    before = None
    try:
        with open(os.path.join(task, "attempts", str(number - 1), "spec.json"), "rb") as file:
            before = json.loads(file.read().decode("utf-8"))
    except (OSError, ValueError):
        pass
    same = before is not None and all(
        _made_from(before, key) == _made_from(spec, key) for key in ("input_digests", "data")
    )
    if not (done or (before is not None and not same)):
        return False
    shutil.rmtree(spec["checkpoints"], ignore_errors=True)
    return True


def _made_from(spec: Dict[str, Any], key: str) -> Dict[str, Any]:
    found = spec.get(key) or {}
    return {name: value.get("digest") if isinstance(value, dict) else value for name, value in found.items()}


def _walk(folder: str) -> Tuple[List[str], Dict[str, str]]:
    """Return the files below a folder, and its links with their targets; paths with slashes, sorted."""
    files, links = [], {}
    for path in _below(folder, ""):
        full = os.path.join(folder, path)
        if os.path.islink(full):
            links[path] = os.readlink(full)
        elif os.path.isfile(full):
            files.append(path)
    return sorted(files), links


def _below(folder: str, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(os.path.join(folder, prefix)))
    except FileNotFoundError:
        return
    for entry in entries:
        path = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            for below in _below(folder, path + "/"):
                yield below
        else:
            yield path


def _entry(key: str, folder: str, path: str) -> Dict[str, Any]:
    entry = {"key": key}  # type: Dict[str, Any]
    if os.stat(os.path.join(folder, path)).st_mode & 0o100:
        entry["executable"] = True
    return entry


def _stamp(path: str) -> Tuple[int, int, int]:
    try:
        info = os.stat(path)
    except FileNotFoundError:
        return 0, 0, 0
    return info.st_size, info.st_mtime_ns, info.st_ino


def _all(jobs: List[Callable[[], None]]) -> None:
    """Do all, several at once; the first error ends it."""
    pool = concurrent.futures.ThreadPoolExecutor(THREADS)
    running = [pool.submit(job) for job in jobs]
    try:
        for one in running:
            one.result()
    except BaseException:
        for one in running:
            one.cancel()
        raise
    finally:
        pool.shutdown(wait=False)
