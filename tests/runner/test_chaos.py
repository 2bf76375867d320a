"""Runner and tasks killed at random, many times: nothing is lost, nothing is run twice, and the results are the same."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import fcntl, json, os, sys, time
out, checkpoints, value, overlaps = sys.argv[1:5]
lock = open(os.path.join(checkpoints, 'lock'), 'w')
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    open(os.path.join(overlaps, os.path.basename(os.path.dirname(out))), 'w').close()
    sys.exit('two attempts of one task at once')
path = os.path.join(checkpoints, 'state')
state = [0, 0]
if os.path.exists(path):
    state = json.load(open(path))
while state[0] < 8:
    time.sleep(0.02)
    state = [state[0] + 1, state[1] * 31 % 1009 + int(value)]
    with open(path + '.new', 'w') as file:
        json.dump(state, file)
    os.replace(path + '.new', path)
given = [json.load(open(os.path.join(folder, 'metrics.json')))['sum'] for folder in sys.argv[5:]]
json.dump({'sum': state[1] + sum(given)}, open(os.path.join(out, 'metrics.json'), 'w'))
"""

STUDY = """
study: chaos
steps:
  prep:
    matrix: {{part: [1, 2]}}
    run: ["{python}", -S, "{script}", "{{out}}", "{{checkpoints}}", "{{part}}", "{overlaps}"]
  train:
    needs: prep
    matrix: {{part: [1, 2], lr: [3, 4, 5]}}
    seeds: 2
    run: ["{python}", -S, "{script}", "{{out}}", "{{checkpoints}}", "{{lr}}{{seed}}", "{overlaps}", "{{inputs.prep}}"]
  all:
    needs: train
    run: ["{python}", -S, "{script}", "{{out}}", "{{checkpoints}}", "7", "{overlaps}", "{{inputs.train}}"]
"""


def write_study(folder: Path) -> Path:
    folder.mkdir()
    (folder / "task.py").write_text(SCRIPT)
    (folder / "overlaps").mkdir()
    file = folder / "study.yaml"
    file.write_text(
        STUDY.format(python=sys.executable, script=folder.parent / "task.py", overlaps=folder.parent / "overlaps")
    )
    return file


def start(file: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "shoal", "run", str(file), "-j", "4"],
        stdout=subprocess.DEVNULL,
        stderr=(file.parent / "run.log").open("ab"),
        start_new_session=True,
        env={**os.environ, "SHOAL_CPUS": "4"},
    )


def results(file: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for path in (file.parent / "runs" / "chaos").glob("*/*/result.json"):
        result = json.loads(path.read_text())
        found[result["task"]] = result
    return found


def open_attempts(file: Path) -> list[dict[str, Any]]:
    found = []
    for path in (file.parent / "runs" / "chaos").glob("*/*/attempts/*/attempt.json"):
        try:
            attempt = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if attempt["state"] == "running":
            found.append(attempt)
    return found


def kill(pid: int, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def disturb(file: Path, dice: random.Random) -> int:
    """One run with a violent end, or a peaceful one. Returns the exit code."""
    runner = start(file)
    ends = time.monotonic() + dice.uniform(0.5, 2.5)
    while runner.poll() is None:
        time.sleep(dice.uniform(0.02, 0.25))
        if time.monotonic() > ends:
            kill(runner.pid)
            break
        attempts = open_attempts(file)
        if attempts and dice.random() < 0.35:
            victim = dice.choice(attempts)
            if dice.random() < 0.5:
                kill(victim["pid"])
            elif victim.get("group"):
                kill(victim["group"], group=True)
    return runner.wait()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    base = tmp_path_factory.mktemp("calm")
    (base / "overlaps").mkdir()
    (base / "task.py").write_text(SCRIPT)
    file = write_study(base / "s")
    assert start(file).wait() == 0
    return results(file)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_kill_9_at_random_points_changes_no_result(
    seed: int, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    (tmp_path / "overlaps").mkdir()
    (tmp_path / "task.py").write_text(SCRIPT)
    file = write_study(tmp_path / "s")
    dice = random.Random(seed)
    for _ in range(12):
        if disturb(file, dice) == 0:
            break
    assert start(file).wait() == 0, (file.parent / "run.log").read_text()[-3000:]

    found = results(file)

    # Ids differ where the paths of script and folder enter the command; what was computed must not.
    def values(of: dict[str, dict[str, Any]]) -> list[tuple[str, str, float]]:
        return sorted((r["step"], json.dumps(r["params"]), r["metrics"]["sum"]) for r in of.values())

    assert values(found) == values(undisturbed)
    assert not list((tmp_path / "overlaps").iterdir()), "an attempt was started while another of its task still ran"
    for task, result in found.items():
        folder = file.parent / "runs" / "chaos" / result["step"] / task
        numbers = [int(path.name) for path in (folder / "attempts").iterdir()]
        assert max(numbers) == result["attempt"], f"{folder}: nothing may run after the result is written"
        assert not list(folder.glob(".*")), "something half-made was left behind"
    again = subprocess.run(
        [sys.executable, "-m", "shoal", "plan", str(file), "--json"], capture_output=True, text=True, check=True
    )
    assert {task["state"] for task in json.loads(again.stdout)["tasks"]} == {"done"}
