"""What ``shoal plan --on CLUSTER`` adds: the cluster's rules, and the manifests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from shoal.clusters import Cluster, Finding
    from shoal.plan import Plan
    from shoal.store import Snapshot
    from shoal.store.state import Sources, TaskState

_COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "error": "bold red"}
_SCRIPT_BYTES = 64 * 1024
_CODE_BYTES = 64 << 20


def check_plan(plan: Plan, cluster: Cluster, states: dict[str, TaskState]) -> list[Finding]:
    """What the cluster's rules say of the tasks that are still to run."""
    from shoal.clusters import check
    from shoal.store.sources import code_files

    scripts: dict[str, dict[str, str]] = {}
    for name, step in plan.study.steps.items():
        for path, file in code_files(plan.study, step).items():
            if path.endswith((".sh", ".bash")) and file.stat().st_size <= _SCRIPT_BYTES:
                scripts.setdefault(name, {})[path] = file.read_text(errors="replace")
    return check(plan, cluster, todo=_todo(plan, states), scripts=scripts)


def show_findings(out: Console, name: str, findings: list[Finding]) -> None:
    """Print findings, each in a line or two."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for finding in findings:
        line = Text(finding.text)
        if finding.hint:
            line.append(f"  ({finding.hint})" if len(finding.hint) < 60 else f"\n{finding.hint}", style="dim")
        if finding.level in ("warn", "error") and finding.reason:
            line.append(f"\n{finding.reason}" + (f": {finding.link}" if finding.link else ""), style="dim")
        table.add_row(Text(finding.level, style=_COLOURS[finding.level]), line)
    out.print(Text(f"policies of {name}", style="dim"))
    out.print(Padding(table, (0, 0, 1, 2)))


def write(
    folder: Path,
    plan: Plan,
    cluster: Cluster,
    states: dict[str, TaskState],
    snapshot: Snapshot,
    sources: Sources,
) -> str:
    """Write the manifests of what is to run; return what was done, in a sentence."""
    from shoal.clusters.situation import Situation
    from shoal.executors.kubernetes.study import study_objects
    from shoal.executors.kubernetes.write import write_manifests
    from shoal.store.sources import code_files

    todo = _todo(plan, states)
    files = study_objects(
        plan,
        cluster,
        todo=todo,
        pods=Situation(plan, cluster, frozenset(todo)).pods,
        code={name: _contents(name, code_files(plan.study, step)) for name, step in plan.study.steps.items()},
        code_digests=sources.code,
        attempts={
            task: max((attempt.number for attempt in record.attempts), default=0) + 1
            for task, record in snapshot.tasks.items()
        },
    )
    count = write_manifests(folder, files)
    first = next((name for name in plan.order if any(task.id in todo for task in plan.of_step(name))), "")
    return (
        f"{count} manifests in {folder}. To submit them by hand, step by step as each needs the one before: "
        f"kubectl apply --server-side -f {folder}/shared -f {folder}/{first}"
    )


def _contents(step: str, files: dict[str, Path]) -> dict[str, tuple[bytes, bool]]:
    """The code of a step in memory; what cannot be code is not even read."""
    from shoal.errors import UsageError

    total = sum(file.stat().st_size for file in files.values())
    if total > _CODE_BYTES:
        raise UsageError(
            f"the code of step {step} has {total >> 20} MiB, which cannot travel to pods",
            hint="Name fewer files under code: of the step, put the code into the image, or large files onto a claim.",
        )
    return {path: (file.read_bytes(), bool(file.stat().st_mode & 0o100)) for path, file in files.items()}


def _todo(plan: Plan, states: dict[str, TaskState]) -> set[str]:
    from shoal.store.state import State

    done: set[Any] = {State.DONE, State.RUNNING}
    return {task for task, state in states.items() if state.state not in done}
