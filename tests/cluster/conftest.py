"""A real control plane with fake nodes for the tests of this folder, and a namespace of its own for each of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from typer.testing import CliRunner

from shoal.executors.kubernetes.client import Client
from shoal.executors.kubernetes.login import read_login
from testbed.image import PYTHON

CLUSTER = """
namespace: {namespace}
store: {{claim: results, path: {store}}}
defaults: {{image: "example.org/task:1", memory: 1Gi}}
{more}
"""
_names = itertools.count(1)


class Lab:
    """A namespace, its admin's login, and a folder with a cluster file ``lab``."""

    def __init__(self, bed: Any, root: Path, store: Path | None = None) -> None:
        self.bed, self.root = bed, root
        self.namespace = f"lab-{os.getpid()}-{next(_names)}"
        self.kubeconfig = bed.namespace_user(self.namespace)
        self.admin = bed.api()
        self.client = Client(read_login([self.kubeconfig]))
        self.cluster()
        bed.claim(self.namespace, "results", store or root / "claim")

    def cluster(self, more: str = "", store: str = "/shoal") -> None:
        """Write the cluster file."""
        folder = self.root / "clusters"
        folder.mkdir(exist_ok=True)
        text = CLUSTER.format(namespace=self.namespace, store=store, more=more)
        (folder / "lab.yaml").write_text(text)

    def study(self, text: str) -> None:
        """Write the study file."""
        (self.root / "s.yaml").write_text(text)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, Any]]:
        """A command line of ours, and how to start it."""
        env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
        env |= {"KUBECONFIG": str(self.kubeconfig), "XDG_CONFIG_HOME": str(self.root / "config"), "COLUMNS": "200"}
        return [sys.executable, "-m", "shoal", *arguments], {"cwd": self.root, "env": env, "text": True}

    def shoal(self, *arguments: str, code: int | None = 0, seconds: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command line to its end."""
        argv, how = self.command(*arguments)
        done = subprocess.run(argv, capture_output=True, timeout=seconds, check=False, **how)
        assert code is None or done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``shoal run``, and wait until it holds the study, or has ended; what it says is in ``said.txt``."""
        argv, how = self.command(*arguments)
        lock = self.root / "runs-lab" / "pond" / "runner.lock"
        with (self.root / "said.txt").open("a") as said:
            made = subprocess.Popen(argv, stdout=said, stderr=said, **how)
        while made.poll() is None and not (lock.exists() and f'"pid": {made.pid},' in lock.read_text()):
            time.sleep(0.2)
        return made

    def status(self) -> dict[str, Any]:
        """What ``shoal status`` says. It is asked again and again, so this process runs it and not one of its own."""
        from shoal.cli import app

        _, how = self.command()
        with contextlib.chdir(how["cwd"]), patch.dict(os.environ, how["env"], clear=True):
            done = CliRunner().invoke(app, ["status", "s.yaml", "--json"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def counts(self) -> dict[str, int]:
        """State to number of tasks."""
        found: dict[str, int] = {}
        for step in self.status()["steps"]:
            for state, count in step["counts"].items():
                found[state] = found.get(state, 0) + count
        return found

    def records(self, name: str) -> dict[str, Any]:
        """Path below the study's store to content, of all files of a name."""
        store = self.root / "runs-lab"
        return {str(path.relative_to(store)): json.loads(path.read_text()) for path in sorted(store.glob(f"**/{name}"))}

    def close(self) -> None:
        """Remove the namespace."""
        self.client.close()
        with contextlib.suppress(Exception):
            self.admin.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
        self.admin.close()


class RealLab(Lab):
    """A namespace whose pods truly run: on the real node, with this Python's environment, and the claim at hand in ``store``."""

    def __init__(self, bed: Any, root: Path) -> None:
        self.store = bed.folder / "labs" / f"{os.getpid()}-{next(_names)}"
        self.store.mkdir(parents=True)
        for folder in (bed.folder, self.store.parent):
            folder.chmod(0o755)
        self.store.chmod(0o777)
        self.volumes: list[dict[str, Any]] = []
        super().__init__(bed, root, self.store)
        self.volumes = bed.environment(self.namespace)
        self.cluster()

    def cluster(self, more: str = "", store: str = "/shoal") -> None:
        """Write the cluster file."""
        super().cluster(more, store)
        path = self.root / "clusters" / "lab.yaml"
        config = yaml.safe_load(path.read_text())
        config["defaults"] |= {"image": PYTHON, "python": sys.executable, "memory": "512Mi"}
        config["defaults"]["env"] = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
        config["volumes"] = self.volumes
        path.write_text(yaml.safe_dump(config))


class OutsideLab(Lab):
    """The namespace of the context that ``SHOAL_TEST_KUBECONFIG`` names, on a cluster that is not ours.

    Nothing but what Shoal makes there is touched. ``SHOAL_TEST_CLAIM`` names a claim for results, ``SHOAL_TEST_IMAGE`` an image
    with Python 3.
    """

    def __init__(self, outside: Any, root: Path) -> None:
        self.root, self.namespace, self.kubeconfig = root, outside.namespace, outside.kubeconfig
        self.client = Client(read_login([self.kubeconfig]))
        self.cluster(store=f"/shoal/tests/{os.getpid()}-{next(_names)}-{time.time_ns()}")

    def cluster(self, more: str = "", store: str = "/shoal") -> None:
        """Write the cluster file."""
        super().cluster(more, store)
        path = self.root / "clusters" / "lab.yaml"
        config = yaml.safe_load(path.read_text())
        config["store"]["claim"] = os.environ.get("SHOAL_TEST_CLAIM", "results")
        config["defaults"]["image"] = os.environ.get("SHOAL_TEST_IMAGE", "docker.io/library/python:3.12-slim")
        path.write_text(yaml.safe_dump(config))

    def close(self) -> None:
        """Remove what the test's study has left."""
        self.shoal("gc", "s.yaml", "--on", "lab", "--yes", code=None)
        self.client.close()


@pytest.fixture
def any_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A namespace whose pods truly run: of the cluster that ``SHOAL_TEST_KUBECONFIG`` names, else of the testbed's real node."""
    if "SHOAL_TEST_KUBECONFIG" not in os.environ:
        yield request.getfixturevalue("real_lab")
        return
    made = OutsideLab(request.getfixturevalue("cluster"), tmp_path)
    yield made
    made.close()


@pytest.fixture
def real_lab(real_bed: Any, tmp_path: Path) -> Iterator[RealLab]:
    """A namespace of its own on the real node."""
    made = RealLab(real_bed, tmp_path)
    yield made
    made.close()


@pytest.fixture
def lab(bed: Any, tmp_path: Path) -> Iterator[Lab]:
    """A namespace of its own."""
    made = Lab(bed, tmp_path)
    yield made
    made.close()


def until(check: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until ``check`` gives something true, and return that."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := check():
            return found
        time.sleep(0.2)
    raise AssertionError(f"did not come true in {seconds} s")
