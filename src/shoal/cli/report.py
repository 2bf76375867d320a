"""``shoal report``: the study as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.common import OnOption, StoreOption, load_results


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("report")(report)


def report(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study file, or its folder in a store.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "--out",
            "-o",
            metavar="FILE",
            help="Where to write it [default: report.html in the study's store].",
            show_default=False,
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Write the study's report, one HTML page. It works offline and can be sent to anyone."""
    from shoal.report import write_report

    data = load_results(study, store, on).data
    written = write_report(data, out or Path(data.folder) / "report.html")
    typer.echo(str(written))
    if open_:
        typer.launch(written.absolute().as_uri())
