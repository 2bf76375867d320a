"""The floor of part (h): Jobs created in parallel, or one by one, and one watch until all are over. No part of Shoal.

    python cluster_floor.py KUBECONFIG NAMESPACE FOLDER WORKERS

Reads manifests from FOLDER, and with 0 workers creates nothing and only watches. Prints the seconds at which all were created
and at which all were over, the CPU seconds, and how often the watch was opened.
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
from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LONGEST = 900.0


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
    """Watches Jobs until all are over. A server ends watches as it likes: this goes on from the last version that it heard of,
    and lists again where that is too old."""

    def __init__(self, server: Server, jobs: str, names: set[str], version: str) -> None:
        super().__init__(daemon=True)
        self._server, self._jobs, self._version = server, jobs, version
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

    def _list(self) -> None:
        _, text = self._server.send("GET", self._jobs)
        found = json.loads(text)
        for one in found["items"]:
            self._see(one)
        self._version = found["metadata"]["resourceVersion"]

    def _follow(self) -> None:
        self.opened += 1
        connection = self._server.connect()
        try:
            connection.request("GET", f"{self._jobs}?watch=true&resourceVersion={self._version}&timeoutSeconds=3000")
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
                self._see(event["object"])
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            pass  # cut: go on
        finally:
            connection.close()

    def _see(self, job: dict) -> None:
        conditions = job.get("status", {}).get("conditions") or []
        if any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions):
            self.left.discard(job["metadata"]["name"])


def main(kubeconfig: str, namespace: str, folder: str, workers: int) -> None:
    begin = time.perf_counter()
    server = Server(kubeconfig)
    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
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
    version = json.loads(server.send("GET", jobs + "?limit=1")[1])["metadata"]["resourceVersion"] if workers else ""
    watch = Watch(server, jobs, names, version)
    watch.start()
    if workers:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(create, bodies))
    created = time.perf_counter() - begin
    watch.join()
    if watch.left:
        raise SystemExit(f"{len(watch.left)} of {len(names)} Jobs are not over; the watch: {watch.error or 'too long'}")
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"created": created, "over": time.perf_counter() - begin, "cpu": used.ru_utime + used.ru_stime}
    print(json.dumps({**figures, "watches": watch.opened}))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
