"""What the pages say is so: studies shown can be planned, keys documented are those printed, code shown is Python."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.failures import FailureClass
from shoal.plan import build
from shoal.study import parse_study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"^```(?P<kind>[a-z]+)[^\n]*\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[Any]:
    """All code blocks of a kind, named by page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in _BLOCK.finditer(text):
            if block["kind"] == kind:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block["body"], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


@pytest.mark.parametrize("text", [block for block in blocks("yaml") if str(block.values[0]).startswith("study:")])
def test_studies_shown_can_be_planned(text: str) -> None:
    plan = build(parse_study(text))
    assert plan.tasks


@pytest.mark.parametrize("text", blocks("python"))
def test_python_shown_is_python(text: str) -> None:
    ast.parse(text)


def shoal(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "shoal", *arguments], cwd=folder, env=env, capture_output=True, text=True
    )


def documented(section: str) -> set[str]:
    """The keys that the page on the command line documents in a section: `tasks[].id` as `tasks.id`."""
    page = (ROOT / "docs/reference/cli.md").read_text()
    text = page.split(f"### {section}\n")[1].split("\n##")[0].split("\n| reason")[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {key.removesuffix("[]").replace("[]", "") for row in rows for key in re.findall(r"`([^`]+)`", row)}


def keys(value: Any, above: str = "") -> set[str]:
    """All keys that something printed has, down to the items of its lists."""
    if isinstance(value, list):
        return {key for item in value for key in keys(item, above)}
    if not isinstance(value, dict) or above in ("tasks.params", "steps.counts", "runner", "tasks.failure"):
        return set()
    own = {f"{above}.{key}".lstrip(".") for key in value}
    return own | {key for name, item in value.items() for key in keys(item, f"{above}.{name}".lstrip("."))}


def test_json_keys_are_those_documented(tmp_path: Path) -> None:
    steps = "a: {run: 'true {x}', matrix: {x: [1, 2]}}, b: {needs: a, run: 'false'}, g: {needs: a, gate: Look}"
    study = f"study: s\nsteps: {{{steps}}}\n"
    (tmp_path / "study.yaml").write_text(study)
    assert shoal("run", "study.yaml", folder=tmp_path).returncode == 1
    for verb, *options in (("plan", "--on", "nautilus"), ("status",)):
        done = shoal(verb, "study.yaml", "--json", *options, folder=tmp_path)
        printed = json.loads(done.stdout)
        assert keys(printed) - {"tasks", "steps"} == documented(f"shoal {verb} --json") - {"tasks", "steps"}, verb
    assert {task["state"] for task in printed["tasks"]} == {"done", "failed", "gate"}


def test_every_file_left_behind_is_described(tmp_path: Path) -> None:
    script = "import shoal; shoal.task().log({'x': 1}); (shoal.task().out / 'mine.txt').write_text('')"
    (tmp_path / "a.py").write_text(script)
    (tmp_path / "study.yaml").write_text("study: s\nsteps: {a: {run: [python, a.py], code: a.py}}\n")
    assert shoal("run", "study.yaml", folder=tmp_path).returncode == 0
    page = (ROOT / "docs/reference/files.md").read_text().split("```")[1]
    left = [found.relative_to(tmp_path / "runs") for found in (tmp_path / "runs").rglob("*") if found.is_file()]
    names = {name.name for name in left if "out" not in name.parts and "code" not in name.parts}
    assert {"plan.json", "result.json", "metrics.jsonl", "environment.json"} <= names
    # 1.json is <n>.json there; -wal and -shm are SQLite's, beside its file.
    known = {
        name for name in names if re.sub(r"^\d+\.", "<n>.", name).removesuffix("-wal").removesuffix("-shm") in page
    }
    assert names == known


def test_reasons_and_states_are_documented() -> None:
    from shoal.store.state import Reason, State

    page = (ROOT / "docs/reference/cli.md").read_text()
    assert [word for word in (*Reason, *State) if f"`{word}`" not in page] == []


def test_every_class_of_failure_is_explained() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        from hooks import failure_classes
    finally:
        sys.path.remove(str(ROOT / "docs"))
    table = failure_classes()
    assert table.count("\n") == len(FailureClass) + 1
    assert "<!-- made: failures -->" in (ROOT / "docs/guides/failures.md").read_text()


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_outside_of_docs_lead_somewhere(page: Path) -> None:
    # mkdocs checks those between its own pages.
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_documents_build_strictly_and_a_broken_link_is_noticed(tmp_path: Path) -> None:
    def build_docs(out: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / out), "-f"]
        env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
        done = subprocess.run([*command, str(copy / "mkdocs.yml")], env=env, capture_output=True, text=True)
        return done.returncode, done.stderr

    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "docs", copy / "docs")
    shutil.copy(ROOT / "mkdocs.yml", copy)
    (copy / "src").symlink_to(ROOT / "src")
    assert build_docs("good")[0] == 0, build_docs("good")[1]
    with (copy / "docs" / "index.md").open("a") as page:
        page.write("\n[nowhere](guides/nowhere.md)\n")
    code, said = build_docs("bad")
    assert code == 1
    assert "guides/nowhere.md" in said


def test_readme_shows_the_quickstart_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = next(block["body"] for block in _BLOCK.finditer(readme) if block["kind"] == "yaml")
    assert shown.strip() in (ROOT / "studies/quickstart.yaml").read_text()


def test_exit_codes_are_documented() -> None:
    from shoal.errors import HeldError, ShoalError, UsageError

    page = (ROOT / "docs/reference/cli.md").read_text().split("## Exit codes")[1].split("\n## ")[0]
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert codes == {0, ShoalError.exit_code, UsageError.exit_code, 3, HeldError.exit_code, 130}
