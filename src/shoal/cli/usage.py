"""``shoal usage``: what a study has cost."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli.common import JsonOption, OnOption, StoreOption, load_results
from shoal.cli.words import console, print_json


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("usage")(usage)


def usage(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study file, or its folder in a store.", show_default=False)
    ],
    by: Annotated[
        list[str] | None,
        typer.Option(
            "--by", metavar="AXIS", help="Group by these axes as well; may be given several times.", show_default=False
        ),
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Show what a study has cost. Hours by step, model and device, with queue, run and waste apart, and advice."""
    found = load_results(study, store, on).usage(by)
    if json:
        print_json(found.to_json())
    else:
        console().print(found.rich())
