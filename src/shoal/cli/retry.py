"""``shoal retry``: try again what failed."""

from __future__ import annotations

from typing import Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import OnOption, ProfileOption, StoreOption, StudyArgument, open_study
from shoal.cli.opened import Opened
from shoal.cli.run import carry_out, start_executor
from shoal.cli.words import count_tasks
from shoal.errors import StudyError, UsageError


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("retry")(retry)


def retry(
    study: StudyArgument,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASK",
            help="Tasks or steps; everything that failed by default.",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="resources.NAME=VALUE", help="Give these tasks other resources.", show_default=False
        ),
    ] = None,
    profile: ProfileOption = None,
    store: StoreOption = None,
    on: OnOption = None,
) -> None:
    """Try failed tasks again. In the runner that holds the study, or in this one if there is none."""
    from shoal.cli.detached import hand_on, live
    from shoal.runner import Request, Runner, ask
    from shoal.store import holder

    opened = open_study(study, profile=profile, store=store, as_last_run=True, on=on)
    overrides = _resources(set_ or [])
    chosen = opened.plan.find(tasks) if tasks else _failed(opened)
    if not chosen:
        typer.echo(f"{opened.plan.study.study}: nothing has failed")
        return
    _check(opened, chosen, overrides)
    if live(opened.store) is not None:
        hand_on(opened, Request("retry", tuple(sorted(chosen)), set=overrides))
        typer.echo(
            f"{opened.plan.study.study}: asked its runner in the cluster to try {count_tasks(len(chosen))} again"
        )
        return
    if holder(opened.store.lock) is not None:
        ask(opened.store, Request("retry", tuple(sorted(chosen)), set=overrides))
        typer.echo(f"{opened.plan.study.study}: asked its runner to try {count_tasks(len(chosen))} again")
        return
    executor = start_executor(opened, on, asked=chosen)
    runner = Runner(
        opened.plan,
        opened.store,
        executor,
        asked=chosen,
        profile=opened.profile,
        overrides=opened.overrides,
        resources=overrides,
    )
    raise typer.Exit(carry_out(opened, runner))


def _failed(opened: Opened) -> set[str]:
    from shoal.store import Snapshot

    snapshot = Snapshot.read(opened.store, opened.plan.order)
    return {
        id_
        for id_ in opened.plan.tasks
        if (record := snapshot.tasks.get(id_)) is not None
        and record.result is None
        and record.last is not None
        and record.last.state == "ended"
    }


def _resources(items: list[str]) -> dict[str, object]:
    from shoal.study import Resources, did_you_mean, parse_value

    found: dict[str, object] = {}
    for item in items:
        path, equals, value = item.partition("=")
        if not equals or not path.startswith("resources."):
            raise UsageError(
                f"--set {item}: only resources can be changed for a retry, as resources.NAME=VALUE",
                hint="Anything else would make it another task: change the study and use shoal run.",
            )
        name = path.removeprefix("resources.")
        if name not in Resources.model_fields:
            raise UsageError(
                f"--set {item}: there is no {name!r} in the resources",
                hint=did_you_mean(name, Resources.model_fields, "They are"),
            )
        found[name] = parse_value(value)
    return found


def _check(opened: Opened, chosen: set[str], overrides: dict[str, object]) -> None:
    """See whether the amounts are some: in a live runner it would be too late to say that they are not."""
    from shoal.plan import resources_of

    one_of_each_step = {opened.plan.tasks[id_].step: opened.plan.tasks[id_] for id_ in chosen}
    for task in one_of_each_step.values() if overrides else ():
        try:
            resources_of(opened.plan, task, overrides)
        except StudyError as error:
            raise UsageError(f"--set: {error.message}", hint=error.hint) from None
