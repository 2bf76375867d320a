"""What the guides on clusters and migration show is so."""

from __future__ import annotations

import os
import re
import types
import typing
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel

from shoal.clusters import Cluster, check, parse_cluster
from shoal.migrate import migrate
from shoal.plan import build
from shoal.study import parse_study

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
_BLOCK = re.compile(r"^( *)```yaml\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """The YAML blocks of a page, without their indentation."""
    found = _BLOCK.findall((GUIDES / page).read_text())
    return [re.sub(rf"^{indent}", "", body, flags=re.M) for indent, body in found]


def test_cluster_files_shown_are_cluster_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    claim, mine, own, *more = [text for text in blocks("cluster.md") if not text.startswith("runner:")]
    kubernetes_validate.validate(yaml.safe_load(claim), "1.34", strict=True)
    assert "runner:" in (GUIDES / "cluster.md").read_text()
    for text in (mine, own, *more):
        cluster = parse_cluster(text)
        assert cluster.store is not None
        study = parse_study(blocks("migrating.md")[-1])
        assert [one.text for one in check(build(study), cluster) if one.level == "error"] in (
            [],
            ["step train: no GPU is called rtx3090 on <string>", "step train: no GPU is called a10 on <string>"],
        )


def test_the_import_shown_is_what_comes_out(tmp_path: Path) -> None:
    config, shown = blocks("migrating.md")[:2]
    path = tmp_path / "jobs.yaml"
    path.write_text(config)
    made = migrate(path, name="detection")
    assert made.study.partition("\n")[2] == shown


@pytest.mark.parametrize("text", [one for one in blocks("migrating.md") if one.startswith("study:")])
def test_studies_shown_plan_and_run_on_nautilus(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    plan = build(parse_study(text))
    found = check(plan, parse_cluster("extends: nautilus\nstore: {claim: results}\n", "mine.yaml"))
    assert not [one for one in found if one.level in ("warn", "error")]


def rows(model: type[BaseModel], above: str = "") -> list[str]:
    """A line of the table for each key, those of inner mappings after theirs."""
    made = []
    for name, field in model.model_fields.items():
        made.append(f"| `{above}{name}` | {field.description} |")
        kinds = [field.annotation]
        while kinds:
            kind = kinds.pop()
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                of = {dict: "NAME.", tuple: "[]."}.get(typing.get_origin(field.annotation) or types.NoneType, "")
                made += rows(kind, f"{above}{name}{'.' if of != '[].' else ''}{of}")
            else:
                kinds += [one for one in typing.get_args(kind) if not isinstance(one, str)]
    return made


def test_every_key_of_a_cluster_file_is_described() -> None:
    """`SHOAL_WRITE_DOCS=1` writes the table anew from the descriptions in the code."""
    page = GUIDES / "cluster.md"
    head, sign, _ = page.read_text().partition("## Every key of a cluster file\n")
    table = "\n| key | what it is |\n|---|---|\n" + "\n".join(rows(Cluster)) + "\n"
    if os.environ.get("SHOAL_WRITE_DOCS"):
        page.write_text(head + sign + table)
    assert page.read_text() == head + "## Every key of a cluster file\n" + table
