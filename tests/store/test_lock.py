"""One runner a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shoal.errors import HeldError
from shoal.store import RunnerLock, holder

HOLD = """
import sys, time
from pathlib import Path
from shoal.store import RunnerLock
with RunnerLock(Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""


def test_the_second_runner_is_told_who_holds_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study" / "runner.lock"
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(HeldError, match=rf"process {child.pid}") as caught, RunnerLock(path):
            pass
        assert caught.value.exit_code == 4
        assert "shoal stop" in str(caught.value)
        who = holder(path)
        assert who is not None
        assert who["pid"] == child.pid
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    # However it ended, the lock went with it.
    assert holder(path) is None
    with RunnerLock(path):
        assert holder(path) is not None
    assert holder(path) is None


def test_a_group_that_shares_a_store_may_take_turns(tmp_path: Path) -> None:
    before = os.umask(0o002)
    try:
        with RunnerLock(tmp_path / "runner.lock"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "runner.lock").stat().st_mode & 0o777 == 0o664
