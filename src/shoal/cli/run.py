"""``shoal run``: do what is missing, failed or changed."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from shoal.cli import complete
from shoal.cli.common import (
    OnOption,
    ProfileOption,
    SetOption,
    StoreOption,
    StudyArgument,
    absent_secrets,
    open_executor,
    open_study,
)
from shoal.cli.opened import Opened
from shoal.cli.words import count_tasks, duration

if TYPE_CHECKING:
    from types import FrameType

    from shoal.executors import Executor
    from shoal.runner import Runner, Summary


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("run")(run)


def run(
    study: StudyArgument,
    profile: ProfileOption = None,
    set_: SetOption = None,
    store: StoreOption = None,
    on: OnOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="STEP|TASK",
            help="Run only this step or task, and what it still needs; may be given several times.",
            show_default=False,
            autocompletion=complete.steps,
        ),
    ] = None,
    max_parallel: Annotated[
        int | None,
        typer.Option("--max-parallel", "-j", min=1, help="At most so many tasks at once.", show_default=False),
    ] = None,
    keep_stale: Annotated[
        bool, typer.Option("--keep-stale", help="Take results for good although code has changed since.")
    ] = False,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Run it from a pod of the cluster: this machine may go. status, logs, stop work as ever."
        ),
    ] = False,
    print_role: Annotated[
        bool,
        typer.Option("--print-role", help="Print the account and the rights that --detach works with, and do nothing."),
    ] = False,
) -> None:
    """Run what is missing, failed or changed. What is done is never run twice.

    Ctrl-C once: start nothing more and wait for what runs. Twice: stop what runs. A third time: kill it.
    Exits with 0 only when all that was asked for is done; 1: something failed; 2: the study or the command line is wrong; 3: a
    person has to approve something; 4: another runner holds the study; 130: interrupted.
    """
    from shoal.runner import Runner
    from shoal.study.pipes import PIPE_NOTE, steps_with_pipes

    opened = open_study(study, profile=profile, overrides=set_, store=store, on=on)
    asked = opened.plan.find(only) if only else None
    if detach or print_role:
        words = [word for one in only or () for word in ("--only", one)]
        words += ["--max-parallel", str(max_parallel)] if max_parallel is not None else []
        words += ["--keep-stale"] if keep_stale else []
        _detached(opened, words, asked=asked, max_parallel=max_parallel, only_role=print_role)
        return
    if (other := _last_file(opened)) is not None:
        _say(
            f"note: {opened.plan.study.study} was last run from {other}: results, status and report are of the study that ran "
            "last. Give one of the two another name."
        )
    if not opened.store.plan.exists():  # once is enough; the plan says it every time
        for name in steps_with_pipes(opened.plan.study):
            _say(f"note: {name}: {PIPE_NOTE}")
    for note in absent_secrets(opened):
        _say(note)
    executor = start_executor(opened, on, max_parallel=max_parallel, asked=asked)
    runner = Runner(
        opened.plan,
        opened.store,
        executor,
        asked=asked,
        max_parallel=max_parallel,
        keep_stale=keep_stale,
        profile=opened.profile,
        overrides=opened.overrides,
    )
    raise typer.Exit(carry_out(opened, runner))


def _last_file(opened: Opened) -> str | None:
    from shoal.store import other_file, read_json

    path = opened.plan.study.path
    return other_file((read_json(opened.store.plan) or {}).get("file"), path) if path is not None else None


def _detached(
    opened: Opened, words: list[str], *, asked: set[str] | None, max_parallel: int | None, only_role: bool
) -> None:
    from shoal.cli import detached
    from shoal.errors import UsageError
    from shoal.store import remember_place

    if opened.on is None:
        raise UsageError("--detach and --print-role are for clusters", hint="shoal run STUDY --on CLUSTER --detach")
    if only_role:
        from shoal.cli.on_cluster import cluster_of
        from shoal.executors.kubernetes.detach import account_objects, role
        from shoal.executors.kubernetes.login import find_login
        from shoal.executors.kubernetes.write import to_yaml

        cluster = cluster_of(opened)
        if cluster.namespace is None:
            # What binds the account to its rights has to name it.
            cluster = cluster.model_copy(update={"namespace": find_login(cluster.context).namespace})
        typer.echo(to_yaml(account_objects(cluster) or [role(cluster)]), nl=False)
        return
    job = detached.start(opened, words, asked=asked, max_parallel=max_parallel)
    remember_place(opened.plan.study, opened.root, opened.store_given, opened.on)
    write_rules(opened)
    look = opened.look
    _say(f"{opened.plan.study.study}: runs in the cluster, from the Job {job}; this machine may go.")
    _say(f"Look at: shoal status {look} · shoal logs {look} TASK. End it with: shoal stop {look}")


def carry_out(opened: Opened, runner: Runner) -> int:
    """Run, and say how that ended; return the exit code of the command line. The runner's executor is closed.

    Raises:
        HeldError: another runner holds the study.
    """
    try:
        with _alone(opened, runner):
            summary = run_watched(runner)
    finally:
        runner.executor.close()
    _tell(summary, runner, opened)
    return summary.exit_code


@contextlib.contextmanager
def _alone(opened: Opened, runner: Runner) -> Iterator[None]:
    """See to it that no runner elsewhere works on the same study on a cluster; lose that hold, and the runner leaves.

    Raises:
        HeldError: there is one.
    """
    if opened.on is None:
        yield
        return
    from shoal.cli.detached import runner_lease
    from shoal.cli.on_cluster import cluster_of, connect_to

    cluster = cluster_of(opened)
    with contextlib.closing(connect_to(cluster)) as client:
        with runner_lease(client, opened, cluster, lost=runner.leave):
            yield


def start_executor(
    opened: Opened, on: str | None, *, max_parallel: int | None = None, asked: set[str] | None = None
) -> Executor:
    """The executor to run a study with; its place is written down for the verbs that ask later.

    Raises:
        UsageError: it cannot run there.
    """
    from shoal.errors import StoreError
    from shoal.store import RunnerLock, holder, remember_place

    if holder(opened.store.lock) is not None:
        with RunnerLock(opened.store.lock, look=opened.look):  # says who holds it
            pass
    executor: Executor
    if opened.on is None:
        executor = open_executor(on)
    else:
        from shoal.cli.on_cluster import open_cluster

        executor = open_cluster(opened, max_parallel=max_parallel, asked=asked)
    opened.root.prepare()
    try:
        write_rules(opened)
        remember_place(opened.plan.study, opened.root, opened.store_given, opened.on)
    except OSError as error:
        raise StoreError(
            f"the store cannot be written: {error.strerror or error}",
            path=opened.store.root,
            hint="Name another place with --store DIR or SHOAL_STORE.",
        ) from error
    return executor


def write_rules(opened: Opened) -> None:
    """Write down which of the platform's rules hold while the study runs, for ``status`` and the report."""
    from shoal.agent.agent import write_json_atomic

    path = opened.store.root / "policies.json"
    if opened.on is None:
        path.unlink(missing_ok=True)
        return
    from shoal.cli.on_cluster import cluster_of

    cluster = cluster_of(opened)
    rules = {
        name: policy.model_dump(mode="json") for name, policy in cluster.policies.items() if policy.check == "running"
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(str(path), {"format": 1, "cluster": cluster.name, "running": rules})


def run_watched(runner: Runner) -> Summary:
    """Run with live progress on a terminal, a line for each event elsewhere, and signals as the verb's help says."""
    with _signals(runner):
        if sys.stderr.isatty():
            from shoal.cli.live import watch

            with watch(runner):
                return runner.run()
        runner.listen(_say)
        return runner.run()


def _say(text: str) -> None:
    # The terminal may have gone; the run goes on without it.
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals(runner: Runner) -> Iterator[None]:
    pressed = 0

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed == 1:
            runner.drain()
        else:
            runner.stop(now=pressed > 2)

    def leave(_number: int, _frame: FrameType | None) -> None:
        runner.leave()

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, interrupt),
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
        signal.SIGHUP: signal.signal(signal.SIGHUP, leave),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _unreported(opened: Opened) -> list[str]:
    """A line where all is done and the objective is a metric that no task has reported: a slip that costs nothing to mend."""
    objective = opened.plan.study.report.objective
    if objective is None or opened.on is not None:
        return []
    from shoal.results import ResultError, read_store
    from shoal.results.metrics import find_metric

    try:
        find_metric(read_store(opened.store.root), objective.metric)
    except ResultError as error:
        return [f"  ! the report's objective: {error.message}. {error.hint or ''}".rstrip()]
    return []


