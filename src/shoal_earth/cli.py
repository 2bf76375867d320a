"""``shoal-earth``: one group of commands for each application.

A group is a module with a ``typer`` app that imports nothing heavy; add it to ``GROUPS``.
"""

from __future__ import annotations

import logging
import os
import sys

import typer

from shoal.errors import ShoalError
from shoal_earth.burned_area import cli as burned_area
from shoal_earth.change import cli as change
from shoal_earth.deforestation import cli as deforestation
from shoal_earth.detection import cli as detection
from shoal_earth.predict import predict_command
from shoal_earth.rasters import cli as scenes
from shoal_earth.segmentation import cli as segmentation

__all__ = ["main"]

GROUPS = {
    "burned-area": burned_area.app,
    "change": change.app,
    "deforestation": deforestation.app,
    "detection": detection.app,
    "scenes": scenes.app,
    "segmentation": segmentation.app,
}

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Remote-sensing applications on Shoal: from scenes and polygons to trained, tested models.",
)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)
app.command("predict")(predict_command)


@app.callback()
def _options() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # What goes wrong in them is raised, and then said once.
    for library in ("rasterio", "pyogrio", "stamina", "urllib3"):
        logging.getLogger(library).setLevel(logging.CRITICAL)


def main() -> None:
    """The command ``shoal-earth``: an error that has a known cause is one message, never a traceback."""
    # GDAL keeps decoded blocks in a twentieth of the machine's memory, which may be more than a container was given.
    os.environ.setdefault("GDAL_CACHEMAX", "512")
    try:
        app()
    except ShoalError as error:
        print(f"shoal-earth: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
