"""The pod that reads a claim: it comes and goes whatever happens."""

from __future__ import annotations

import pytest

from shoal.clusters import load_cluster
from shoal.executors.kubernetes.client import PODS
from shoal.executors.kubernetes.reading import reader_pod

from .conftest import Lab, until

STAYS = 'annotations: {"fake.testbed/end": never}'


def test_the_reader_is_removed_whatever_happens(lab: Lab) -> None:
    lab.cluster()
    path = lab.root / "clusters" / "lab.yaml"
    path.write_text(path.read_text().replace("memory: 1Gi}", f"memory: 1Gi, {STAYS}}}"))
    cluster = load_cluster(str(path))
    with pytest.raises(RuntimeError, match="in between"), reader_pod(lab.client, cluster, "pond", "i") as files:  # noqa: PT012
        (pod,) = lab.client.list(PODS).items
        assert pod["status"]["phase"] == "Running"
        assert pod["metadata"]["labels"]["shoal-ml.github.io/role"] == "reader"
        assert files is not None
        raise RuntimeError("in between")
    until(lambda: not lab.client.list(PODS).items)


def test_a_reader_that_cannot_be_placed_says_why(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.errors import UsageError
    from shoal.executors.kubernetes import reading

    monkeypatch.setattr(reading, "_PATIENCE", 3.0)
    path = lab.root / "clusters" / "lab.yaml"
    path.write_text(path.read_text().replace("claim: results", "claim: absent"))
    with (
        pytest.raises(UsageError, match="does not start"),
        reader_pod(lab.client, load_cluster(str(path)), "pond", "i"),
    ):
        pass
    until(lambda: not lab.client.list(PODS).items)
