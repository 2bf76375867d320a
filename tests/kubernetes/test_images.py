"""The Containerfiles, as far as they can be checked without building them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
