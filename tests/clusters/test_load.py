"""Cluster files: where they are found, what they extend, and mistakes with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shoal.clusters import Cluster, cluster_places, known_clusters, load_cluster, parse_cluster
from shoal.errors import StudyError, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for a user's own clusters."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "shoal" / "clusters"
    folder.mkdir(parents=True)
    return folder


def test_nautilus_comes_with_shoal_and_knows_the_platforms_names(home: Path) -> None:
    nautilus = load_cluster("nautilus")
    special = {gpu.resource for gpu in nautilus.gpus.values() if gpu.resource}
    names = ("a40", "a100", "rtxa6000", "rtx8000", "h100", "h200", "rtx6000bw", "gh200", "mig-small")
    assert special == {f"nvidia.com/{name}" for name in names}
    assert set(nautilus.priority_classes) == {"opportunistic", "opportunistic2", "owner-no-preempt", "armada-default"}
    assert nautilus.taints["nautilus.io/system"].allowed == "never"
    assert nautilus.object_stores["central"].inside == "http://rook-ceph-rgw-centrals3.rook-central"
    assert nautilus.gpus["a100"].quota == "reservation"
    assert {name for name, gpu in nautilus.gpus.items() if gpu.quota == "priority"} == {"h100", "h200", "gh200"}
    assert all(policy.text for policy in nautilus.policies.values())


def test_the_nearest_file_wins_and_may_extend_the_one_it_hides(home: Path, tmp_path: Path) -> None:
    (home / "nautilus.yaml").write_text("extends: nautilus\nnamespace: mine\nstore: {claim: my-claim}\n")
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "nautilus.yaml").write_text("extends: nautilus\nnamespace: ours\ngpus: {t4: null}\n")
    assert load_cluster("nautilus").namespace == "mine"
    beside = load_cluster("nautilus", beside=tmp_path)
    assert beside.namespace == "ours"
    assert beside.store is not None
    assert beside.store.claim == "my-claim"
    assert "a100" in beside.gpus
    assert "t4" not in beside.gpus
    assert len(beside.files) == 3
    found = known_clusters(cluster_places(tmp_path))
    assert found["nautilus"][0] == "beside the study"


def test_a_path_is_a_file(home: Path, tmp_path: Path) -> None:
    (tmp_path / "kind.yaml").write_text("namespace: test\n")
    assert load_cluster(str(tmp_path / "kind.yaml")).name == "kind"
    with pytest.raises(UsageError, match="there is no such file"):
        load_cluster("./nothing.yaml")


def test_an_unknown_name_says_the_nearest_and_where_to_put_it(home: Path) -> None:
    with pytest.raises(UsageError, match="no such place to run") as caught:
        load_cluster("nautlius")
    assert "Did you mean nautilus?" in str(caught.value)
    assert str(home.parent.name) in str(caught.value)


def test_a_circle_ends(home: Path) -> None:
    (home / "a.yaml").write_text("extends: b\n")
    (home / "b.yaml").write_text("extends: a\n")
    with pytest.raises(StudyError, match="extends itself"):
        load_cluster("a")


MISTAKES = [
    ("namespace: My_Lab", "f.yaml:1:12", "must be the name of a namespace"),
    ("namespce: lab", "f.yaml:1:1", 'unknown key "namespce"'),
    ("store: {claim: a, s3: 's3://bucket/x'}", "f.yaml:1:1", "both a claim and a bucket"),
    ("store: {path: /x}", "f.yaml:1:1", "neither"),
    ("store: {claim: a, path: x}", "f.yaml:1:25", "absolute path"),
    ("store: {claim: a, folder: ../x}", "f.yaml:1:27", "inside of the claim"),
    ("store: {claim: a}\nvolumes:\n  - {claim: b, path: /shoal}", "f.yaml:3:5", "is taken by store"),
    ("volumes: [{claim: b, path: /shoal-work}]", "f.yaml:1:11", "is taken by the pod itself"),
    ("volumes: {claim: b, path: /x}", "f.yaml:1:1", "must be a list"),
    ("gpus:\n  a100: {resorce: nvidia.com/a100}", "f.yaml:2:10", 'unknown key "resorce" in gpus.a100'),
    ("gpus:\n  a100: {memory: 40Gi}", "f.yaml:2:3", "says neither"),
    ("gpus:\n  a100: {resource: 'not a key!'}", "f.yaml:2:20", "must be a key"),
    ("gpus:\n  h100: {resource: nvidia.com/h100, quota: priority}", "f.yaml:2:3", "needs priority_class"),
    ("reserved: [a100]", "f.yaml:1:12", 'no GPU type "a100"'),
    ("defaults: {memory: 4 bananas}", "f.yaml:1:20", "unknown unit"),
    ("defaults: {tolerations: [{key: a/b, operator: Equals}]}", "f.yaml:1:47", "must be Exists or Equal"),
    ("defaults: {labels: {team: 'no spaces please'}}", "f.yaml:1:27", "a label cannot have"),
    ("limits: {cpu: 0.5}", "f.yaml:1:15", "from 1 to 100"),
    ("memory_slack: 0.9", "f.yaml:1:15", "from 0 to 0.5"),
    ("policies:\n  no-slep: {text: no}", "f.yaml:2:3", "no check is known"),
    ("policies: {x: {check: people}}", "f.yaml:1:12", '"text"'),
    ("extends: nautlius", "f.yaml:1:10", 'no cluster "nautlius"'),
    ("[a]", "f.yaml:1:1", "a cluster file is a mapping"),
    ("a: 1\n---\nb: 2", "f.yaml:2:1", "second document"),
    ("a: [1", "f.yaml:", ""),
    ("", "f.yaml", "empty"),
]


@pytest.mark.parametrize(("text", "place", "said"), MISTAKES)
def test_mistakes_have_a_place(home: Path, text: str, place: str, said: str) -> None:
    with pytest.raises(StudyError) as caught:
        parse_cluster(text, "f.yaml")
    assert str(caught.value).startswith(place)
    assert said in str(caught.value)
    assert "study file" not in str(caught.value)


def test_every_mistake_is_told_at_once(home: Path) -> None:
    with pytest.raises(StudyError) as caught:
        parse_cluster("namespace: A\ncontxt: x\nlimits: {cpu: 0}\n", "f.yaml")
    assert "3 problems" in str(caught.value)


values = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6)
)
trees = st.recursive(
    values,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["claim", "path", "key", "text", "memory", "allowed", "x/y"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(Cluster.model_fields)), trees, max_size=4))
def test_whatever_is_in_a_file_it_is_a_cluster_or_a_message(home: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data)
    try:
        parse_cluster(text, "f.yaml")
    except StudyError as error:
        assert str(error).startswith("f.yaml")  # noqa: PT017
