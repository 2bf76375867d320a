"""What all tests share: the word for what a machine may lack, and that CI may not lack it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Require = Callable[[str, object, str], None]


@pytest.fixture(scope="session")
def require() -> Require:
    """``require(name, present, reason)``: skip the test where ``present`` is false.

    Where ``SHOAL_REQUIRE`` (comma-separated, as CI sets it) names it, the test fails instead: a check that did not run must
    not look like one that passed.
    """
    demanded = {name.strip() for name in os.environ.get("SHOAL_REQUIRE", "").split(",") if name.strip()}

    def check(name: str, present: object, reason: str) -> None:
        if present:
            return
        if name in demanded:
            pytest.fail(f"SHOAL_REQUIRE names {name}, but {reason}", pytrace=False)
        pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def fixtures(require: Require) -> Path:
    """The folder of real sample data: ``SHOAL_FIXTURES``."""
    folder = os.environ.get("SHOAL_FIXTURES")
    require("fixtures", folder and Path(folder).is_dir(), f"SHOAL_FIXTURES is no folder: {folder!r}")
    assert folder is not None
    return Path(folder)
