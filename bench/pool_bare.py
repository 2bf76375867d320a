"""The bare pool: ``pool_bare.py TASKS PARALLEL ARGV...`` starts ARGV and a number, so many times, and waits for each.

``concurrent.futures.ProcessPoolExecutor`` whose workers call ``subprocess.run(check=True)``. It keeps no log, makes no
folder, writes no record: less than any tool could do.
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor


def one(number: int) -> int:
    argv = [*sys.argv[3:], str(number)]
    return subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    with ProcessPoolExecutor(int(sys.argv[2])) as pool:
        codes = list(pool.map(one, range(int(sys.argv[1]))))
    assert codes == [0] * int(sys.argv[1])
