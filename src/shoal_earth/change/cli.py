"""``shoal-earth change import | train | test | export``: models of pairs. All but the import is segmentation's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shoal_earth.options import Out
from shoal_earth.segmentation.cli import export_command, score_command, train_command

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Change between two dates. Models of pairs, published datasets.")
app.command("train")(train_command)
app.command("test")(score_command)
app.command("export")(export_command)


@app.command("import")
def import_command(
    dataset: Annotated[
        Path, typer.Argument(help="Folder of OSCD, LEVIR-CD, A/ B/ label/ list/, or HLS Burn Scars; CaBuAr.")
    ],
    out: Out = None,
) -> None:
    """Turn a published dataset into shards. They are read faster; train and test take its own folder too, but of CaBuAr."""
    from shoal_earth.change.folders import convert
    from shoal_earth.session import current_task

    task = current_task(out)
    counts = convert(dataset, Path(task.out))
    typer.echo(", ".join(f"{count} chips for {split}" for split, count in counts.items()))
    task.log({f"chips/{split}": float(count) for split, count in counts.items()})
