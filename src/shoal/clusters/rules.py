"""The platform's rules that can be checked before submission, one function each; numbers and names come from the cluster file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shoal.clusters.commands import ends_in_sleep, installs, sleeps
from shoal.clusters.gpus import find_gpu, gpu_requests
from shoal.clusters.schema import Policy, Toleration
from shoal.clusters.situation import Made, Rule, Situation, limit_ratios
from shoal.plan import Resources
from shoal.plan.data import data_of
from shoal.units import UnitError, format_duration, format_size, parse_duration, parse_size

__all__ = ["RULES"]


def _limits(at: Situation, policy: Policy) -> Iterator[Made]:
    ratio = float(policy.parameters.get("ratio", 1.2))
    above = policy.parameters.get("equal_above")
    cpu, memory = limit_ratios(at.cluster, at.pods)
    if max(cpu, memory) > ratio:
        what = "CPU" if cpu > ratio else "memory"
        yield (
            "error",
            f"limits of {what} are {max(cpu, memory):g} x the request; the platform takes {ratio:g} x at most",
            f"In the cluster file: limits: {{cpu: {ratio:g}, memory: {ratio:g}}}.",
        )
    elif above is not None and at.pods > above and max(cpu, memory) > 1:
        yield (
            "error",
            f"{at.pods} pods at once with limits above their requests; above {above} pods they have to be equal",
            f"In the cluster file: limits: {{equal_above: {above}}}.",
        )
    elif max(cpu, memory) == 1:
        many = f" ({at.pods} pods at once)" if above is not None and at.pods > above else ""
        yield "ok", f"limits equal requests{many}"
    else:
        yield "ok", f"limits within {round((ratio - 1) * 100)} % of requests"


def _use(at: Situation, policy: Policy) -> Iterator[Made]:
    cpu = policy.parameters.get("exempt_cpu", 1)
    memory = _size(policy.parameters.get("exempt_memory", "2G"))
    exempt = [
        name
        for name, asks in at.asks.items()
        if all(not a.gpu and a.cpu <= cpu and a.memory is not None and a.memory <= memory for a in asks)
    ]
    said = f"; {_steps(exempt)} {'is' if len(exempt) == 1 else 'are'} exempt" if exempt else ""
    yield "ok", f"use of GPU, CPU and memory is measured while running{said}"


def _bare_pods(at: Situation, policy: Policy) -> Iterator[Made]:
    yield "ok", "Jobs only, no bare pods"


def _no_sleep(at: Situation, policy: Policy) -> Iterator[Made]:
    found = False
    for name in at.asks:
        run = at.plan.study.steps[name].run
        texts: list[tuple[str, Any]] = [("its command", run)] if run is not None else []
        texts += at.scripts.get(name, {}).items()
        for where, text in texts:
            if ends_in_sleep(text):
                found = True
                yield (
                    "error",
                    f"step {name}: {where} ends in sleep, which a Job may not",
                    "Let the command end instead.",
                )
            elif sleeps(text):
                found = True
                yield "warn", f"step {name}: {where} sleeps", "A Job that sleeps holds its node for nothing."
    if not found:
        yield "ok", "no sleep in any command"


def _gpus_on_a_node(at: Situation, policy: Policy) -> Iterator[Made]:
    most = int(policy.parameters.get("most", 8))
    large = {name: max(a.gpu for a in asks) for name, asks in at.asks.items() if any(a.gpu > most for a in asks)}
    for name, gpus in large.items():
        nodes = -(-gpus // most)
        yield (
            "error",
            f"step {name} asks for {gpus} GPUs on one node; no node has more than {most}",
            f"Spread it: resources: {{gpu: {-(-gpus // nodes)}, nodes: {nodes}}}, with a script that torchrun can start.",
        )
    if not large and at.gpus:
        yield "ok", f"at most {max(a.gpu for asks in at.asks.values() for a in asks)} GPUs on a node"


def _announce(at: Situation, policy: Policy) -> Iterator[Made]:
    most = int(policy.parameters.get("most", 50))
    if at.gpus <= most:
        if at.gpus:
            yield "ok", f"{at.gpus} GPUs at once at most; up to {most} need no announcement"
        return
    each = max(a.gpu * a.nodes for asks in at.asks.values() for a in asks)
    keep = most // each
    hint = f"--max-parallel {keep} keeps below" if keep else f"One task alone asks for {each}."
    yield "note", f"{at.gpus} GPUs at once if all run: above {most} the platform asks you to announce it", hint


def _job_storm(at: Situation, policy: Policy) -> Iterator[Made]:
    most = int(policy.parameters.get("most", 100))
    if at.pods > most:
        yield (
            "note",
            f"{at.pods} pods at once if all run; the platform has no fair queue, and what waits is in others' way",
            f"--max-parallel {most} is friendly",
        )
    else:
        yield "ok", f"{at.pods} pod{'s' if at.pods != 1 else ''} at once at most"


def _gpu_names(at: Situation, policy: Policy) -> Iterator[Made]:
    resources: dict[str, None] = {}
    for name, asks in at.asks.items():
        several: dict[str, tuple[str, ...]] = {}
        for asked in asks:
            ways = gpu_requests(at.cluster, asked)
            resources.update(dict.fromkeys(way.resource for way in ways))
            if len(ways) > 1:
                several = {way.resource: way.types for way in ways}
        if several:
            first, *rest = several.items()
            others = ", ".join(f"{', '.join(types)} ({resource})" for resource, types in rest)
            yield (
                "note",
                f"step {name}: a pod asks for one resource only, so manifests take {', '.join(first[1])} ({first[0]}), "
                f"the first named, and not {others}",
                None,
            )
    if resources:
        yield "ok", f"GPUs are asked for as {', '.join(resources)}"


def _quota(at: Situation, policy: Policy) -> Iterator[Made]:
    cluster = at.cluster
    quiet = True
    for name, asks in at.asks.items():
        closed: dict[str, str] = {}
        some_open = False
        admitted: dict[str, str] = {}
        for asked in asks:
            for wanted in asked.gpu_type if asked.gpu else ():
                found = find_gpu(cluster, wanted)
                if found is None:
                    continue
                known, gpu = found
                if gpu.quota == "reservation" and known not in cluster.reserved:
                    closed[known] = "needs a reservation"
                elif gpu.quota == "priority":
                    needed = gpu.priority_class or ""
                    chosen = cluster.defaults.priority_class
                    if chosen is not None and chosen != needed:
                        closed[known] = f"runs under the priority class {needed} only, and yours is {chosen}"
                    else:
                        admitted[known] = needed
                        some_open = True
                else:
                    some_open = True
        quiet = quiet and not closed and not admitted
        if closed:
            said = "; ".join(f"{known} {why}" for known, why in closed.items())
            hint = f"Once it is granted, write reserved: [{', '.join(closed)}] into your cluster file; or take another type."
            if some_open:
                yield "warn", f"step {name}: {said}: those pods would be refused", hint
            else:
                yield "error", f"step {name}: {said}: quota 0", hint
        for known, priority in admitted.items():
            yield (
                "note",
                f"step {name}: {known} runs as {priority}: it may be preempted at any time, so checkpoints matter",
                None,
            )
    if quiet and at.gpus:
        yield "ok", "no GPU type that needs a reservation or a priority class"


def _priority(at: Situation, policy: Policy) -> Iterator[Made]:
    chosen = at.cluster.defaults.priority_class
    known = at.cluster.priority_classes
    if chosen is not None and known and chosen not in known:
        yield "error", f"priority class {chosen} is rejected", f"Known here: {', '.join(known)}, or none."
    else:
        yield "ok", f"priority class {chosen or 'none'}"


def _tolerations(at: Situation, policy: Policy) -> Iterator[Made]:
    used: list[Toleration] = list(at.cluster.defaults.tolerations)
    for asks in at.asks.values():
        for asked in asks:
            used += [one for way in gpu_requests(at.cluster, asked)[:1] for gpu in way.gpus for one in gpu.tolerations]
    bad = False
    for one in dict.fromkeys(used):
        if one.key is None:
            bad = True
            yield "error", "a toleration without key tolerates every taint, also those of broken nodes", "Name its key."
            continue
        taint = at.cluster.taints.get(one.key)
        if taint is None:
            if at.cluster.taints:
                bad = True
                yield "warn", f"toleration {one.key}: no such taint is known", f"Known: {', '.join(at.cluster.taints)}."
        elif taint.allowed == "never":
            bad = True
            yield (
                "error",
                f"toleration {one.key} is never allowed: {taint.note or 'those nodes are not for users'}",
                None,
            )
        elif taint.allowed == "ask":
            bad = True
            yield "warn", f"toleration {one.key} is allowed after approval only", None
        elif taint.values and one.value is not None and one.value not in taint.values:
            bad = True
            yield "warn", f"toleration {one.key}={one.value}: known values are {', '.join(taint.values)}", None
    if any(one.key == "nautilus.io/science-dmz" for one in used) and (remote := _remote(at)):
        yield (
            "warn",
            f"nodes of nautilus.io/science-dmz have no public Internet, and {_steps(remote)} "
            f"{'reads' if len(remote) == 1 else 'read'} from an address",
            "Leave that toleration out, or bring the data to a claim first.",
        )
        bad = True
    if not bad:
        yield "ok", f"tolerations: {', '.join(dict.fromkeys(str(one.key) for one in used)) or 'none'}"


def _remote(at: Situation) -> list[str]:
    """Steps whose command, or whose data, names an address on the Internet."""
    study = at.plan.study
    found = []
    for name in at.asks:
        step = study.steps[name]
        texts = (*(text for _, text in step.templates()), *data_of(study, step).values())
        if any("https://" in text or "http://" in text for text in texts):
            found.append(name)
    return found


def _ephemeral(at: Situation, policy: Policy) -> Iterator[Made]:
    most = _size(policy.parameters.get("most", "50Gi"))
    large = {name: max(a.disk or 0 for a in asks) for name, asks in at.asks.items()}
    over = {name: disk for name, disk in large.items() if disk > most}
    for name, disk in over.items():
        yield (
            "warn",
            f"step {name} asks for {format_size(disk)} of scratch disk; above {format_size(most)} a pod may be evicted",
            "Keep large files in the store or in a claim.",
        )
    if not over and any(large.values()):
        yield "ok", f"scratch disk up to {format_size(max(large.values()))}"


def _shared_memory(at: Situation, policy: Policy) -> Iterator[Made]:
    def without(asks: dict[Resources, int]) -> bool:
        return any(asked.gpu and not asked.shm for asked in asks)

    bare = [name for name, asks in at.asks.items() if without(asks)]
    if bare:
        yield (
            "warn",
            f"{_steps(bare)} {'asks' if len(bare) == 1 else 'ask'} for GPUs but for no shm: /dev/shm is 64 MB, too little "
            "for data loaders with workers",
            "resources: {shm: 8Gi}; it counts as memory.",
        )
    for name, asks in at.asks.items():
        if any(a.shm and a.memory and a.shm >= a.memory for a in asks):
            yield (
                "warn",
                f"step {name}: shm is as large as memory, and what lies in it counts as memory",
                "Ask for more memory.",
            )
    if not bare and any(a.shm for asks in at.asks.values() for a in asks):
        yield "ok", "/dev/shm is a memory volume"


def _backoff_and_ttl(at: Situation, policy: Policy) -> Iterator[Made]:
    ttl = at.cluster.defaults.ttl
    try:
        most = parse_duration(policy.parameters.get("ttl", "7d"))
    except UnitError:
        most = 604800.0
    if ttl > most:
        yield (
            "warn",
            f"ended Jobs are kept for {format_duration(ttl)}; the platform keeps them {format_duration(most)}",
            "In the cluster file: defaults: {ttl: 7d}.",
        )
    else:
        yield "ok", f"restartPolicy Never, backoffLimit above 0, ended Jobs kept for {format_duration(ttl)}"


def _environments(at: Situation, policy: Policy) -> Iterator[Made]:
    found = False
    for name in at.asks:
        run = at.plan.study.steps[name].run
        texts = [run] if run is not None else []
        for text in [*texts, *at.scripts.get(name, {}).values()]:
            for words in installs(text):
                found = True
                shown = " ".join(words[:6])
                on_store = any(_onto(word, at.mounts) for word in words)
                if on_store:
                    yield (
                        "error",
                        f"step {name}: `{shown}` makes an environment on the shared store",
                        "Put it into the image.",
                    )
                else:
                    yield (
                        "warn",
                        f"step {name}: `{shown}` installs packages anew in every task",
                        "Put them into the image; never install onto a CephFS mount.",
                    )
    if not found:
        yield "ok", "no pip or conda in any command"


def _onto(word: str, mounts: list[str]) -> bool:
    # --prefix=/data/env as well as /data/env
    place = word.partition("=")[2] or word
    return any(name in place for name in ("{out}", "{checkpoints}")) or any(place.startswith(one) for one in mounts)


def _steps(names: list[str]) -> str:
    return f"step{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _size(value: Any) -> int:
    try:
        return parse_size(value)
    except UnitError:
        return 2**62


RULES: dict[str, Rule] = {
    "limits-near-requests": _limits,
    "use-what-you-ask": _use,
    "no-bare-pods": _bare_pods,
    "no-sleep": _no_sleep,
    "gpus-on-a-node": _gpus_on_a_node,
    "announce-many-gpus": _announce,
    "no-job-storm": _job_storm,
    "gpu-names": _gpu_names,
    "gpu-quota": _quota,
    "priority-classes": _priority,
    "tolerations": _tolerations,
    "ephemeral-storage": _ephemeral,
    "shared-memory": _shared_memory,
    "backoff-and-ttl": _backoff_and_ttl,
    "no-environments-on-cephfs": _environments,
}
"""By the id that cluster files give a policy."""
