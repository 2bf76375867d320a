"""``shoal status``: how far a study is."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shoal.cli.common import JsonOption, OnOption, ProfileOption, SetOption, StoreOption, StudyArgument, open_study
from shoal.cli.opened import Opened
from shoal.cli.words import console, count_tasks, gpu_words, print_json
from shoal.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from shoal.results.platform import UseFinding


_EVERY, _ASK_EVERY = 2.0, 60.0
# Kinds of failures that are told.
_SHOWN = 10
_RUNNING_SHOWN = 12


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("status")(status)


def status(
    study: StudyArgument,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Draw it anew every two seconds, as long as there is a runner.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show how far a study is. Counts by step, what runs, and what failed with one sentence each."""
    if watch and (json or not sys.stdout.isatty()):
        raise UsageError(
            "--watch draws on a terminal, and this is none", hint="Without --watch the state is printed once."
        )
    from rich.text import Text

    opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    found = survey_status(opened)
    if json:
        print_json(found)
        return
    if watch:
        found = _watch(opened, found)
    else:
        out = console()
        for part in picture(found, opened.look).renderables:
            # Lines are left to the terminal to break: a command stays one, and a program that reads them finds them whole.
            out.print(part, soft_wrap=isinstance(part, Text))
    if (following := _next(found, opened)) is not None:
        typer.echo(f"  {following}")


def _watch(opened: Opened, found: dict[str, Any]) -> dict[str, Any]:
    """Draw the state again and again, as long as there is a runner and nobody presses Ctrl-C; return the last."""
    from rich.live import Live

    from shoal.cli.detached import refresh

    asked = time.monotonic()
    with (
        Live(picture(found, opened.look), console=console(), auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        live.refresh()
        while found["runner"] is not None:
            time.sleep(_EVERY)
            if time.monotonic() - asked > _ASK_EVERY:
                # A pod has to read what a runner in the cluster has written.
                refresh(opened.store, opened.plan.study.folder)
                asked = time.monotonic()
            found = survey_status(opened)
            live.update(picture(found, opened.look), refresh=True)
    return found


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
    gpus = Counter[str]()
    for name in plan.order:
        counts = Counter[str]()
        for task in plan.of_step(name):
            state = states[task.id]
            word = str(state.reason) if state.reason in ("failed", "interrupted") else str(state.state)
            if state.state is State.GATE and any(states[need].state is not State.DONE for need in task.needs):
                word = "todo"  # there is nothing to look at yet
            record = snapshot.tasks.get(task.id)
            last = record.last if record else None
            why = None
            if runner is not None and state.state is State.TODO and last is not None and last.state == "unstarted":
                # Handed over, and not begun: where that takes a while, the executor says why.
                word = "waiting"
                waits = read_json(opened.store.task(name, task.id).attempt(last.number) / "waiting.json") or {}
                why = waits.get("message")
            counts[word] += 1
            if word == "running" and last is not None:
                gpus.update(str(one.get("name") or "GPU") for one in last.data.get("devices") or ())
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
        "gpus": dict(gpus),
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


def picture(found: dict[str, Any], look: str) -> Group:
    """The state of a study for a person; ``look`` is what the commands that it suggests begin with."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from shoal.failures import signature

    head = Text(found["study"], style="bold")
    runner = found["runner"]
    if runner is not None:
        head.append(
            f"   run by {runner.get('user')} on {runner.get('host')}, process {runner.get('pid')}", style="default"
        )
    else:
        head.append("   no runner", style="dim")
    parts: list[RenderableType] = [head]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for step in found["steps"]:
        words = Text()
        for word, count in step["counts"].items():
            words.append(" · " if words else "").append(
                f"{count} {_WORDS.get(word, word)}", style=_STYLES.get(word, "dim")
            )
        table.add_row(Text(f"  {step['step']}", style="cyan"), Text(str(step["tasks"]), justify="right"), words)
    parts.append(table)
    if found["gpus"]:
        parts.append(Text(f"  GPUs in use: {gpu_words(found['gpus'])}"))
    running = [task for task in found["tasks"] if task["state"] == "running"]
    for task in running[:_RUNNING_SHOWN]:
        parts.append(Text(f"  running  {task['step']} {task['id']}  {_point(task['params'])}", style="cyan"))
    if len(running) > _RUNNING_SHOWN:
        parts.append(Text(f"  running  … and {count_tasks(len(running) - _RUNNING_SHOWN)} more", style="cyan"))
    waits = Counter(task["waiting"] for task in found["tasks"] if task["waiting"])
    for why, count in waits.most_common(5):
        parts.append(Text(f"  {count} {'waits' if count == 1 else 'wait'}: {why}", style="yellow"))
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for task in found["tasks"]:
        if task["state"] == "failed" and task["failure"]:
            key = (task["step"], str(task["failure"]["class"]), signature(str(task["failure"]["message"])))
            groups.setdefault(key, []).append(task)
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    for (step, _, _), tasks in ordered[:_SHOWN]:
        message = tasks[0]["failure"]["message"]
        point = _point(tasks[0]["params"])
        one_task = f"{step} {tasks[0]['id']}" + (f" ({point})" if point else "")
        many = f"{len(tasks):,} tasks of {step}" if len(tasks) > 1 else one_task
        parts.append(Text(f"  ! {many}: {message}", style="red"))
        parts.append(Text(f"    shoal logs {look} {tasks[0]['id']}", style="dim"))
    if more := sum(len(tasks) for _, tasks in ordered[_SHOWN:]):
        parts.append(Text(f"  … and {count_tasks(more)} that failed in other ways: --json has them all", style="red"))
    for one in found["policies"]:
        parts.append(Text(f"  {one['level']}: {one['text']}", style="yellow" if one["level"] == "warn" else "cyan"))
        if one["reason"]:
            link = f": {one['link']}" if one["link"] else ""
            parts.append(Text(f"    the platform: {one['reason']}{link}", style="dim"))
    if any(step["counts"].get("gate") for step in found["steps"]):
        parts.append(Text(f"  A person has to approve: shoal approve {look}"))
    return Group(*parts)


def _next(found: dict[str, Any], opened: Opened) -> str | None:
    """What a person would do now; nothing while a runner is at work or a gate waits."""
    words = Counter(task["state"] for task in found["tasks"])
    if found["runner"] is not None or words["gate"] or words["running"]:
        return None
    if words["done"] == len(found["tasks"]):
        return (
            f"See: shoal results {opened.look} · shoal report {opened.look}" if opened.look_with == "results" else None
        )
    begun = any(task["attempts"] for task in found["tasks"])
    word = "Once mended" if words["failed"] else "Go on with" if begun else "Start with"
    return f"{word}: shoal run {opened.again}"


def _point(params: dict[str, Any]) -> str:
    return "·".join(str(value) for value in params.values())
