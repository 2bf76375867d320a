"""``shoal schema``: the JSON Schema of the study file."""

from __future__ import annotations

import json

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("schema")(schema)


def schema() -> None:
    """Print the JSON Schema of the study file. An editor completes and checks study files with it."""
    from shoal.study import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
