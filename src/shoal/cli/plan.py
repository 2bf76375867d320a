"""``shoal plan``: what would run, and why."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.common import (
    JsonOption,
    OnOption,
    ProfileOption,
    SetOption,
    StoreOption,
    StudyArgument,
    absent_secrets,
    open_study,
)
from shoal.cli.opened import EXECUTORS, Opened
from shoal.cli.words import asks, console, duration, print_json
from shoal.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

    from shoal.clusters import Cluster, Finding
    from shoal.plan import Plan
    from shoal.store import Snapshot
    from shoal.store.state import TaskState


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("plan")(plan)


def plan(
    study: StudyArgument,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
    manifests: Annotated[
        Path | None,
        typer.Option(
            "--manifests",
            metavar="DIR",
            help="With --on CLUSTER: write into this folder what would be submitted, one YAML file a task.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what would run, and why. Starts nothing, and writes nothing but --manifests.

    With --on CLUSTER also shows what the cluster's rules say of it; exits with 2 where the cluster would refuse it.
    """
    from shoal.store import Snapshot
    from shoal.store.sources import read_sources
    from shoal.store.state import survey

    cluster = _cluster(on, study, manifests)
    opened = open_study(study, profile=profile, overrides=set_, store=store, on=on)
    snapshot = Snapshot.read(opened.store, opened.plan.order)
    sources = read_sources(opened.plan.study, data_here=cluster is None)
    states = survey(opened.plan, snapshot, sources)
    findings = None
    if cluster is not None:
        from shoal.cli.on_cluster import check_plan

        findings = check_plan(opened.plan, cluster, states)
    if json:
        print_json(as_json(opened, states, findings))
    else:
        _show(opened, snapshot, states, on, findings)
    if findings is not None and any(finding.level == "error" for finding in findings):
        if manifests is not None:
            typer.echo(f"error: {manifests}: nothing was written, as the cluster would refuse it", err=True)
        raise typer.Exit(2)
    if manifests is not None and cluster is not None:
        from shoal.cli.on_cluster import write

        typer.echo(write(manifests, opened.plan, cluster, states, snapshot, sources), err=True)


def _cluster(on: str | None, study: Path, manifests: Path | None) -> Cluster | None:
    if on is None or on in EXECUTORS:
        if manifests is not None:
            raise UsageError("--manifests is for clusters", hint="Say which: --on nautilus. See: shoal clusters")
        return None
    from shoal.clusters import load_cluster

    return load_cluster(on, beside=study.parent)


def as_json(opened: Opened, states: dict[str, TaskState], findings: list[Finding] | None = None) -> dict[str, Any]:
    """The plan for a program: keys as in ``docs/reference/cli.md``; ``policies`` only on a cluster."""
    policies = {} if findings is None else {"policies": [finding.to_json() for finding in findings]}
    return {
        "study": opened.plan.study.study,
        "tasks": [
            {
                "id": task.id,
                "step": task.step,
                "params": task.params,
                "needs": list(task.needs),
                "state": str(states[task.id].state),
                "reason": None if states[task.id].reason is None else str(states[task.id].reason),
            }
            for task in opened.plan.tasks.values()
        ],
        **policies,
    }


@dataclass(frozen=True, slots=True)
class _Row:
    """A step: how many of its tasks are in which state, why some have to run, and the seconds that finished ones took."""

    step: str
    counts: Counter[str]
    why: str
    seconds: list[float]

    @property
    def estimate(self) -> float | None:
        """Seconds that the tasks to run will take, one after another."""
        todo = self.counts["todo"]
        return statistics.median(self.seconds) * todo if self.seconds and todo else None


def _rows(plan: Plan, snapshot: Snapshot, states: dict[str, TaskState]) -> Iterator[_Row]:
    for step in plan.order:
        tasks = plan.of_step(step)
        counts = Counter(str(states[task.id].state) for task in tasks)
        reasons = Counter(str(reason) for task in tasks if (reason := states[task.id].reason) is not None)
        words = [f"{counts['running']} running now"] if counts["running"] else []
        words += [f"{count} {reason}" for reason, count in reasons.most_common()]
        records = (snapshot.tasks.get(task.id) for task in tasks)
        seconds = [record.seconds for record in records if record is not None and record.result is not None]
        yield _Row(step, counts, " · ".join(words), seconds)


