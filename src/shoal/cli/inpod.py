"""What the pod of ``shoal run --detach`` starts: lays out the study, runs it, and waits where a person has to approve.

    python3 -m shoal.cli.inpod BASKET STUDY -- run FILE --on CLUSTER --store FOLDER ...

Where the store is a bucket, what the runner writes lies on this pod's disk: it is brought from the bucket before the run, and
sent there while it lasts. It ends with the exit code of ``shoal run``, or with 143 when the pod was asked to end: then a new one
is started, which goes on.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.executors.kubernetes.packs import Packs

__all__ = ["APPROVED", "main"]

APPROVED = ".approved"
"""Results of gates that a person has passed on another machine, as ``STEP/TASK``."""
_WAITS, _STOPPED, _ENDED = 3, 130, 143
_LOOK_EVERY = 5.0
_SEND_EVERY = 15.0


def main(argv: list[str]) -> int:
    """Run the command line; return the exit status."""
    from shoal.executors.kubernetes.pod import unpack

    basket, study, _, *arguments = argv
    unpack(basket, study)
    store = Path(arguments[arguments.index("--store") + 1])
    folder = _folder(study, store)
    packs = _packs(study, arguments[arguments.index("--on") + 1], folder)
    if packs is None:
        return _run(study, folder, arguments)
    from shoal.errors import ShoalError

    try:
        packs.take()
        packs.send(whole=True)
    except ShoalError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    over = threading.Event()
    sender = threading.Thread(target=_send, args=(packs, over), daemon=True)
    sender.start()
    try:
        return _run(study, folder, arguments)
    finally:
        over.set()
        sender.join()


def _send(packs: Packs, over: threading.Event) -> None:
    """Send what is new now and then, and all of it in the end."""
    from shoal.errors import ShoalError

    tries = 0
    while tries < 3:
        ending = over.wait(_SEND_EVERY if tries == 0 else 1.0)
        try:
            packs.send()
            if ending:
                return
        except ShoalError as error:
            print(f"{error}; trying again", file=sys.stderr, flush=True)
            tries += 1 if ending else 0


def _run(study: str, folder: Path, arguments: list[str]) -> int:
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


def _packs(study: str, place: str, folder: Path) -> Packs | None:
    """The runner's records in the bucket; None where the store is a claim. The keys leave the environment."""
    from shoal.clusters import load_cluster
    from shoal.executors.kubernetes.packs import Packs
    from shoal.executors.kubernetes.podspec import BUCKET_KEYS
    from shoal.executors.kubernetes.s3 import Bucket

    key, secret, token = (os.environ.pop(name, None) for name, *_ in BUCKET_KEYS)
    store = load_cluster(place, beside=Path(study)).store
    if store is None or store.s3 is None:
        return None
    bucket = Bucket(store.address, store.bucket, store.region, key or "", secret or "", token)
    return Packs(bucket, store.prefix, folder)


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