def _tell(summary: Summary, runner: Runner, opened: Opened) -> None:
    """Say how a run ended, on standard error."""
    from shoal.runner import Phase

    look, again = opened.look, opened.again
    counts = {phase: count for phase, count in summary.counts.items() if count}
    total = sum(counts.values())
    reused = sum(step.reused for step in runner.progress.steps.values())
    done = counts.pop(Phase.DONE, 0)
    words = [f"{done} of {total} tasks done" + (f" ({reused} of them before this run)" if reused else "")]
    words += [f"{count} {phase}" for phase, count in counts.items()]
    lines = [f"{runner.plan.study.study}: {', '.join(words)} in {duration(runner.progress.elapsed)}."]
    if runner.progress.problems:
        problems = runner.progress.grouped_problems()
        lines += [f"  ! {problem}" for problem in problems[:10]]
        if len(problems) > 10:
            lines.append(f"  … and {len(problems) - 10} more.")
        lines.append(f"Look at: shoal status {look} · shoal logs {look} TASK. Once mended: shoal run {again}")
    for task, message in summary.gates.items():
        lines.append(f"  waits: {message}")
        lines.append(f"  then: shoal approve {look} {runner.plan.tasks[task].step}, and shoal run {again}")
    if summary.left:
        lines.append(
            f"{count_tasks(summary.left)} of this run go on running: shoal run {again} takes them up again."
            if summary.left > 1
            else f"1 task of this run goes on running: shoal run {again} takes it up again."
        )
    elif summary.exit_code == 130:
        lines.append(f"Go on with: shoal run {again}")
    from shoal.cli.status import use_of

    lines += [f"  {one.level}: {one.text}" for one in use_of(opened)]
    if summary.exit_code == 0:
        lines += _unreported(opened)
        lines.append(f"See: shoal {opened.look_with} {look} · shoal report {look}")
    _say("\n".join(lines))
