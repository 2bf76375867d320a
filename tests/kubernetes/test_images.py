"""The Containerfiles: what can be checked without building them, and the engine's built where there is buildah."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from needs import require
from testbed.image import archive

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "images").glob("*.Containerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instruction and the rest of its line, continuation lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    return [(words[0], words[1]) for line in text.splitlines() if len(words := line.split(None, 1)) == 2]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_images_are_pinned_and_not_root(path: Path) -> None:
    made = instructions(path)
    (base,) = [rest for name, rest in made if name == "ARG"]
    assert re.fullmatch(r"PYTHON=[a-z./]+:\d+\.\d+\.\d+-[a-z-]+", base)
    assert all(rest.startswith("${PYTHON}") for name, rest in made if name == "FROM")
    last = max(i for i, (name, _) in enumerate(made) if name == "FROM")
    assert ("USER", "1000:1000") in made[last:]
    for name, rest in made:
        if name == "RUN" and "pip install" in rest:
            assert "-c constraints.txt" in rest or "--no-deps" in rest


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_reaches_the_builder(path: Path) -> None:
    allowed = {
        line[1:].removesuffix("/**")
        for line in Path(f"{path}.dockerignore").read_text().splitlines()
        if line[:1] == "!"
    }
    for name, rest in instructions(path):
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in allowed


def test_there_is_one_for_the_engine_and_one_for_the_applications() -> None:
    assert [path.name for path in FILES] == ["earth.Containerfile", "engine.Containerfile"]


# What the images are based on has pip, a way to make environments, and Python by its short name.
BASE = """
FROM scratch
ADD layer.tar /
RUN apt-get update -qq \\
    && apt-get install -y -qq --no-install-recommends python3-venv python-is-python3 \\
    && rm -rf /var/lib/apt/lists/*
"""
Buildah = Callable[..., str]
# What the layers of the applications' image take, twice (as a container, and committed), and their base.
ROOM = 25e9


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    """Run buildah with a store of its own: by chroot, so that no container has to run."""
    require("buildah", shutil.which("buildah"), "there is no buildah: apt-get install buildah")
    require("buildah", sys.platform == "linux" and os.geteuid() == 0, "images are built as root here")
    require("buildah", shutil.which("debootstrap"), "the base is made with debootstrap: apt-get install debootstrap")
    places = ["--storage-driver", "overlay", "--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run")]

    def run(verb: str, *words: str) -> str:
        isolated = ["--isolation", "chroot"] if verb in ("bud", "run") else []
        done = subprocess.run(
            ["buildah", *places, verb, *isolated, *words], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.strip()

    yield run
    shutil.rmtree(tmp_path / "store", ignore_errors=True)


@pytest.fixture
def build(buildah: Buildah, tmp_path: Path) -> Callable[[str], str]:
    """Build an image on Debian's Python, made on this machine, as registries may be out of reach; return a container of it."""

    def build(name: str) -> str:
        with tarfile.open(archive()) as tar:
            layer = tar.extractfile(max(tar.getmembers(), key=lambda member: member.size))
            assert layer is not None
            with (tmp_path / "layer.tar").open("wb") as file:
                shutil.copyfileobj(layer, file)
        (tmp_path / "base.Containerfile").write_text(BASE)
        buildah("bud", "-f", str(tmp_path / "base.Containerfile"), "-t", "localhost/python:base", str(tmp_path))
        # How this machine reaches its package index.
        known = [place for place in ("/etc/pip.conf", "/etc/ssl/certs") if Path(place).exists()]
        mounts = [word for place in known for word in ("--volume", f"{place}:{place}:ro")]
        base = ["--build-arg", "PYTHON=localhost/python:base"]
        buildah("bud", *base, *mounts, "-f", f"images/{name}.Containerfile", "-t", f"localhost/{name}:test", ".")
        return buildah("from", f"localhost/{name}:test")

    return build


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_engines_image_is_built_and_runs_without_rights(
    buildah: Buildah, build: Callable[[str], str], tmp_path: Path
) -> None:
    made = build("engine")
    said = buildah("run", made, "--", "sh", "-c", "id -u; pwd; shoal --version; python -c 'import pandas, pydantic'")
    assert said.splitlines() == ["1000", "/home/shoal", "shoal 0.1.0"]
    assert buildah("run", made, "--", "sh", "-c", "touch /opt/shoal/x 2>&1 || echo refused").endswith("refused")
    (tmp_path / "s.yaml").write_text("study: s\nsteps: {a: {run: 'echo made > {out}/file'}}\n")
    where = ["--volume", f"{tmp_path / 's.yaml'}:/home/shoal/s.yaml:ro"]
    said = buildah("run", *where, made, "--", "sh", "-c", "shoal run s.yaml 2>&1 && cat runs/s/a/*/out/file")
    assert said.splitlines()[-1] == "made"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_applications_image_is_built_and_trains_a_network(
    buildah: Buildah, build: Callable[[str], str], tmp_path: Path
) -> None:
    require("disk", shutil.disk_usage(tmp_path).free > ROOM, f"less than {ROOM / 1e9:.0f} GB are free at {tmp_path}")
    made = build("earth")
    said = buildah(
        "run", made, "--", "sh", "-c", "id -u; python -c 'import torch; print(torch.version.cuda is not None)'"
    )
    assert said.splitlines() == ["1000", "True"]
    where = ["--volume", f"{ROOT / 'studies'}:/home/shoal/studies:ro"]
    words = "shoal run studies/quickstart.yaml --profile smoke --store runs -j 2 2>&1 && cat runs/quickstart/test/*/result.json"
    assert "test/iou" in buildah("run", *where, made, "--", "sh", "-c", words)
