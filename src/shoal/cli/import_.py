"""``shoal import``: a study from a configuration of nautiluslauncher."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from shoal.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("import")(import_)


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A configuration of nautiluslauncher.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="STUDY", help="The study file to write.", show_default=False)
    ],
    base: Annotated[
        Path | None,
        typer.Option("--base", "-b", metavar="FILE", help="A configuration it is laid over.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Turn a nautiluslauncher configuration into a study.

    Jobs that differ in a few values become one step with a matrix. What belongs to the cluster (namespace, claims, region, host,
    tolerations) goes into clusters/NAMESPACE.yaml beside the study. What was wrong with the configuration is said.
    """
    from shoal.migrate import migrate

    stem = re.sub(r"[^a-z0-9]+", "-", output.name.partition(".")[0].lower()).strip("-")[:63].rstrip("-")
    made = migrate(file, name=stem or "imported", base=base)
    cluster = output.parent / "clusters" / f"{made.cluster_name}.yaml"
    for path in (output, cluster):
        if path.exists() and not force:
            raise UsageError(f"{path} exists already", hint="Name another with -o, or overwrite both with --force.")
        if path.exists() and path.samefile(file):
            raise UsageError(f"{path} is the configuration itself", hint="Name another with -o.")
    try:
        cluster.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(made.study, encoding="utf-8")
        cluster.write_text(made.cluster, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be written: {error.strerror}") from error
    steps = "one step" if made.steps == 1 else f"{made.steps} steps"
    typer.echo(f"{made.jobs} jobs became {steps} in {output}; the cluster's part is in {cluster}")
    placed = [str(note) for note in made.notes if note.mark is not None]
    others = [note.text for note in made.notes if note.mark is None]
    if placed:
        typer.echo("\nWrong with the configuration:")
        for text in placed:
            typer.echo(f"  {text}")
    if others:
        typer.echo("\nDifferent now:")
        for text in others:
            typer.echo(f"  {text}")
    typer.echo(f"\nNext: shoal plan {output} --on {made.cluster_name}")
