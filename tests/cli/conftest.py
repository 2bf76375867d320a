"""A folder with a study, and Shoal as a process in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from shoal_demo import STUDY, TRAIN, Run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "train.sh").write_text(TRAIN)
    (tmp_path / "data.txt").write_text("one")
    return tmp_path


@pytest.fixture
def shoal(folder: Path) -> Run:
    def run(*arguments: str, code: int | None = 0, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "shoal", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            **kwargs,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if code is not None:
            assert done.returncode == code, done.stdout + done.stderr
        return done

    return run
