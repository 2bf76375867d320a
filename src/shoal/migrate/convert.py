"""Jobs to a study and a cluster file, checked: the study's tasks do exactly what the jobs did."""

from __future__ import annotations

import functools
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.clusters import load_cluster, parse_cluster
from shoal.clusters.gpus import find_gpu
from shoal.errors import ShoalError, StudyError
from shoal.migrate.grouping import Axes, axis_value, common, fold, fold_words, join, shape, shell_words
from shoal.migrate.launcher import Job, Note, read_config
from shoal.plan import Plan, Task, build, resources_of
from shoal.study import dump_yaml, parse_study
from shoal.study.check import STORE_FOLDERS
from shoal.study.template import Template

__all__ = ["Migration", "migrate"]

_JOB = "LAUNCHER_JOB"

_ENTER = re.compile(r"""cd ((?:'[^']*'|"'"|[^\s'"])+)(?: && |\n)(.*)\Z""", re.S)

GENERAL = (
    "The launcher ended with exit code 0 when jobs could not be created. Shoal ends with 1 or 2.",
    "Its dry run needed a kubeconfig and printed no manifest. shoal plan --on CLUSTER --manifests DIR writes them without one.",
    "backoffLimit was 0: a preempted job was lost. Shoal tries again, and a preemption spends no retry.",
    "Jobs write where their commands say. For a table of results let a command write {out}/metrics.json.",
)


@dataclass(frozen=True)
class Migration:
    """What a configuration became.

    Attributes:
        study: text of the study file.
        cluster_name: what ``--on`` takes.
        cluster: text of the cluster file.
        jobs: how many jobs there were.
        steps: how many steps they became.
        notes: what was wrong, and what is different now.
    """

    study: str
    cluster_name: str
    cluster: str
    jobs: int
    steps: int
    notes: tuple[Note, ...]


def migrate(path: Path, *, name: str, base: Path | None = None) -> Migration:
    """Turn a nautiluslauncher configuration into a study.

    Args:
        path: the configuration.
        name: the study's name.
        base: a configuration that it is laid over.

    Raises:
        StudyError: the configuration has mistakes; each with its place.
    """
    namespace, jobs, notes = read_config(path, base)
    for grouped in (True, False):
        study = _study(name, path, jobs, notes, grouped)
        text = dump_yaml(study)
        try:
            same = _same(build(parse_study(text, f"{name}.yaml")), jobs)
        except StudyError as error:
            if not grouped:
                raise _unfit(path, "a study", error) from None
            same = False
        if same:
            break
    else:
        raise ShoalError(f"{path}: these jobs cannot be written as a study", hint="Please report this configuration.")
    cluster = _cluster(namespace, jobs, notes)
    try:
        parse_cluster(cluster, f"{namespace}.yaml")
    except StudyError as error:
        raise _unfit(path, "a cluster file", error) from None
    notes += [Note(text) for text in GENERAL]
    steps = len(study["steps"])
    head = f"# Made by shoal import from {path.name}: {len(jobs)} jobs in {steps} step{'s' if steps > 1 else ''}.\n"
    return Migration(head + text, namespace, cluster, len(jobs), len(study["steps"]), tuple(dict.fromkeys(notes)))


def _unfit(path: Path, what: str, error: StudyError) -> StudyError:
    """The place of a mistake in a file that is never written would help nobody."""
    return StudyError(f"{path}: it cannot be written as {what}: {error.message}", hint=error.hint)


