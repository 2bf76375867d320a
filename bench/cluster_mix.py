"""(i) A cluster: the paper's mix of 234 trainings on fake GPUs, with preemptions, against the least time that it can take."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster_lab import Lab, lab, plane
from cluster_moments import Moments, phases, shown
from cluster_order import makespan
from measure import PYTHON, ROOT, Aim, BenchError, Part, Row

AIM = 1.05
PREEMPTED = 0.05
SEED = 3
WAITING = 8
"""Pods that wait at once. The scheduler gives a place to whatever of them fits: with all of the mix waiting, tasks of 3.6 h on 2
GPUs take the places that those of 68 h on 4 wait for, which then end last. `makespan` of cluster_order.py shows what that costs,
and that any small number does as well: 8 are enough for the scheduler to have the next one when several places become free."""
BACKOFF = 1
"""Seconds after which the scheduler looks again at a pod that did not fit. Its usual 10 would be many hours of the simulation,
in which younger pods take the holes."""
MEANS = {"detection": 68.0, "burned": 3.6, "deforestation": 25.0}
"""Hours that a task of each step is said to take."""
CHECKPOINT = 1.0
"""Hours between checkpoints; a preempted task has lost half of that on average."""


@dataclass(frozen=True, slots=True)
class Training:
    """One task of the mix.

    Attributes:
        step: the application.
        gpus: how many it uses.
        hours: how long it trains, if nothing disturbs it.
        at: after how many hours it is preempted, or None.
        lost: how many hours before that its last checkpoint was.
    """

    step: str
    gpus: int
    hours: float
    at: float | None = None
    lost: float = 0.0

    @property
    def mean(self) -> float:
        """Hours that its user says it takes."""
        return MEANS[self.step]

    def attempts(self) -> tuple[float, ...]:
        """Hours of each attempt: a preempted one is gone on with from its checkpoint."""
        return (self.hours,) if self.at is None else (self.at, self.hours - self.at + self.lost)


def mix(seed: int = SEED, preempted: float = PREEMPTED) -> list[Training]:
    """The trainings of the paper, their lengths spread by a fifth around the means that it tells, shuffled."""
    draw = random.Random(seed)
    kinds = [*[("detection", 4)] * 30, *[("burned", 2)] * 144]
    kinds += [("deforestation", 1 + 3 * (number % 2)) for number in range(60)]
    found = []
    hit = set(draw.sample(range(len(kinds)), round(preempted * len(kinds))))
    for number, (step, gpus) in enumerate(kinds):
        hours = MEANS[step] * draw.uniform(0.8, 1.2)
        if number in hit:
            at = hours * draw.uniform(0.1, 0.9)
            found.append(Training(step, gpus, hours, at, min(at, draw.uniform(0, CHECKPOINT))))
        else:
            found.append(Training(step, gpus, hours))
    draw.shuffle(found)
    return found


def bound(tasks: Sequence[Training], gpus: int) -> float:
    """The least hours that the tasks can take on so many GPUs if nothing is ever preempted."""
    return max(sum(one.gpus * one.hours for one in tasks) / gpus, *(one.hours for one in tasks))


def study(tasks: Sequence[Training], second: float) -> str:
    """The mix as a study: one hour is so many seconds. It tells of each step how long its tasks take, as a user knows it."""
    text = "study: mix\nsteps:\n"
    for step in dict.fromkeys(one.step for one in tasks):
        cells = [
            {
                "n": number,
                "gpus": one.gpus,
                "fake_seconds": ",".join(f"{hours * second:.3f}" for hours in one.attempts()),
                "fake_end": "ok" if one.at is None else "evicted,ok",
            }
            for number, one in enumerate(tasks)
            if one.step == step
        ]
        text += f"""  {step}:
    run: "true {{n}} {{gpus}} {{fake_seconds}} {{fake_end}}"
    include: {json.dumps(cells)}
    resources: {{gpu: "{{gpus}}", cpu: 1, memory: 1Gi, shm: 64Mi, time: {MEANS[step] * second:.1f}s}}
