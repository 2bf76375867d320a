"""A nautiluslauncher configuration: read, merged as the launcher merges, checked, and what was wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shoal.clusters.commands import ends_in_sleep
from shoal.clusters.load import read_tree
from shoal.clusters.schema import DNS_NAME
from shoal.errors import Mark, StudyError
from shoal.study.merge import merge
from shoal.study.problems import Problems, did_you_mean
from shoal.study.source import Source
from shoal.study.values import show
from shoal.study.yaml import Mapping, Node, Scalar, Sequence

__all__ = ["Job", "Note", "read_config"]

_TEXT, _WHOLE, _FLAG = "text", "a whole number", "true or false"
_TEXTS, _WHOLES, _NAMED = "a list of texts", "a list of whole numbers", "a mapping"
_KEYS = {
    "job_name": (_TEXT,), "image": (_TEXT,), "command": (_TEXT, _TEXTS), "workingDir": (_TEXT,), "env": (_NAMED,),
    "volumes": (_NAMED,), "ports": (_WHOLES,), "gpu_type": (_TEXT, _TEXTS), "gpu_types": (_TEXT, _TEXTS), "region": (_TEXT,),
    "hostname": (_TEXT,), "tolerations": (_TEXTS,), "min_gpu_memory": (_WHOLE,), "min_cpu": (_WHOLE,), "max_cpu": (_WHOLE,),
    "min_ram": (_WHOLE,), "max_ram": (_WHOLE,), "gpu": (_WHOLE,), "shm": (_FLAG,),
}  # fmt: skip
_REQUIRED = ("job_name", "image", "command")
_TOP = ("namespace", "defaults", "jobs")
_NAMES = {
    "env": (re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z"), "a variable of the environment"),
    "volumes": (re.compile(rf"{DNS_NAME}\Z"), "a claim"),
}
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")


@dataclass(frozen=True, slots=True)
class Note:
    """Something that was wrong, or that is not the same any more. ``mark`` is where it was written, or None."""

    text: str
    mark: Mark | None = None

    def __str__(self) -> str:
        return f"{self.mark}: {self.text}" if self.mark else self.text


@dataclass(frozen=True)
class Job:
    """One job, the defaults merged in. Memory is in GiB, as the launcher has it."""

    name: str
    image: str
    command: str | tuple[str, ...]
    workdir: str | None
    env: dict[str, str]
    volumes: dict[str, str]
    gpu: int
    gpu_types: tuple[str, ...]
    gpu_memory: int
    cpu: int
    memory: int
    shm: bool
    region: str | None
    hostname: str | None
    tolerations: tuple[str, ...]
    mark: Mark


def read_config(path: Path, base: Path | None = None) -> tuple[str, list[Job], list[Note]]:
    """Read a configuration.

    Args:
        path: the configuration.
        base: one that it is laid over (the launcher's ``-b``).

    Returns:
        Namespace, jobs, and what was wrong with it.

    Raises:
        StudyError: it is no such configuration, or has mistakes; each with its place.
    """
    tree = read_tree(Source.read(path, str(path)), "nautiluslauncher configuration")
    if base is not None:
        tree = merge(read_tree(Source.read(base, str(base)), "nautiluslauncher configuration"), tree, first=False)
    problems = Problems()
    for name in tree.items:
        if name not in _TOP:
            mark, source = tree.keys[name]
            hint = did_you_mean(name, _TOP, "It can hold")
            if name in _KEYS:
                hint = f'"{name}" belongs under defaults or under a job.'
            problems.add(source.error(mark, f'unknown key "{name}"', hint=hint))
    namespace = tree.items.get("namespace")
    if namespace is None:
        problems.add(_missing(tree, "namespace"))
    elif not isinstance(namespace, Scalar) or not isinstance(namespace.value, str):
        problems.add(_wrong(namespace, "namespace", (_TEXT,)))
    elif not _NAMESPACE.match(namespace.value):
        problems.add(namespace.source.error(namespace.mark, f"{show(namespace.value)} cannot name a namespace"))
    defaults = tree.items.get("defaults")
    if isinstance(defaults, Scalar) and defaults.value is None:
        defaults = None
    if defaults is not None and not isinstance(defaults, Mapping):
        problems.add(_wrong(defaults, "defaults", (_NAMED,)))
        defaults = None
    jobs = _jobs(tree, defaults, problems)
    problems.raise_any()
    assert isinstance(namespace, Scalar)
    notes: list[Note] = []
    made = [_job(job, notes) for job in jobs]
    return str(namespace.value), made, list(dict.fromkeys(notes))


def _jobs(tree: Mapping, defaults: Mapping | None, problems: Problems) -> list[Mapping]:
    listed = tree.items.get("jobs")
    if listed is None:
        problems.add(_missing(tree, "jobs"))
        return []
    if not isinstance(listed, Sequence) or not listed.items:
        problems.add(listed.source.error(listed.mark, '"jobs" must be a list of jobs, at least one'))
        return []
    if defaults is not None:
        _check_keys(defaults, "the defaults", problems)
    made = []
    names: dict[str, Mark] = {}
    for place, own in enumerate(listed.items, 1):
        if not isinstance(own, Mapping):
            problems.add(own.source.error(own.mark, f"job {place} must be a mapping of keys to values"))
            continue
        _check_keys(own, f"job {place}", problems)
        # What the job says itself stands at its own place in the file.
        whole = own if defaults is None else merge(defaults, own, first=False)
        for name in _REQUIRED:
            if name not in whole.items:
                problems.add(own.source.error(own.mark, f'"{name}" of job {place} is missing'))
        name_node = whole.items.get("job_name")
        if isinstance(name_node, Scalar) and isinstance(name_node.value, str):
            if name_node.value in names:
                first = names[name_node.value]
                problems.add(
                    name_node.source.error(
                        name_node.mark, f"two jobs are called {name_node.value}", hint=f"The other is at {first}."
                    )
                )
            names[name_node.value] = name_node.mark
        types = whole.items.get("gpu_type") or whole.items.get("gpu_types")
        memory = whole.items.get("min_gpu_memory")
        if types is not None and isinstance(memory, Scalar) and isinstance(memory.value, int) and memory.value > 0:
            problems.add(
                memory.source.error(
                    memory.mark,
                    f"job {place} has both gpu_type and min_gpu_memory, which the launcher refuses",
                    hint="Keep one of them.",
                )
            )
        made.append(Mapping(whole.items, whole.keys, own.mark, own.source, 0, 0))
    return made


def _check_keys(job: Mapping, what: str, problems: Problems) -> None:
    for name, node in job.items.items():
        mark, source = job.keys[name]
        if name not in _KEYS:
            problems.add(
                source.error(mark, f'unknown key "{name}" in {what}', hint=did_you_mean(name, _KEYS, "It can hold"))
            )
        elif not any(_is(node, kind) for kind in _KEYS[name]) and not (isinstance(node, Scalar) and node.value is None):
            problems.add(_wrong(node, name, _KEYS[name]))
        elif name in ("env", "volumes") and isinstance(node, Mapping):
            for key, one in node.items.items():
                if not isinstance(one, Scalar) or one.value is None:
                    problems.add(one.source.error(one.mark, f'"{key}" of {name} must be a single value'))
                elif name == "volumes" and not str(one.value).startswith("/"):
                    problems.add(
                        one.source.error(one.mark, f'"{key}" is to be mounted at {show(one.value)}, no place in a pod')
                    )
                pattern, what = _NAMES[name]
                if not pattern.match(key):
                    place, file = node.keys[key]
                    problems.add(file.error(place, f"{show(key)} cannot name {what}"))


def _is(node: Node, kind: str) -> bool:
    if kind in (_TEXTS, _WHOLES):
        if not isinstance(node, Sequence):
            return False
        return all(_word(one) if kind == _TEXTS else _is(one, _WHOLE) for one in node.items)
    if kind == _NAMED:
        return isinstance(node, Mapping)
    if not isinstance(node, Scalar):
        return False
    if kind == _FLAG:
        return isinstance(node.value, bool)
    if kind == _WHOLE:
        return isinstance(node.value, int) and not isinstance(node.value, bool) and node.value >= 0
    return isinstance(node.value, str) and bool(node.value.strip())


def _word(node: Node) -> bool:
    # A number among the words of a command is a word.
    return isinstance(node, Scalar) and isinstance(node.value, str | float | int)


def _missing(tree: Mapping, name: str) -> StudyError:
    return tree.source.error(
        tree.mark, f'"{name}" is missing', hint="A configuration has namespace, jobs and defaults."
    )


def _wrong(node: Node, name: str, kinds: tuple[str, ...]) -> StudyError:
    said = f", not {show(node.value)}" if isinstance(node, Scalar) else ""
    return node.source.error(node.mark, f'"{name}" must be {" or ".join(kinds)}{said}')


def _job(job: Mapping, notes: list[Note]) -> Job:
    def value(name: str) -> Node | None:
        node = job.items.get(name)
        return None if isinstance(node, Scalar) and node.value is None else node

    def whole(name: str, default: int) -> int:
        node = value(name)
        return int(str(node.value)) if isinstance(node, Scalar) else default

    def text(name: str) -> str | None:
        node = value(name)
        return str(node.value) if isinstance(node, Scalar) else None

    def texts(name: str) -> tuple[str, ...]:
        node = value(name)
        if isinstance(node, Sequence):
            return tuple(_raw(one) for one in node.items)
        return (_raw(node),) if isinstance(node, Scalar) else ()

    def named(name: str) -> dict[str, str]:
        node = value(name)
        return {key: _python(one) for key, one in node.items.items()} if isinstance(node, Mapping) else {}

    def note(name: str, said: str) -> None:
        notes.append(Note(said, job.keys[name][0] if name in job.keys else None))

    command_node = job.items["command"]
    command: str | tuple[str, ...] = (
        texts("command") if isinstance(command_node, Sequence) else str(getattr(command_node, "value", ""))
    )
    cpu, most_cpu = whole("min_cpu", 2), max(whole("min_cpu", 2), whole("max_cpu", 4))
    ram, most_ram = whole("min_ram", 4), max(whole("min_ram", 4), whole("max_ram", 8))
    gpu = whole("gpu", 0)
    types = texts("gpu_type") + texts("gpu_types")
    if most_cpu > 1.2 * cpu:
        note(
            "max_cpu", f"limit of {most_cpu} CPU for a request of {cpu}: more than 20 % above; cpu is now {max(1, cpu)}"
        )
    if most_ram > 1.2 * ram:
        note(
            "max_ram",
            f"limit of {most_ram} GB for a request of {ram}: more than 20 % above; memory is now {most_ram}Gi",
        )
    if whole("min_gpu_memory", 0):
        amount = whole("min_gpu_memory", 0)
        note(
            "min_gpu_memory",
            f'min_gpu_memory made the affinity Gt "{amount}Gi", which matches no node (it takes a whole number of MiB)',
        )
    if "gpu_types" in job.items:
        note("gpu_types", "gpu_types is in the launcher's manual, but its code takes gpu_type only: such a job failed")
    elif isinstance(job.items.get("gpu_type"), Sequence):
        note("gpu_type", "a list of GPU types was refused by the launcher; any of them will do now")
    if types and not gpu:
        note("gpu_type", "a GPU type without a GPU had no effect, and is left out")
    if isinstance(command, str):
        note("command", "a command as text was refused by Kubernetes, which takes a list; the shell runs it now")
    if ends_in_sleep(command):
        note("command", "the command ends in sleep, which is forbidden in a Job")
    if any("$(" in word for word in ([command] if isinstance(command, str) else command)):
        note("command", "Kubernetes replaced $(NAME) in commands by variables; check what it has to be now")
    if texts("ports"):
        note("ports", "ports are left out: nobody reaches into a training job")
    return Job(
        name=str(text("job_name")),
        image=str(text("image")),
        command=command,
        workdir=text("workingDir"),
        env=named("env"),
        volumes=named("volumes"),
        gpu=gpu,
        gpu_types=types if gpu else (),
        gpu_memory=whole("min_gpu_memory", 0) if gpu else 0,
        cpu=max(1, cpu),
        memory=max(1, most_ram),
        shm=bool(getattr(value("shm"), "value", False)),
        region=text("region"),
        hostname=text("hostname"),
        tolerations=texts("tolerations"),
        mark=job.mark,
    )


def _raw(node: Node) -> str:
    """A word of a command: as it was written, since `1e-3` is no number to a command line."""
    assert isinstance(node, Scalar)
    return node.value if isinstance(node.value, str) else node.source.text[node.start : node.end].strip()


def _python(node: Node) -> str:
    """A value of a variable: the launcher takes Python's word for it, True and not true."""
    assert isinstance(node, Scalar)
    if isinstance(node.value, float):
        return node.source.text[node.start : node.end].strip()
    return str(node.value)
