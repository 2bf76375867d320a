"""Runs a study as ``shoal run STUDY --on CLUSTER`` does, and prints how many requests and how much memory that took.

python cluster_shoal.py STUDY CLUSTER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from measure import RSS_UNIT
from shoal.cli.common import open_study
from shoal.cli.run import run_watched, start_executor
from shoal.runner import Runner


def main(study: str, cluster: str) -> None:
    begin = time.perf_counter()
    opened = open_study(Path(study), on=cluster)
    executor = start_executor(opened, cluster)
    runner = Runner(opened.plan, opened.store, executor)
    try:
        summary = run_watched(runner)
    finally:
        executor.close()
    requests = executor._client.requests  # type: ignore[attr-defined]
    used = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"over": time.perf_counter() - begin, "cpu": used.ru_utime + used.ru_stime}
    print(json.dumps({**figures, "requests": requests, "memory": used.ru_maxrss * RSS_UNIT}))
    sys.exit(summary.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
