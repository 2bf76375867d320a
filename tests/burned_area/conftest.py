"""A generated world of fires, and what the study's data steps make of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.rasters.conftest import serve  # noqa: F401  (a fixture)

from shoal_earth.burned_area.synthetic import BurnedWorld, make_burned_world

from .pipeline import run


@pytest.fixture(scope="session")
def burned(tmp_path_factory: pytest.TempPathFactory) -> BurnedWorld:
    """Five tiles, four dates, twenty fires, every third product a zip."""
    return make_burned_world(tmp_path_factory.mktemp("burned") / "world", size=180, image="tif")


@pytest.fixture(scope="session")
def made(burned: BurnedWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data steps, in two batches for each set."""
    out = tmp_path_factory.mktemp("burned") / "made"
    run(burned.folder, out, 2)
    return out
