"""What all tests share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from beds import bed, cluster, queue_bed, real_bed  # noqa: F401  (fixtures for all)
from needs import require

# How long an example takes says more about the machine than about the code.
settings.register_profile("shoal", deadline=None)
settings.load_profile("shoal")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of real sample data that ``SHOAL_FIXTURES`` names."""
    folder = Path(os.environ.get("SHOAL_FIXTURES", "-"))
    require("fixtures", folder.is_dir(), "SHOAL_FIXTURES names no folder of sample data")
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run ``shoal-earth`` here: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from shoal_earth.cli import main

        monkeypatch.delenv("SHOAL_SPEC", raising=False)
        monkeypatch.setattr(sys, "argv", ["shoal-earth", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
