"""The page of failures has every sentence that an attempt can fail with."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("src/shoal/executors/**/*.py"), *ROOT.glob("src/shoal/agent/*.py")])
# Put together of words that are checked elsewhere, or the words of others.
ELSEWHERE = {"%s: %s"}


def constants(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return [part.value for part in node.values if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    if isinstance(node, ast.BinOp):
        return constants(node.left) + constants(node.right)
    return []


def sentences(path: Path) -> dict[str, int]:
    """The longest constant words of what is said in `Failure(class, HERE)`, `failure(class, HERE)`, `fail(spec, code, HERE)`."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
        place = {"Failure": 1, "failure": 1, "_failure": 1, "fail": 2}.get(name)
        if place is not None and len(node.args) > place:
            words = [part for text in constants(node.args[place]) for part in re.split(r"%\w", text)[:1]]
            if longest := max(words, key=len, default="").strip(" .:("):
                found[" ".join(longest.split()).lower()] = node.lineno
    return found


@pytest.mark.parametrize("path", [path for path in SOURCES if sentences(path)], ids=lambda path: path.name)
def test_the_page_of_failures_has_every_sentence(path: Path) -> None:
    page = (ROOT / "docs" / "guides" / "failures.md").read_text()
    plain = " ".join(re.sub(r"[*`]", "", page).split()).lower()
    missing = {text: line for text, line in sentences(path).items() if text not in plain and text not in ELSEWHERE}
    assert not missing, f"{path.name}: not in docs/guides/failures.md"


def test_sentences_are_found() -> None:
    assert sum(len(sentences(path)) for path in SOURCES) > 40
