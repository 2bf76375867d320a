"""The floor of part (h): Jobs created in parallel, or one by one, and one watch until all are over. No part of Shoal.

    python cluster_floor.py KUBECONFIG NAMESPACE FOLDER WORKERS

Reads manifests from FOLDER, and with 0 workers creates nothing and only watches. Prints the seconds at which all were created
and at which all were over.
"""

from __future__ import annotations

import base64
import concurrent.futures
import http.client
import json
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path

import yaml

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def main(kubeconfig: str, namespace: str, folder: str, workers: int) -> None:
    begin = time.perf_counter()
    config = yaml.safe_load(Path(kubeconfig).read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    context = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
    with tempfile.NamedTemporaryFile() as pair:
        for name in ("client-certificate-data", "client-key-data"):
            pair.write(base64.b64decode(user[name]))
        pair.flush()
        context.load_cert_chain(pair.name)
    where = urllib.parse.urlsplit(cluster["server"])
    mine = threading.local()

    def send(verb: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
        if not hasattr(mine, "connection"):
            mine.connection = http.client.HTTPSConnection(where.hostname, where.port, context=context)
        mine.connection.request(verb, path, body, {"Content-Type": "application/json"})
        return mine.connection.getresponse()

    jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    bodies = []
    for file in sorted(Path(folder).glob("*/*.yaml")):
        for one in yaml.load_all(file.read_text(), LOADER):
            if one["kind"] == "Job":
                bodies.append(json.dumps(one).encode())
            elif workers:
                path = f"/api/v1/namespaces/{namespace}/{one['kind'].lower()}s"
                send("POST", path, json.dumps(one).encode()).read()

    def create(body: bytes) -> None:
        answer = send("POST", jobs, body)
        data = answer.read()
        if answer.status != 201:
            raise SystemExit(f"{answer.status}: {data[:300]!r}")

    version = json.loads(send("GET", jobs + "?limit=1").read())["metadata"]["resourceVersion"] if workers else "0"
    watched = threading.Thread(target=watch, args=(send, jobs, len(bodies), version))
    watched.start()
    if workers:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(create, bodies))
    created = time.perf_counter() - begin
    watched.join()
    print(json.dumps({"created": created, "over": time.perf_counter() - begin}))


def watch(send, jobs: str, count: int, version: str) -> None:
    over = set()
    answer = send("GET", f"{jobs}?watch=true&resourceVersion={version}&timeoutSeconds=3000")
    while len(over) < count and (line := answer.readline()):
        found = json.loads(line)["object"]
        conditions = (found.get("status") or {}).get("conditions") or []
        if any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions):
            over.add(found["metadata"]["name"])


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
