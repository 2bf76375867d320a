"""Write a study's report: one HTML page that needs nothing else, not even a network."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from shoal.errors import StoreError
from shoal.report.curves import Curves, collect_curves
from shoal.report.details import collect_details
from shoal.report.effects import effects, interaction
from shoal.report.failures import group_failures
from shoal.report.payload import (
    chart_specs,
    colour_axis,
    curve_labels,
    curves_json,
    pictures_json,
    table_cells,
    to_script,
    trials_json,
)
from shoal.report.pictures import Pictures, collect_pictures
from shoal.report.provenance import collect_provenance
from shoal.report.scatter import collect_scatters, detail_chart
from shoal.report.summary import compared, cost_line, outcome, progress, state_counts, value_digits
from shoal.report.timeline import make_timeline
from shoal.report.trials import Trials, find_trials
from shoal.results import ResultError, StudyData, Table, read_store, report_tables, usage_summary
from shoal.results.data import amount, show_hours
from shoal.results.formats import cell_text, column_head, has_ranks, hours_text, rank_text
from shoal.units import format_size

__all__ = ["render_report", "write_report"]

#: Rows of a leaderboard on the page; the list of all trials follows it.
ROWS = 60
_EXPOSE = "window.vegaEmbed = vegaEmbed;"


def write_report(study: StudyData | Path | str, path: Path | str) -> Path:
    """Write the report of a study as one HTML file that opens from disk and fetches nothing.

    Args:
        study: what :func:`shoal.results.read_store` gave, or the folder of a study in the store.
        path: the file to write; its folder is made when missing.

    Returns:
        The absolute path of the file.

    Raises:
        UsageError: no study is there.
        StoreError: the plan is damaged, or the file cannot be written.
    """
    path = Path(path).absolute()
    # The runtime for the charts takes a while to unpack: meanwhile the store is read.
    with ThreadPoolExecutor(1) as pool:
        runtime = pool.submit(_runtime)
        data = study if isinstance(study, StudyData) else read_store(study)
        page = render_report(data, runtime.result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(page)
                file.close()
                Path(file.name).chmod(0o666 & ~_umask())
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        hint = "Write it elsewhere: shoal report STUDY -o FILE"
        raise StoreError(f"the report cannot be written ({error.strerror})", path=path, hint=hint) from None
    return path


def render_report(data: StudyData, runtime: Any = None) -> str:
    """Return the report's HTML.

    Args:
        data: the study.
        runtime: a function that returns the script which draws charts; vl-convert's when absent.
    """
    import jinja2

    trials = find_trials(data)
    usage = usage_summary(data)
    tables = report_tables(data)
    digits = value_digits(trials)
    found = effects(trials, digits)
    pair = interaction(trials, found)
    curves = collect_curves(data, trials)
    timeline = make_timeline(data, trials)
    boards = [_board(trials, t, i) for i, t in enumerate(tables)]
    tops = _tops(trials, tables)
    pictures = collect_pictures(data, trials, tops)
    details = collect_details(data, trials, tops)
    scatters = collect_scatters(data, trials)
    specs, configurations = chart_specs(trials, found, pair, curves, timeline)
    specs |= {f"scatter-{n}": s.spec for n, s in enumerate(scatters) if s.spec}
    if any(own["curves"] for own in details.trials.values()):
        specs["detail"] = detail_chart()
    failures = group_failures(data, trials)
    coloured = colour_axis(trials)
    payload = {
        "study": data.study,
        "trials": trials_json(data, trials),
        "tables": [b["members"] for b in boards],
        "curves": curves_json(curves, trials),
        "pictures": pictures_json(pictures),
        "details": {"trials": {str(i): own for i, own in details.trials.items()}, "first": details.first},
        "failures": [g.trials for g in failures],
        "charts": specs,
    }
    style, script = _asset("report.css"), _asset("report.js")
    vega = (runtime or _runtime)()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(amount=amount, hours=show_hours, size=format_size)
    environment.filters.update(percent=lambda share: f"{share:.0%}", count=lambda number: f"{number:,}")
    return environment.from_string(_asset("template.html.j2")).render(
        data=data,
        title=data.title or data.study,
        compared=compared(trials),
        outcome=outcome(trials),
        progress=progress(trials),
        cost=cost_line(usage),
        trials=trials,
        states=state_counts(data),
        boards=boards,
        effects=found,
        pair=pair,
        uneven=any(len({b.n for b in e.boxes}) > 1 for e in found),
        configurations=configurations,
        charts=specs,
        curves=curves,
        curve_note=_curve_note(curves, trials),
        colour=trials.axes[coloured].name if coloured >= 0 else "",
        colours=curve_labels(trials),
        scatters=scatters,
        details=details,
        pictures=pictures,
        picture_note=_picture_note(pictures),
        timeline=timeline,
        usage=usage,
        failures=failures,
        origin=collect_provenance(data, trials),
        made=datetime.fromtimestamp(data.read_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        policy=_policy(style, vega, script),
        style=style,
        vega=vega,
        script=script,
        payload=to_script(payload),
    )


def _board(trials: Trials, table: Table | ResultError, number: int) -> dict[str, Any]:
    """Return a leaderboard for the template: texts, and for each cell where its trials are in the payload."""
    if isinstance(table, ResultError):
        return {"error": str(table), "members": [], "title": ""}
    ranks = has_ranks(table)
    cells = []
    for row in table.row_keys[:ROWS]:
        line = []
        for column in table.column_keys:
            cell = table.cells.get((row, column))
            text = cell_text(cell, table.digits[column])
            mean, _, rest = text.partition(" ")
            picked = ", ".join(f"{k} {v}" for k, v in cell.picked.items()) if cell else ""
            line.append(
                {"cell": cell, "mean": mean, "rest": rest, "best": bool(cell and cell.is_best), "picked": picked}
            )
        cells.append(
            {
                "labels": table.row_labels[row],
                "cells": line,
                "rank": rank_text(table.row_rank[row]) if ranks else None,
                "hours": hours_text(table, row),
            }
        )
    members = table_cells(trials, table)
    return {
        "error": "",
        "number": number,
        "title": table.title,
        "caption": table.caption,
        "rows": table.rows,
        "columns": [column_head(table, c) for c in table.column_keys],
        "ranks": ranks,
        "hours_of": table.hours_of,
        "lines": cells,
        "more": max(0, len(table.row_keys) - ROWS),
        "notes": table.notes,
        "members": members[:ROWS],
    }


def _tops(trials: Trials, tables: list[Table | ResultError]) -> list[int]:
    """Return the best trial of each leaderboard cell: those whose pictures people will ask for."""
    place = {t: i for i, t in enumerate(trials.ranked())}
    found: dict[int, None] = {}
    for table in tables:
        if isinstance(table, Table):
            for row in table_cells(trials, table):
                for members in row:
                    known = [m for m in members if m in place]
                    if known:
                        found[min(known, key=place.__getitem__)] = None
    return sorted(found, key=place.__getitem__)


def _curve_note(curves: Curves, trials: Trials) -> str:
    if not curves.sources:
        return ""
    drawn = len(curves.sources)
    if drawn == curves.read == curves.total:
        return ""
    note = f"Drawn are {drawn} of {curves.total:,} curves: the best, and a sample of the others."
    if any(curves.bands.values()):
        of = "all" if curves.read == curves.total else f"{curves.read:,}"
        note += f" The band holds the middle four fifths of {of}, the dashed line is their median."
    return note


def _picture_note(pictures: Pictures) -> str:
    if not pictures.left_out:
        return ""
    return (
        f"{pictures.left_out} pictures are left out: they could not be read, or the page would have become too large."
    )


def _policy(style: str, *scripts: str) -> str:
    """Return a policy under which nothing runs but this page's own scripts, and nothing is fetched."""
    run = " ".join(f"'sha256-{_digest(s)}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {run}; style-src 'sha256-{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _runtime() -> str:
    import vl_convert

    # Inside an HTML page the text "</script" would end the script, wherever it stands.
    return (
        str(vl_convert.javascript_bundle(_EXPOSE)).replace("</script", "<\\/script").replace("<!--", "<\\!--").strip()
    )


@cache
def _asset(name: str) -> str:
    return files("shoal.report").joinpath(name).read_text(encoding="utf-8").strip()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