def _show(
    opened: Opened,
    snapshot: Snapshot,
    states: dict[str, TaskState],
    on: str | None,
    findings: list[Finding] | None,
) -> None:
    from rich.markup import escape
    from rich.text import Text

    from shoal.study.pipes import PIPE_NOTE, steps_with_pipes

    out = console()
    study = opened.plan.study
    out.print(f"[bold]{study.study}[/bold]" + (f" · {escape(study.title)}" if study.title else ""))
    out.print(Text(f"store {opened.store.root}", style="dim"), soft_wrap=True)  # a path, or a command, is to be pasted
    out.print()
    rows = list(_rows(opened.plan, snapshot, states))
    out.print(_table(opened, rows))
    out.print()
    if findings is not None:
        from shoal.cli.on_cluster import show_findings

        show_findings(out, str(on), findings)
    for name in steps_with_pipes(study):
        out.print(Text(f"note: {name}: {PIPE_NOTE}", style="yellow"), soft_wrap=True)
    for note in absent_secrets(opened):
        out.print(Text(note, style="yellow"), soft_wrap=True)
    total = sum((row.counts for row in rows), Counter[str]())
    here = on is None or on in EXECUTORS
    if here and total["todo"]:
        _show_absent_scripts(out, opened)
    start = "Once that data is there, start" if here and _show_absent(out, opened, states) else "Start"
    estimates = [row.estimate for row in rows if row.estimate is not None]
    if estimates:
        rested = sum(len(row.seconds) for row in rows)
        said = f"Estimates rest on {rested} finished tasks of this study (median), one after another"
        out.print(Text(f"{said}: ~{duration(sum(estimates))}.", style="dim"))
    again = f"{opened.file}{opened.options}" + (f" --on {on}" if on else "")
    if any(finding.level == "error" for finding in findings or ()):
        then = f"{on} would refuse this: mend what is marked error first, and plan again."
    elif total["todo"]:
        then = f"{total['todo']} of {total.total()} tasks to run. {start} with: shoal run {again}"
    elif total["gate"]:
        then = f"Nothing to run before a person approves: shoal approve {again}"
    elif total["running"]:
        then = f"{total['running']} of {total.total()} tasks are running now. See: shoal status {opened.look}"
    else:
        then = f"All {total.total()} tasks are done. See: shoal {opened.look_with} {opened.look}"
    out.print(escape(then), soft_wrap=True)


def _table(opened: Opened, rows: list[_Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("step", overflow="fold")
    for name in ("tasks", "done", "run"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why")
    table.add_column("each")
    table.add_column("estimate", justify="right", no_wrap=True)
    for row in rows:
        done, todo = row.counts["done"], row.counts["todo"]
        gate = opened.plan.study.steps[row.step].gate is not None
        table.add_row(
            Text(row.step, style="cyan"),
            str(row.counts.total()),
            Text(str(done), style="green") if done else Text("-", style="dim"),
            Text(str(todo), style="bold") if todo else Text("-", style="dim"),
            Text(row.why),
            Text("a person" if gate else _each(opened, row.step), style="dim"),
            Text("" if row.estimate is None else f"~{duration(row.estimate)}", style="dim"),
        )
    return table


def _show_absent(out: Any, opened: Opened, states: dict[str, TaskState]) -> bool:
    """Say which data is not there that tasks to run would need; return whether there is such."""
    from rich.text import Text

    from shoal.store.sources import absent_data
    from shoal.store.state import State

    plan = opened.plan
    todo = [name for name in plan.order if any(states[t.id].state is State.TODO for t in plan.of_step(name))]
    needed: dict[str, list[str]] = {}
    for name, _, place in absent_data(plan.study, todo):
        needed.setdefault(place, []).append(name)
    for place, names in needed.items():
        said = Text(f"note: {', '.join(names)} will need data that is not there: {place}", style="yellow")
        out.print(said, soft_wrap=True)
    return bool(needed)


def _show_absent_scripts(out: Any, opened: Opened) -> None:
    from rich.text import Text

    from shoal.store.sources import absent_scripts
    from shoal.study.problems import nearest

    study = opened.plan.study
    for name, script in absent_scripts(study):
        folder = (study.folder / script).parent
        near = nearest(Path(script).name, [path.name for path in folder.glob("*")]) if folder.is_dir() else None
        meant = f"; did you mean {Path(script).with_name(near)}?" if near else ""
        out.print(
            Text(f"note: {name} names a script that is not there: {script}{meant}", style="yellow"), soft_wrap=True
        )


def _each(opened: Opened, step: str) -> str:
    from shoal.plan import resources_of

    kinds = dict.fromkeys(asks(resources_of(opened.plan, task)) for task in opened.plan.of_step(step)[:2000])
    shown = list(kinds)
    return shown[0] if len(shown) == 1 else f"{shown[0]} … {shown[-1]}" if shown else ""