"""
    return text


def measure(folder: Path, sizes: Sequence[int], seconds: Sequence[float], tasks: int | None = None) -> Part:
    """Run the mix once on each number of GPUs.

    Args:
        folder: for studies and stores.
        sizes: numbers of GPUs, in nodes of eight.
        seconds: for each, how many seconds an hour takes.
        tasks: how many of the mix; default: all.
    """
    sys.path.insert(0, str(ROOT))
    from testbed.nodes import Kind

    part = Part("A cluster: the paper's mix")
    work = mix()[:tasks]
    plain = (Kind("NVIDIA-GeForce-RTX-3090", 24576, share=1),)
    for gpus, second in zip(sizes, seconds, strict=True):

        def add_nodes(bed: Any, gpus: int = gpus) -> None:
            bed.add_nodes(gpus // 8, kinds=plain)
            if gpus % 8:
                bed.add_nodes(1, gpus=gpus % 8, kinds=plain)

        with plane(add_nodes, study(work[:8], 0.1), folder, backoff=BACKOFF) as bed:
            with lab(bed, folder, study(work, second), waiting=WAITING) as at:
                found, took = _run(at, work, gpus, second)
        print(f"(i) {gpus} GPUs: {found}", file=sys.stderr, flush=True)
        _tell(part, found, len(work))
        part.rows += [Row("i", f"{gpus} GPUs: {name}", shown(times)) for name, times in took.items()]
    part.notes += [
        "30 trainings of about 68 h on 4 GPUs, 144 of 3.6 h on 2, 60 of 25 h on 1 or 4 (half each), each length within a fifth "
        "of its mean; the fake nodes have 8 GPUs. One in twenty is preempted at a random moment and goes on from its last "
        "checkpoint, of which it makes one an hour.",
        "*makespan* is from the first Job's submission to the last training's end, in hours of the simulation; *bound* is the "
        "larger of all GPU time over all GPUs and the longest training, both without preemptions, so what these cost is in the "
        "ratio. Time is compressed as *an hour is* says; what the control plane and Shoal take is not, and it is "
        "in the ratio. *idle GPUs* is the share of GPU time between start and end that nothing used.",
        "Shoal is told of each step how long its tasks take on average (`resources: {time: ...}`). The cluster file says "
        f"`waiting: {WAITING}`, as for GPUs that nobody else wants: so most of the order is the runner's.",
        "The scheduler's back-off is compressed too, as far as it can be: it looks again at a pod that did not fit after "
        f"{BACKOFF} s instead of 10.",
        "*of the order*: computed: the same ratio if nothing but the trainings took time, for the order in which they are handed "
        "over and taken; *were all waiting*: if all waited at the scheduler at once.",
        "The lines below each size are what was seen of its attempts, with one clock, by a watch beside Shoal: how often each "
        "happened, and how long it took. The control plane runs as in part (h).",
    ]
    return part


def _run(
    at: Lab, work: Sequence[Training], gpus: int, second: float
) -> tuple[dict[str, float], dict[str, list[float]]]:
    moments = Moments(at.kubeconfig, at.namespace)
    begin = time.perf_counter()
    at.call(PYTHON, "-m", "shoal", "run", "s.yaml", "--on", "lab")
    wall = time.perf_counter() - begin
    folders = [path.parent for path in at.root.glob("runs-lab/mix/*/*/attempts/*/attempt.json")]
    records = [json.loads((folder / "attempt.json").read_text()) for folder in folders]
    done = len(list(at.root.glob("runs-lab/mix/*/*/result.json")))
    if done != len(work):
        raise BenchError(f"{done} of {len(work)} trainings are done")

    def moment(text: str) -> float:
        return datetime.fromisoformat(text).timestamp()

    start = min(moment(one["cluster"]["submitted"]) for one in records)
    end = max(moment(one["ended"]) for one in records)
    used = sum(one.gpus * sum(one.attempts()) for one in work)
    hours = (end - start) / second
    least = bound(work, gpus)
    return {
        "gpus": gpus, "second": second, "wall": wall, "makespan": hours, "bound": least, "ratio": hours / least,
        "attempts": len(records), "idle": 1 - used / (gpus * hours),
        "order": makespan(work, gpus, WAITING) / least, "all": makespan(work, gpus, len(work)) / least,
    }, phases(moments, folders)  # fmt: skip


def _tell(part: Part, found: dict[str, Any], tasks: int) -> None:
    gpus = f"{found['gpus']:.0f}"
    ratio = f"{found['ratio']:.3f}"
    cells = {
        "an hour is": f"{found['second']:g} s",
        "makespan h": f"{found['makespan']:.1f}",
        "bound h": f"{found['bound']:.1f}",
        "x bound": ratio,
        "of the order": f"{found['order']:.3f}",
        "were all waiting": f"{found['all']:.3f}",
        "idle GPUs": f"{found['idle']:.0%}",
        "attempts": f"{found['attempts']}",
        "total s": f"{found['wall']:.0f}",
    }
    part.rows.append(Row("i", f"{tasks} trainings on {gpus} GPUs", cells))
    part.aims.append(Aim("i", f"{gpus} GPUs: within {AIM:g} x of the bound", f"x {ratio}", found["ratio"] <= AIM))
    part.figures[gpus] = found
