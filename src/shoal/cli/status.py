"""``shoal status``: how far a study is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import typer

from shoal.cli.common import (
    JsonOption,
    OnOption,
    Opened,
    ProfileOption,
    SetOption,
    StoreOption,
    StudyArgument,
    console,
    open_study,
    print_json,
)

if TYPE_CHECKING:
    from shoal.results.platform import UseFinding


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status")(status)


def status(
    study: StudyArgument,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
    json: JsonOption = False,
) -> None:
    """Show how far a study is. Counts by step, what runs, and what failed with one sentence each."""
    opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    found = survey_status(opened)
    if json:
        print_json(found)
    else:
        _show(found, str(study))
        if (following := _next(found, opened, str(study))) is not None:
            typer.echo(f"  {following}")


def survey_status(opened: Opened) -> dict[str, Any]:
    """The state of a study for a program: keys as in ``docs/reference/cli.md``."""
    from shoal.cli.detached import live
    from shoal.store import Snapshot, holder, read_json
    from shoal.store.sources import read_sources
    from shoal.store.state import State, survey

    plan = opened.plan
    inside = live(opened.store)
    runner = holder(opened.store.lock) if inside is None else inside.to_json()
    snapshot = Snapshot.read(opened.store, plan.order)
    states = survey(plan, snapshot, read_sources(plan.study, data_here=opened.on is None))
    steps = []
    tasks = []
    for name in plan.order:
        counts = Counter[str]()
        for task in plan.of_step(name):
            state = states[task.id]
            word = str(state.reason) if state.reason in ("failed", "interrupted") else str(state.state)
            record = snapshot.tasks.get(task.id)
            last = record.last if record else None
            why = None
            if runner is not None and state.state is State.TODO and last is not None and last.state == "unstarted":
                # Handed over, and not begun: where that takes a while, the executor says why.
                word = "waiting"
                waits = read_json(opened.store.task(name, task.id).attempt(last.number) / "waiting.json") or {}
                why = waits.get("message")
            counts[word] += 1
            failure = last.failure if last is not None and state.state is not State.DONE else None
            tasks.append(
                {
                    "id": task.id,
                    "step": name,
                    "params": task.params,
                    "state": word,
                    "attempts": last.number if last else 0,
                    "waiting": why,
                    "failure": failure and {"class": failure.get("class"), "message": failure.get("message")},
                }
            )
        steps.append({"step": name, "tasks": sum(counts.values()), "counts": dict(counts)})
    return {
        "study": plan.study.study,
        "store": str(opened.store.root),
        "runner": runner,
        "steps": steps,
        "tasks": tasks,
        "policies": [one.to_json() for one in use_of(opened)],
    }


def use_of(opened: Opened) -> list[UseFinding]:
    """What the platform's rules say of what was used of what was asked for; nothing on this machine."""
    from shoal.results.platform import read_rules, use_findings

    if not opened.store.plan.is_file() or not read_rules(opened.store.root):
        return []
    from shoal.results import read_store

    return use_findings(read_store(opened.store.root))


_STYLES = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", "gate": "yellow"}
_WORDS = {"todo": "to run", "gate": "for a person"}


def _show(found: dict[str, Any], file: str) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    head = Text(found["study"], style="bold")
    runner = found["runner"]
    if runner is not None:
        head.append(
            f"   run by {runner.get('user')} on {runner.get('host')}, process {runner.get('pid')}", style="default"
        )
    else:
        head.append("   no runner", style="dim")
    out.print(head)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for step in found["steps"]:
        words = Text()
        for word, count in step["counts"].items():
            words.append(" · " if words else "").append(
                f"{count} {_WORDS.get(word, word)}", style=_STYLES.get(word, "dim")
            )
        table.add_row(Text(f"  {step['step']}", style="cyan"), Text(str(step["tasks"]), justify="right"), words)
    out.print(table)
    running = [task for task in found["tasks"] if task["state"] == "running"]
    for task in running[:12]:
        out.print(Text(f"  running  {task['step']} {task['id']}  {_point(task['params'])}", style="cyan"))
    waits = Counter(task["waiting"] for task in found["tasks"] if task["waiting"])
    for why, count in waits.most_common(5):
        out.print(Text(f"  {count} {'waits' if count == 1 else 'wait'}: {why}", style="yellow"))
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for task in found["tasks"]:
        if task["state"] == "failed" and task["failure"]:
            key = (task["step"], str(task["failure"]["class"]), str(task["failure"]["message"]))
            groups.setdefault(key, []).append(task)
    for (step, _, message), tasks in sorted(groups.items(), key=lambda item: -len(item[1]))[:10]:
        point = _point(tasks[0]["params"])
        one_task = f"{step} {tasks[0]['id']}" + (f" ({point})" if point else "")
        many = f"{len(tasks)} tasks of {step}" if len(tasks) > 1 else one_task
        out.print(Text(f"  ! {many}: {message}", style="red"))
        out.print(Text(f"    shoal logs {file} {tasks[0]['id']}", style="dim"))
    for one in found["policies"]:
        out.print(Text(f"  {one['level']}: {one['text']}", style="yellow" if one["level"] == "warn" else "cyan"))
        if one["reason"]:
            link = f": {one['link']}" if one["link"] else ""
            out.print(Text(f"    the platform: {one['reason']}{link}", style="dim"))
    if any(step["counts"].get("gate") for step in found["steps"]):
        out.print(f"  A person has to approve: shoal approve {file}", markup=False)


def _next(found: dict[str, Any], opened: Opened, file: str) -> str | None:
    """What a person would do now; nothing while a runner is at work or a gate waits."""
    words = Counter(task["state"] for task in found["tasks"])
    if found["runner"] is not None or words["gate"] or words["running"]:
        return None
    if words["done"] == len(found["tasks"]):
        look = f"{file}{opened.store_option}"
        return f"See: shoal results {look} · shoal report {look}" if opened.look_with == "results" else None
    begun = any(task["attempts"] for task in found["tasks"])
    word = "Once mended" if words["failed"] else "Go on with" if begun else "Start with"
    return f"{word}: shoal run {file}{opened.options}{opened.on_option}"


def _point(params: dict[str, Any]) -> str:
    return "·".join(str(value) for value in params.values())
