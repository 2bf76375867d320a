"""The tutorial does what it says: every command of it is run, in order, in an empty folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from transcript import rewrite_page, run_page

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"


def test_the_tutorial_runs_as_shown(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env["COLUMNS"] = "120"
    commands = run_page(PAGE, tmp_path, env)
    if os.environ.get("SHOAL_WRITE_DOCS"):
        rewrite_page(PAGE, commands, tmp_path)
        return
    assert len(commands) > 10
    problems = [problem for command in commands if (problem := command.problem())]
    assert not problems, "\n\n".join(problems)
    assert "</html>" in (tmp_path / "runs" / "circle" / "report.html").read_text()
