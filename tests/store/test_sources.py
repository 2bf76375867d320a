"""Code and data compared by content, and read no more often than needed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from shoal.errors import StoreError
from shoal.store.layout import StudyStore
from shoal.store.sources import code_files, copy_code, data_places, read_sources
from shoal.study import load_study

STUDY = """
study: s
data: {scenes: ./scenes, remote: "s3://bucket/x"}
steps:
  auto: {run: "python train.py --config conf.yaml {data.scenes} > {out}/x"}
  named: {code: [lib, "*.yaml"], run: "python lib/a.py {data.remote} --out {out}"}
  none: {run: "true {out}"}
  deep: {code: "**/*.py", run: "true {out}"}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    home = tmp_path / "study"
    (home / "lib" / "__pycache__").mkdir(parents=True)
    (home / "lib" / "a.py").write_text("a")
    (home / "lib" / "__pycache__" / "a.cpython-311.pyc").write_text("junk")
    (home / ".venv" / "lib").mkdir(parents=True)
    (home / ".venv" / "lib" / "torch.py").write_text("others'")
    (home / "train.py").write_text("train")
    (home / "conf.yaml").write_text("{}")
    (home / "scenes").mkdir()
    (home / "scenes" / "one.tif").write_text("pixels")
    (home / "s.yaml").write_text(STUDY)
    return home


def test_code_is_what_the_study_names_or_else_the_files_its_command_names(folder: Path) -> None:
    study = load_study(folder / "s.yaml")
    assert list(code_files(study, study.steps["auto"])) == ["conf.yaml", "train.py"]
    assert list(code_files(study, study.steps["named"])) == ["conf.yaml", "lib/a.py", "s.yaml"]
    assert code_files(study, study.steps["none"]) == {}
    assert list(code_files(study, study.steps["deep"])) == ["lib/a.py", "train.py"]
    assert data_places(study, study.steps["auto"]) == {"scenes": str(folder / "scenes")}
    assert data_places(study, study.steps["named"]) == {"remote": "s3://bucket/x"}


def test_digests_follow_content_and_not_time_or_place(folder: Path, tmp_path: Path) -> None:
    study = load_study(folder / "s.yaml")
    first = read_sources(study)
    assert first.data["named"] == {"remote": None}
    for path in folder.rglob("*.*"):
        os.utime(path, (1, 1))
    assert read_sources(study) == first
    moved = folder.rename(tmp_path / "elsewhere")
    study = load_study(moved / "s.yaml")
    assert read_sources(study) == first
    (moved / "scenes" / "one.tif").write_text("other pixels")
    changed = read_sources(study)
    assert changed.data["auto"] != first.data["auto"]
    assert changed.code == first.code
    (moved / "lib" / "a.py").write_text("b")
    assert read_sources(study).code["named"] != first.code["named"]


def test_large_data_is_read_again_only_when_it_changes(folder: Path) -> None:
    study = load_study(folder / "s.yaml")
    large = folder / "scenes" / "large.tif"
    large.write_bytes(b"x" * (9 << 20))
    long_ago = time.time() - 100
    os.utime(large, (long_ago, long_ago))
    os.utime(folder / "scenes" / "one.tif", (long_ago, long_ago))
    first = read_sources(study).data["auto"]
    # The same size and time with other content is not noticed: proof that the content was not read.
    with large.open("r+b") as file:
        file.write(b"y")
    os.utime(large, (long_ago, long_ago))
    assert read_sources(study).data["auto"] == first
    os.utime(large, (long_ago + 1, long_ago + 1))
    assert read_sources(study).data["auto"] != first


def test_a_copy_of_code_is_whole_or_absent(folder: Path, tmp_path: Path) -> None:
    study = load_study(folder / "s.yaml")
    store = StudyStore(tmp_path / "store")
    files = code_files(study, study.steps["named"])
    digest = read_sources(study).code["named"]
    assert digest is not None
    copied = copy_code(store, files, digest)
    assert sorted(path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()) == list(files)
    assert copy_code(store, files, digest) == copied
    with pytest.raises(StoreError, match="changed while it was copied"):
        copy_code(store, files, "fedcba9876543210" * 4)
    files["gone.py"] = folder / "gone.py"
    with pytest.raises(FileNotFoundError):
        copy_code(store, files, "0123456789abcdef" * 4)
    assert [path.name for path in store.code.iterdir()] == [copied.name]
