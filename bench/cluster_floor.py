"""The floor of part (h): Jobs created in parallel, or one by one, and one watch until all are over. No part of Shoal.

    python cluster_floor.py KUBECONFIG NAMESPACE FOLDER WORKERS
    python cluster_floor.py KUBECONFIG NAMESPACE FOLDER WORKERS stop

Reads manifests from FOLDER, and with 0 workers creates nothing and only watches. Prints the seconds at which all were created
and at which all were over, the CPU seconds, and how often the watch was opened.

With ``stop`` the Jobs never end by themselves: when all of their pods run, all are deleted, and what is printed are the seconds
from then on until no container runs and no Job is left, and until the pods are gone too.
"""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import resource
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LONGEST = 900.0
LABEL = "batch.kubernetes.io/job-name"
Sees = Callable[[str, dict], bool]


def job_is_over(kind: str, job: dict) -> bool:
    conditions = job.get("status", {}).get("conditions") or []
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def pod_runs(kind: str, pod: dict) -> bool:
    return pod["status"].get("phase") == "Running"


def pod_is_over(kind: str, pod: dict) -> bool:
    return kind == "DELETED" or pod["status"].get("phase") in ("Succeeded", "Failed")


def is_gone(kind: str, one: dict) -> bool:
    return kind == "DELETED"


class Server:
    """Plain requests, on one connection a thread."""

    def __init__(self, kubeconfig: str) -> None:
        config = yaml.safe_load(Path(kubeconfig).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._context = ssl.create_default_context(
            cadata=base64.b64decode(cluster["certificate-authority-data"]).decode()
        )
        with tempfile.NamedTemporaryFile() as pair:
            for name in ("client-certificate-data", "client-key-data"):
                pair.write(base64.b64decode(user[name]))
            pair.flush()
            self._context.load_cert_chain(pair.name)
        self._where = urllib.parse.urlsplit(cluster["server"])
        self._mine = threading.local()

    def connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._where.hostname or "", self._where.port, context=self._context)

    def send(self, verb: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        if not hasattr(self._mine, "connection"):
            self._mine.connection = self.connect()
        self._mine.connection.request(verb, path, body, {"Content-Type": "application/json"})
        answer = self._mine.connection.getresponse()
        return answer.status, answer.read()


class Watch(threading.Thread):
    """Watches until all Jobs, or the pods of all, are seen as wanted. A server ends watches as it likes: this goes on from the
    last version that it heard of, and lists again where that is too old."""

    def __init__(self, server: Server, path: str, names: set[str], version: str, sees: Sees = job_is_over) -> None:
        super().__init__(daemon=True)
        self._server, self._path, self._version, self._sees = server, path, version, sees
        self.left = set(names)
        self.opened = 0
        self.error: BaseException | None = None

    def run(self) -> None:
        until = time.monotonic() + LONGEST
        try:
            while self.left and time.monotonic() < until:
                if not self._version:
                    self._list()
                self._follow()
        except BaseException as error:
            self.error = error

    def wait(self) -> None:
        """Until it has seen all; exits if it does not."""
        self.join()
        if self.left:
            raise SystemExit(f"{len(self.left)} are left of what was waited for; the watch: {self.error or 'too long'}")

    def _list(self) -> None:
        _, text = self._server.send("GET", self._path)
        found = json.loads(text)
        for one in found["items"]:
            self._see("ADDED", one)
        if self._sees is is_gone:
            self.left &= {_name(one) for one in found["items"]}
        self._version = found["metadata"]["resourceVersion"]

    def _follow(self) -> None:
        self.opened += 1
        connection = self._server.connect()
        try:
            connection.request("GET", f"{self._path}?watch=true&resourceVersion={self._version}&timeoutSeconds=3000")
            answer = connection.getresponse()
            if answer.status != 200:
                self._version = ""
                return
            while self.left and (line := answer.readline()):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self._version = ""
                    return
                self._version = event["object"]["metadata"]["resourceVersion"]
                self._see(event["type"], event["object"])
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            pass  # cut: go on
        finally:
            connection.close()

    def _see(self, kind: str, one: dict) -> None:
        if self._sees(kind, one):
            self.left.discard(_name(one))


def _name(one: dict) -> str:
    """A Job's name, or that of a pod's Job."""
    meta = one["metadata"]
    return str((meta.get("labels") or {}).get(LABEL) or meta["name"])


def main(kubeconfig: str, namespace: str, folder: str, workers: int, then: str = "") -> None:
    begin = time.perf_counter()
    server = Server(kubeconfig)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    pods = f"/api/v1/namespaces/{namespace}/pods"
    bodies, names = [], set()
    for file in sorted(Path(folder).glob("*/*.yaml")):
        for one in yaml.load_all(file.read_text(), LOADER):
            if one["kind"] == "Job":
                bodies.append(json.dumps(one).encode())
                names.add(one["metadata"]["name"])
            elif workers:
                path = f"/api/v1/namespaces/{namespace}/{one['kind'].lower()}s"
                server.send("POST", path, json.dumps(one).encode())

    def create(body: bytes) -> None:
        status, data = server.send("POST", jobs, body)
        if status != 201:
            raise SystemExit(f"{status}: {data[:300]!r}")

    # Without workers somebody else has created them: what there is comes first.
    version = _version(server, jobs) if workers else ""
    watch = Watch(server, pods, names, version, pod_runs) if then else Watch(server, jobs, names, version)
    watch.start()
    if workers:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(create, bodies))
    created = time.perf_counter() - begin
    watch.wait()
    if then:
        print(json.dumps(_stop(server, jobs, pods, names)))
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"created": created, "over": time.perf_counter() - begin, "cpu": used.ru_utime + used.ru_stime}
    print(json.dumps({**figures, "watches": watch.opened}))


def _version(server: Server, path: str) -> str:
    return str(json.loads(server.send("GET", path + "?limit=1")[1])["metadata"]["resourceVersion"])


def _stop(server: Server, jobs: str, pods: str, names: set[str]) -> dict[str, float]:
    """Delete all that runs, by two requests: the Jobs, then their pods, to which else the garbage collector gets one by one."""
    time.sleep(2.0)  # until the Jobs have heard that their pods run
    ended = Watch(server, pods, names, _version(server, pods), pod_is_over)
    removed = Watch(server, jobs, names, _version(server, jobs), is_gone)
    gone = Watch(server, pods, names, _version(server, pods), is_gone)
    for one in (ended, removed, gone):
        one.start()
    begin = time.perf_counter()
    options = json.dumps({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}).encode()
    for path in (jobs, pods):
        status, data = server.send("DELETE", path, options)
        if status not in (200, 202):
            raise SystemExit(f"{status}: {data[:300]!r}")
    ended.wait()
    removed.wait()
    over = time.perf_counter() - begin
    gone.wait()
    return {"tasks": float(len(names)), "over": over, "gone": time.perf_counter() - begin}


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]), *sys.argv[5:])
