"""Clusters for tests: one that ``SHOAL_TEST_KUBECONFIG`` names, or this repository's testbed.

Each worker of pytest has a control plane of its own, since tests kill its parts; that costs seconds. It ends with the worker, and
if the worker was killed, at the next start of any. To try one test again and again, ``SHOAL_TEST_BED`` and
``SHOAL_TEST_REAL_BED`` name instances that run already.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from needs import require

sys.path.insert(0, str(Path(__file__).parents[1]))  # the testbed is no part of what is installed

from testbed import Testbed, binaries, queueing
from testbed.binaries import CONTROL_PLANE
from testbed.real import lacking

__all__ = ["Outside", "bed", "cluster", "queue_bed", "real_bed"]

FAKE_NODES = 20
_BUILD = "`make testbed` builds one, with Go"


def _built(*programs: str) -> bool:
    return all((binaries() / name).exists() for name in (*CONTROL_PLANE, *programs))


@pytest.fixture(scope="session")
def bed() -> Iterator[Testbed]:
    """A testbed with 20 fake nodes of 8 GPUs, whose pods do what ``testbed/kwok.yaml`` says."""
    require("cluster", _built("kwok"), f"the testbed's programs are not built: {_BUILD}")
    if name := os.environ.get("SHOAL_TEST_BED"):
        yield Testbed.open(name)
        return
    with Testbed.start(nodes=FAKE_NODES) as made:
        yield made


@pytest.fixture(scope="session")
def real_bed() -> Iterator[Testbed]:
    """A testbed with the one node whose pods truly run."""
    require("node", _built("kubelet", "coredns"), f"the testbed's programs are not built: {_BUILD}")
    why = lacking()
    require("node", why is None, str(why))
    if name := os.environ.get("SHOAL_TEST_REAL_BED"):
        yield Testbed.open(name)
        return
    with Testbed.start(real_node=True) as made:
        yield made


@pytest.fixture(scope="session")
def queue_bed() -> Iterator[Testbed]:
    """A testbed with fake nodes and Kueue."""
    require("cluster", _built("kwok"), f"the testbed's programs are not built: {_BUILD}")
    require(
        "kueue", queueing.built(), "Kueue is not built: `python -m testbed build kueue` builds it, with Go, in minutes"
    )
    with Testbed.start(nodes=2) as made:
        queueing.start(made)
        yield made


class Outside:
    """A cluster that is not ours: the current context of a kubeconfig, with no more rights than that has."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        config = yaml.safe_load(kubeconfig.read_text())
        context = next(one for one in config["contexts"] if one["name"] == config["current-context"])
        self.namespace = context["context"].get("namespace") or "default"

    def namespace_user(self, namespace: str) -> Path:
        """The login of the namespace that the kubeconfig names: the cluster is not asked for another."""
        return self.kubeconfig


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Testbed | Outside:
    """Any cluster: the one that ``SHOAL_TEST_KUBECONFIG`` names, of which tests use the context's namespace; else the testbed."""
    if given := os.environ.get("SHOAL_TEST_KUBECONFIG"):
        require("cluster", Path(given).is_file(), f"SHOAL_TEST_KUBECONFIG is no file: {given}")
        return Outside(Path(given))
    found: Testbed = request.getfixturevalue("bed")
    return found
