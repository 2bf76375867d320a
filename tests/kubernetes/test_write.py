"""``shoal plan --on CLUSTER``: rules on the screen, manifests in a folder, and nothing anywhere else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from shoal.errors import UsageError
from shoal.executors.kubernetes.write import write_manifests

from .demo import PLAIN, STUDY

Shoal = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text(PLAIN)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "train.py").write_text("print(1)\n")
    return tmp_path


@pytest.fixture
def shoal(folder: Path) -> Shoal:
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "shoal", *arguments], cwd=folder, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_manifests_need_no_cluster_and_are_the_same_twice(shoal: Shoal, folder: Path) -> None:
    before = set(tree(folder))
    done = shoal("plan", "study.yaml", "--on", "mine", "--manifests", "m")
    assert "policies of mine" in done.stdout
    assert "kubectl apply --server-side -f m/shared -f m/chips" in done.stderr
    first = tree(folder / "m")
    shoal("plan", "study.yaml", "--on", "mine", "--manifests", "m")
    assert tree(folder / "m") == first
    assert {name for name in set(tree(folder)) - before if not name.startswith("m/")} == set()
    kinds = [one["kind"] for text in first.values() for one in yaml.safe_load_all(text)]
    assert sorted(kinds) == ["ConfigMap", "ConfigMap", "Job", "Job", "Job", "Job", "Service"]


def test_a_changed_plan_leaves_nothing_of_the_old_one(shoal: Shoal, folder: Path) -> None:
    shoal("plan", "study.yaml", "--on", "mine", "--manifests", "m")
    (folder / "m" / "train" / "own.yaml").write_text("kind: Mine\n")
    old = set(tree(folder / "m"))
    shoal("plan", "study.yaml", "--set", "steps.train.matrix.lr=[1]", "--on", "mine", "--manifests", "m")
    new = set(tree(folder / "m"))
    assert len(new) == len(old)
    assert "train/own.yaml" in new
    assert len([name for name in new - old if name.startswith("train/")]) == 1


def test_what_the_cluster_would_refuse_is_not_written(shoal: Shoal, folder: Path) -> None:
    done = shoal(
        "plan", "study.yaml", "--set", "steps.train.resources.gpu=16", "--on", "mine", "--manifests", "m", code=2
    )
    assert "error" in done.stdout
    assert "nothing was written" in done.stderr
    assert not (folder / "m").exists()


def test_json_has_policies_on_a_cluster_only(shoal: Shoal) -> None:
    assert "policies" not in json.loads(shoal("plan", "study.yaml", "--json").stdout)
    found = json.loads(shoal("plan", "study.yaml", "--on", "mine", "--json").stdout)["policies"]
    assert {"level", "rule", "text", "reason", "link", "hint"} == set(found[0])


def test_run_without_a_login_says_so_and_leaves_nothing(
    shoal: Shoal, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(folder / "no-such-file"))
    done = shoal("run", "study.yaml", "--on", "mine", code=2)
    assert "there is no kubeconfig" in done.stderr
    assert done.stdout == ""
    assert not [path for path in folder.iterdir() if path.name.startswith("runs")]
    assert "Did you mean nautilus?" in shoal("run", "study.yaml", "--on", "nautlius", code=2).stderr


def test_manifests_are_for_clusters(shoal: Shoal) -> None:
    assert "Say which" in shoal("plan", "study.yaml", "--manifests", "m", code=2).stderr
    assert "Say which" in shoal("plan", "study.yaml", "--on", "local", "--manifests", "m", code=2).stderr


def test_nothing_outside_of_the_folder_is_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.yaml").write_text("mine")
    inside = tmp_path / "m"
    inside.mkdir()
    (inside / "step").symlink_to(outside)
    with pytest.raises(UsageError, match="is a link"):
        write_manifests(inside, [("step/a.yaml", [{"kind": "X"}])])
    (inside / "step").unlink()
    (inside / "step").mkdir()
    (inside / "step" / "a.yaml").symlink_to(outside / "a.yaml")
    with pytest.raises(UsageError, match="in the way"):
        write_manifests(inside, [("step/a.yaml", [{"kind": "X"}])])
    for name in ("../x/a.yaml", "/etc/a.yaml", "step/../../a.yaml", "a.yaml", "step/.a.yaml"):
        with pytest.raises(UsageError, match="not a name"):
            write_manifests(inside, [(name, [{"kind": "X"}])])
    assert (outside / "a.yaml").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_manifests(tmp_path / "file", [("step/a.yaml", [{"kind": "X"}])])


def test_code_that_cannot_travel_is_refused_unread(shoal: Shoal, folder: Path) -> None:
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(70 << 20)
    done = shoal(
        "plan",
        "study.yaml",
        "--set",
        "steps.train.code=[train.py, weights.bin]",
        "--on",
        "mine",
        "--manifests",
        "m",
        code=2,
    )
    assert "the code of step train has 70 MiB" in done.stderr
    assert not (folder / "m").exists()