def _study(name: str, path: Path, jobs: list[Job], notes: list[Note], grouped: bool) -> dict[str, Any]:
    groups: dict[object, list[Job]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(_kind(job) if grouped else number, []).append(job)
    steps: dict[str, Any] = {}
    for members in groups.values():
        made = _step(members, notes)
        if made is not None:
            steps[_step_name(members, steps)] = made
            continue
        for job in members:
            alone = _step([job], notes)
            assert alone is not None
            steps[_step_name([job], steps)] = alone
    study: dict[str, Any] = {"study": name, "title": f"Imported from {path.name}"}
    images = {step["image"] for step in steps.values()}
    if len(images) == 1:
        study["defaults"] = {"image": images.pop()}
        for step in steps.values():
            del step["image"]
    return {**study, "steps": steps}


def _kind(job: Job) -> object:
    """What jobs of one step have in common."""
    words = job.command if isinstance(job.command, tuple) else tuple(shell_words(job.command))
    flags = job.workdir is None, isinstance(job.command, str), job.gpu > 0, job.gpu_memory, job.shm
    return job.image, len(words), words[0], job.gpu_types, tuple(sorted(job.env)), flags


def _step(jobs: list[Job], notes: list[Note]) -> dict[str, Any] | None:
    """One step for all of these jobs; None where their commands cannot be told by one text."""
    axes = Axes()
    run = _run(jobs, axes)
    if run is None:
        return None
    env: dict[str, str] = {}
    for key in jobs[0].env:
        env[key] = str(fold([job.env[key] for job in jobs], key, axes))
    first = jobs[0]
    resources: dict[str, Any] = {}
    if first.gpu:
        resources["gpu"] = _amount([str(job.gpu) for job in jobs], "gpu", axes)
    if first.gpu_types:
        resources["gpu_type"] = [_gpu_name(one) for one in first.gpu_types]
    if first.gpu_memory:
        resources["gpu_memory"] = f"{first.gpu_memory}Gi"
    resources["cpu"] = _amount([str(job.cpu) for job in jobs], "cpu", axes)
    resources["memory"] = _amount([f"{job.memory}Gi" for job in jobs], "memory", axes)
    if first.shm:
        resources["shm"] = _amount([f"{max(1, job.memory // 2)}Gi" for job in jobs], "shm", axes)
        notes.append(Note("shm had no bound but the job's memory; it is now half of that: see resources.shm"))
    points = list(zip(*axes.values.values(), strict=True)) if axes.values else [()] * len(jobs)
    if len(set(points)) < len(points):
        env[_JOB] = "{" + axes.add("job", [job.name for job in jobs]) + "}"
        notes.append(
            Note(f"{jobs[0].name} and others are the same but for their names, which became the variable {_JOB}")
        )
    made: dict[str, Any] = {**shape(axes), "run": run, "image": first.image}
    if env:
        made["env"] = env
    made["resources"] = resources
    return made


def _run(jobs: Sequence[Job], axes: Axes) -> str | list[str] | None:
    first = jobs[0]
    enter = ""
    if first.workdir is not None:
        enter = f"cd {join([str(fold([str(job.workdir) for job in jobs], 'workdir', axes))])}"
    if isinstance(first.command, str):
        words = fold_words([shell_words(str(job.command)) for job in jobs], axes, shell=True)
        # On a line of its own: after && the shell would go on with the second of several commands when the first fails.
        return None if words is None else (f"{enter}\n" if enter else "") + "".join(words)
    words = fold_words([job.command for job in jobs if not isinstance(job.command, str)], axes)
    if words is None:
        return None
    return f"{enter} && {join(words)}" if enter else words


def _amount(column: list[str], name: str, axes: Axes) -> Any:
    return axis_value(column[0]) if len(set(column)) == 1 else "{" + axes.add(name, column) + "}"


@functools.cache
def _gpu_name(label: str) -> str:
    nautilus = load_cluster(str(Path(__file__).parent.parent / "clusters" / "nautilus.yaml"))
    for name in (label, f"NVIDIA-{label}"):  # some leave the vendor out
        found = find_gpu(nautilus, name)
        if found is not None and found[0] in nautilus.gpus:
            # The short name where it means the same nodes; else the label's own value, which Shoal takes as well.
            own = found[1].products[0] if len(found[1].products) == 1 else label
            return found[0] if len(nautilus.gpus[found[0]].products) == 1 else own
    return label


def _step_name(jobs: list[Job], taken: dict[str, Any]) -> str:
    stem = common([job.name for job in jobs])
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-_")[:40].strip("-_") or "jobs"
    stem = f"{stem}-jobs" if stem.lower() in STORE_FOLDERS else stem
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    return name


def _cluster(namespace: str, jobs: list[Job], notes: list[Note]) -> str:
    """What belongs to the cluster and not to the study, as a file of its own."""
    mounts: dict[str, str] = {}
    for job in jobs:
        for claim, place in job.volumes.items():
            if mounts.setdefault(place, claim) != claim:
                notes.append(
                    Note(
                        f"claim {claim} and claim {mounts[place]} are both mounted at {place}: taken is the first",
                        job.mark,
                    )
                )
    made: dict[str, Any] = {"extends": "nautilus", "namespace": namespace}
    if mounts:
        made["volumes"] = [{"claim": claim, "path": place} for place, claim in mounts.items()]
    defaults: dict[str, Any] = {}
    for key, plural in (("region", "regions"), ("hostname", "hosts"), ("tolerations", "tolerations")):
        wanted = Counter(getattr(job, key) for job in jobs)
        if len(wanted) > 1:
            said = "; ".join(f"{_said(value)} for {count}" for value, count in wanted.items())
            notes.append(
                Note(f"jobs differ in {key} ({said}): a cluster file holds one; make one for each and run by --on")
            )
            continue
        value = next(iter(wanted))
        if value and key == "tolerations":
            defaults[plural] = [{"key": one, "operator": "Exists", "effect": "NoSchedule"} for one in value]
        elif value:
            defaults[plural] = [value]
    if defaults:
        made["defaults"] = defaults
    head = (
        f"# Made by shoal import; used by --on {namespace}.\n"
        "# Name the claim that keeps results (best ReadWriteMany), then this is complete:\n"
        "# store: {claim: NAME}\n"
    )
    return head + dump_yaml(made)


def _said(value: Any) -> str:
    return (", ".join(value) if isinstance(value, tuple) else str(value)) if value else "none"


def _same(plan: Plan, jobs: list[Job]) -> bool:
    """Whether the tasks are the jobs, one to one: command, folder, variables and resources."""
    tasks = Counter(_of_task(plan, task) for task in plan.tasks.values())
    wanted = Counter(_of_job(job) for job in jobs)
    return tasks == wanted


def _of_job(job: Job) -> object:
    amounts = (
        job.gpu,
        tuple(map(_gpu_name, job.gpu_types)),
        job.gpu_memory << 30 or None,
        float(job.cpu),
        job.memory << 30,
    )
    words: object = job.command
    if isinstance(job.command, str):
        words = _words(job.command) if job.workdir is not None else ("sh", job.command)
    return job.workdir, words, tuple(sorted(job.env.items())), amounts


def _of_task(plan: Plan, task: Task) -> object:
    step = plan.step(task)
    workdir, words = None, task.command
    if isinstance(task.command, str):
        found = _ENTER.match(task.command)
        if found is not None:
            workdir, words = shlex.split(found[1])[0], _words(found[2])
        else:
            words = ("sh", task.command)
    env = {key: Template.parse(text).render(task.params, shell=False) for key, text in step.env.items()}
    env.pop(_JOB, None)
    asked = resources_of(plan, task)
    return (
        workdir,
        words,
        tuple(sorted(env.items())),
        (asked.gpu, asked.gpu_type, asked.gpu_memory, asked.cpu, asked.memory),
    )


def _words(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return ("sh", text)
