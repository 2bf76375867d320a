"""``shoal approve``: open a gate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import OnOption, ProfileOption, SetOption, StoreOption, StudyArgument, open_study
from shoal.cli.opened import Opened
from shoal.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("approve")(approve)


def approve(
    study: StudyArgument,
    gate: Annotated[
        str | None,
        typer.Argument(
            metavar="GATE",
            help="The gate's step or task; needed if several wait.",
            show_default=False,
            autocompletion=complete.gates,
        ),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="PATH",
            help="A file that the steps after the gate read from its output.",
            show_default=False,
        ),
    ] = None,
    comment: Annotated[str, typer.Option("--comment", "-m", help="Why, for the record.", show_default=False)] = "",
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Approve what waits for a person. The steps after it may run then.

    A gate that is named with --file may be approved again: what came of the earlier files is made anew by the next run.
    """
    opened = open_study(study, profile=profile, overrides=set_, store=store, as_last_run=True, on=on)
    for path in file or ():
        if not path.is_file():
            raise UsageError(f"--file {path}: there is no such file")
    for id_ in _chosen(opened, gate, again=bool(file)):
        open_gate(opened, id_, list(file or ()), comment)
        task = opened.plan.tasks[id_]
        typer.echo(f"{opened.plan.study.study}: {task.step} approved")


def _chosen(opened: Opened, gate: str | None, *, again: bool) -> list[str]:
    from shoal.store import Snapshot
    from shoal.store.sources import read_sources
    from shoal.store.state import State, survey

    plan = opened.plan
    gates = [task for task in plan.tasks.values() if task.command is None]
    if not gates:
        raise UsageError(f"study {plan.study.study!r} has no gate: there is nothing to approve")
    wanted = plan.find([gate]) if gate else {task.id for task in gates}
    states = survey(
        plan, Snapshot.read(opened.store, plan.order), read_sources(plan.study, data_here=opened.on is None)
    )
    waiting = []
    for task in gates:
        if task.id not in wanted:
            continue
        if states[task.id].state is State.DONE:
            if gate and not again:
                raise UsageError(
                    f"{task.step!r} was approved already",
                    hint="To approve it again with other files, name them: --file PATH.",
                )
            if not gate:
                continue
        open_needs = sorted({plan.tasks[need].step for need in task.needs if states[need].state is not State.DONE})
        if not open_needs:
            waiting.append(task.id)
        elif gate:
            raise UsageError(
                f"{task.step!r} cannot be approved yet: {', '.join(open_needs)} must be done first",
                hint=f"See: shoal status {opened.look}",
            )
    if gate and not wanted & {task.id for task in gates}:
        raise UsageError(f"{gate!r} is not a gate; the gates: {', '.join(dict.fromkeys(t.step for t in gates))}")
    if not waiting:
        raise UsageError("nothing waits for approval now", hint=f"See: shoal status {opened.look}")
    if gate is None and len({plan.tasks[id_].step for id_ in waiting}) > 1:
        names = ", ".join(dict.fromkeys(plan.tasks[id_].step for id_ in waiting))
        raise UsageError(f"several gates wait: {names}", hint=f"Name one: shoal approve {opened.look} GATE")
    return waiting


def open_gate(opened: Opened, id_: str, files: list[Path], comment: str) -> None:
    """Write a gate's result: the files given, who approved and when; and bring it to where pods look for it."""
    import json

    from shoal.agent.agent import digest_tree, now, write_json_atomic
    from shoal.cli.gates import bring_gate
    from shoal.runner.prepare import write_task
    from shoal.store import Snapshot, user_name

    task = opened.plan.tasks[id_]
    folder = opened.store.task(task.step, id_)
    snapshot = Snapshot.read(opened.store, opened.plan.order)
    write_task(opened.plan, opened.store, task)
    folder.result.unlink(missing_ok=True)
    shutil.rmtree(folder.out, ignore_errors=True)
    folder.out.mkdir(parents=True)
    for path in files:
        shutil.copyfile(path, folder.out / path.name)
    at = now()
    body = {
        "format": 1,
        "study": opened.plan.study.study,
        "step": task.step,
        "task": id_,
        "params": task.params,
        "attempt": 0,
        "metrics": {},
        "outputs": digest_tree(str(folder.out)),
        "inputs": {need: snapshot.tasks[need].output_digest for need in task.needs},
        "data": {},
        "code": None,
        "started": at,
        "ended": at,
        "seconds": 0.0,
        "approval": {"by": user_name(), "at": at, "comment": comment},
    }
    # First there: a runner here that finds it starts what needs it.
    bring_gate(opened, task.step, id_, json.dumps(body).encode())
    write_json_atomic(str(folder.result), body, True)
