"""What a runner in a pod knows, kept in a bucket: for the pod that follows it and for laptops. Against a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shoal.errors import StoreError
from shoal.executors.kubernetes import packs as module
from shoal.executors.kubernetes.packs import Packs
from shoal.executors.kubernetes.s3 import Bucket

from .test_s3 import KEY, SECRET, endpoint, keys, lake  # noqa: F401  (fixtures)


def write(store: Path, path: str, text: str = "{}") -> None:
    place = store / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def files(store: Path) -> dict[str, str]:
    found = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_text() for path in found}


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    return tmp_path / "pod" / "s"


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    return tmp_path / "laptop" / "s"


def test_what_one_has_sent_another_has(pod: Path, laptop: Path, lake: Bucket) -> None:  # noqa: F811
    here, there = Packs(lake, "team", laptop), Packs(lake, "team", pod)
    write(pod, "train/aaaaaaaaaaaa/attempts/1/spec.json")
    write(pod, "train/aaaaaaaaaaaa/attempts/1/waiting.json")
    write(laptop, "plan.json", "mine")
    write(pod, "plan.json", "its")
    assert there.send()
    last = here.take()
    assert (laptop / "train/aaaaaaaaaaaa/attempts/1/waiting.json").exists()
    (pod / "train/aaaaaaaaaaaa/attempts/1/waiting.json").unlink()
    write(pod, "train/aaaaaaaaaaaa/attempts/1/attempt.json", json.dumps({"state": "ended"}))
    write(pod, "train/aaaaaaaaaaaa/result.json")
    assert there.send()
    last = here.take(last)
    assert files(laptop) == {**files(pod), "plan.json": "mine"}
    assert (laptop / "train/aaaaaaaaaaaa/out").is_dir()
    # What the runner has no more, because its code has changed, nobody else has.
    (pod / "train/aaaaaaaaaaaa/result.json").unlink()
    assert there.send()
    here.take(last)
    assert not (laptop / "train/aaaaaaaaaaaa/result.json").exists()


def test_a_whole_pack_takes_the_place_of_those_before(
    pod: Path, laptop: Path, tmp_path: Path, lake: Bucket, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "_MANY", 3)
    monkeypatch.setattr(module, "SLACK", 0.0)
    there, here = Packs(lake, "", pod), Packs(lake, "", laptop)
    last = 0
    for number in range(9):
        write(pod, f"train/{number:012d}/result.json", str(number))
        assert there.send(whole=number == 0)
        assert len(keys(lake, "s/.runner/")) <= 4
        if number % 2:
            last = here.take(last)
    assert not there.send(), "nothing has changed"
    here.take(last)
    late = tmp_path / "late" / "s"
    Packs(lake, "", late).take()
    assert files(late) == files(laptop) == files(pod)


def test_a_store_that_does_not_answer_is_one_message(pod: Path) -> None:
    write(pod, "train/aaaaaaaaaaaa/result.json")
    with pytest.raises(StoreError, match="cannot be reached"):
        Packs(Bucket("http://127.0.0.1:9", "b", "r", KEY, SECRET, tries=1), "", pod).send()
