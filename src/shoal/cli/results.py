"""``shoal results``: the tables of a study."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shoal.cli.common import OnOption, StoreOption, load_results
from shoal.cli.words import console
from shoal.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("results")(results)


def results(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="The study file, or its folder in a store.", show_default=False)
    ],
    format_: Annotated[str, typer.Option("--format", "-f", help="One of: table, csv, json, md, latex.")] = "table",
    json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows", metavar="AXIS", help="An axis for the rows, instead of the study's tables.", show_default=False
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", metavar="AXIS", help="An axis for the columns.", show_default=False)
    ] = None,
    value: Annotated[
        list[str] | None, typer.Option("--value", metavar="METRIC", help="What the cells show.", show_default=False)
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option("--over", metavar="AXIS", help="An axis to take mean and spread over.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="AXIS=VALUE", help="Only trials with this value.", show_default=False),
    ] = None,
    tasks: Annotated[bool, typer.Option("--tasks", help="One row a task instead of tables.")] = False,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Print the study's tables. Those that its report section asks for, or one made here with --rows and --columns."""
    from shoal.results import FORMATS, ResultError, Table, render_table, report_tables, table_rich

    format_ = "json" if json else format_
    if format_ not in FORMATS:
        raise UsageError(f"--format {format_}: unknown", hint=f"One of: {', '.join(FORMATS)}.")
    found = load_results(study, store, on)
    if tasks:
        _print_tasks(found, format_)
        return
    made: list[Table | ResultError]
    if rows or columns or value or over or where:
        made = [found.table(rows=rows or (), columns=columns or (), value=value, over=over or (), where=_where(where))]
    else:
        made = report_tables(found.data)
    if not made:
        raise UsageError(
            "the study names nothing to compare",
            hint="Add a report section with an objective or tables, ask with --rows and --value, or see --tasks.",
        )
    errors = [table for table in made if isinstance(table, ResultError)]
    tables = [table for table in made if not isinstance(table, ResultError)]
    if format_ == "json":
        import json as json_

        from shoal.results import table_json

        typer.echo(json_.dumps([table_json(table) for table in tables], indent=1, ensure_ascii=False))
    elif format_ == "table" and sys.stdout.isatty():
        for table in tables:
            console().print(table_rich(table))
    else:
        typer.echo("\n".join(render_table(table, format_) for table in tables), nl=False)
    for error in errors:
        typer.echo(f"error: {error}", err=True)
    if errors:
        raise typer.Exit(errors[0].exit_code)


def _where(items: list[str] | None) -> dict[str, object]:
    from shoal.study import parse_value

    found: dict[str, object] = {}
    for item in items or ():
        axis, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"--where {item}: write AXIS=VALUE")
        found[axis] = parse_value(value)
    return found


def _print_tasks(found: object, format_: str) -> None:
    from shoal.results import StudyResults

    assert isinstance(found, StudyResults)
    frame = found.results()
    if format_ == "csv":
        typer.echo(frame.to_csv(index=False), nl=False)
    elif format_ == "json":
        typer.echo(frame.to_json(orient="records", indent=1, double_precision=15))
    elif format_ == "md":
        typer.echo("| " + " | ".join(map(str, frame.columns)) + " |")
        typer.echo("|" + " --- |" * len(frame.columns))
        for row in frame.astype(object).where(frame.notna(), "").itertuples(index=False):
            typer.echo("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |")
    elif format_ == "latex":
        raise UsageError("--tasks --format latex: a row a task is not a table for a paper", hint="Use csv.")
    else:
        # As objects, or a missing text would read "None" and a missing number make a column of another kind.
        typer.echo(frame.astype(object).where(frame.notna(), "").to_string(index=False))
