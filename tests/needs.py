"""What a machine may lack, and CI may not."""

from __future__ import annotations

import os

import pytest

__all__ = ["require"]


def require(name: str, present: object, reason: str) -> None:
    """Skip the test where ``present`` is false.

    Where ``SHOAL_REQUIRE`` (comma-separated, as CI sets it) has ``name``, the test fails instead: a check that did not run must
    not look like one that passed.
    """
    if present:
        return
    if name in {part.strip() for part in os.environ.get("SHOAL_REQUIRE", "").split(",")}:
        pytest.fail(f"SHOAL_REQUIRE names {name}, but {reason}", pytrace=False)
    pytest.skip(reason)
