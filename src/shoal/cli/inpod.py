"""What the pod of ``shoal run --detach`` starts: lays out the study, runs it, and waits where a person has to approve.

    python3 -m shoal.cli.inpod BASKET STUDY -- run FILE --on CLUSTER --store FOLDER ...

It ends with the exit code of ``shoal run``, or with 143 when the pod was asked to end: then a new one is started, which goes on.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

__all__ = ["APPROVED", "main"]

APPROVED = ".approved"
"""Results of gates that a person has passed on another machine, as ``STEP/TASK``."""
_WAITS, _STOPPED, _ENDED = 3, 130, 143
_LOOK_EVERY = 5.0


def main(argv: list[str]) -> int:
    """Run the command line; return the exit status."""
    from shoal.executors.kubernetes.pod import unpack

    basket, study, _, *arguments = argv
    unpack(basket, study)
    store = Path(arguments[arguments.index("--store") + 1])
    folder = _folder(study, store)
    take_approvals(study, folder)
    asked: list[int] = []
    running: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        for one in running:
            one.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while not asked:
        # Before the run, not after it: what is approved while it ends must not be missed.
        before = _passed(folder)
        running[:] = [subprocess.Popen([sys.executable, "-m", "shoal", *arguments], cwd=study)]
        if asked:
            running[0].send_signal(signal.SIGTERM)
        code = running[0].wait()
        running.clear()
        if asked:
            break
        if code != _WAITS:
            return code
        while not asked and _passed(folder) == before:
            if any(folder.glob("control/*-stop-*.json")):
                return _STOPPED
            time.sleep(_LOOK_EVERY)
    return _ENDED


def _folder(study: str, store: Path) -> Path:
    """The study's folder in the store."""
    from shoal.study import load_study

    file = next(Path(study).glob("*.yaml"))
    return store / load_study(file).study


def _passed(folder: Path) -> set[Path]:
    """Gates that have a result."""
    from shoal.store import read_json

    steps = (read_json(folder / "plan.json") or {}).get("steps") or []
    gates = [step["name"] for step in steps if step.get("gate")]
    return {path for name in gates for path in (folder / name).glob("*/result.json")}


def take_approvals(study: str, folder: Path) -> None:
    """Put results of gates that travelled with the study where the runner looks for them, unless some are there."""
    top = Path(study) / APPROVED
    for result in sorted(top.glob("*/*/result.json")):
        target = folder / result.parent.relative_to(top)
        if not (target / "result.json").exists():
            shutil.copytree(result.parent, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("result.json"))
            (target / "out").mkdir(exist_ok=True)
            shutil.copy2(result, target / ".result.json.arriving")
            (target / ".result.json.arriving").replace(target / "result.json")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
