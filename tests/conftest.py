"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from needs import require


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of real sample data that ``SHOAL_FIXTURES`` names."""
    folder = Path(os.environ.get("SHOAL_FIXTURES", "-"))
    require("fixtures", folder.is_dir(), "SHOAL_FIXTURES names no folder of sample data")
    return folder
