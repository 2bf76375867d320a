"""What a study file may hold. The descriptions become the JSON Schema and the reference, so they speak to researchers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from shoal.errors import Mark, StudyError
from shoal.study import fields as f
from shoal.study.axes import can_match
from shoal.study.model import FileModel
from shoal.study.readers import is_template
from shoal.study.template import Scalar  # noqa: F401 - pydantic resolves the alias Value in this module

if TYPE_CHECKING:
    from shoal.study.origin import Origin

__all__ = ["Best", "Objective", "Report", "Resources", "Scatter", "Step", "Study", "Table", "model_at", "owner"]


class Resources(FileModel):
    """What one task of a step needs. Each may be filled in from the matrix: `gpu: "{gpus}"`."""

    gpu: f.Gpus = Field(0, description="How many GPUs.", examples=[1, "{gpus}"])
    gpu_type: f.GpuTypes = Field(
        (), description="Types of GPU that will do, any of them.", examples=[["rtx3090", "a10", "l4"], "a100"]
    )
    gpu_memory: f.Size | None = Field(None, description="Memory that each GPU must have at least.", examples=["24Gi"])
    cpu: f.Cpu | None = Field(None, description="CPU cores; `500m` is half a core.", examples=[4, 0.5, "500m"])
    memory: f.Size | None = Field(None, description="Main memory.", examples=["24Gi", "500M"])
    shm: f.Size | None = Field(
        None, description="Shared memory (`/dev/shm`), which PyTorch's data loaders use.", examples=["8Gi"]
    )
    disk: f.Size | None = Field(None, description="Scratch space on the node's disk.", examples=["50Gi"])
    nodes: f.Nodes = Field(
        1, description="Machines that work on one task together, for distributed training.", examples=[2]
    )
    time: f.Length | None = Field(
        None,
        description="How long a task takes, about: long ones start first, so that none is left for the end. It is no limit "
        "(that is `timeout`). Without it, tasks that have finished tell.",
        examples=["3h", "{hours}h"],
    )

    def templates(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """The fields that are filled in from the matrix: where in the resources, and their text."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            for place, item in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
                if is_template(item):
                    yield (name,) if place is None else (name, place), item


class Step(FileModel):
    """A named stage of the study: a command, run once for every point of its matrix. Or a gate, which waits for a person."""

    run: f.Command | None = Field(
        None,
        description="The command of each task. A text is run by the shell, with every value quoted; a list is exact arguments. "
        "`{name}` is filled in.",
        examples=["python train.py --lr {lr} --out {out}", ["python", "train.py", "--lr", "{lr}"]],
    )
    gate: f.Text | None = Field(
        None,
        description="Instead of `run`: what a person has to do or decide before the study goes on past here with "
        "`shoal approve`.",
        examples=["Look at the chips, then approve."],
    )
    needs: f.StepNames = Field(
        (),
        description="Steps that must be done before. A task gets the outputs of those tasks that agree with it on every axis "
        "that both steps have, as `{inputs.STEP}`.",
        examples=["chips", ["chips", "weights"]],
    )
    for_each: f.StepName | None = Field(
        None,
        description="One task for each task of that step, which it needs and whose parameters it inherits, times its own matrix.",
        examples=["train"],
    )
    matrix: f.Axes = Field(
        default_factory=dict,
        description="Axes and their values: one task for every combination. `{from: 1, to: 5}` stands for the whole numbers "
        "from 1 to 5. `include`, `exclude` and `zip` may also stand in here.",
        examples=[{"model": ["unet", "deeplabv3"], "lr": [1e-3, 1e-4]}],
    )
    zip: f.Zips = Field(
        (),
        description="Axes that move together: first value with first value, second with second.",
        examples=[{"model": ["vit", "yolox"], "batch_size": [8, 16]}],
    )
    include: f.Cells = Field(
        (),
        description="Combinations to add to the matrix, each with a value for every axis of the step; with a range, one for "
        "each of its numbers.",
        examples=[[{"model": "unet", "lr": 0.01, "seed": 0}], [{"set": "north", "batch": {"from": 1, "to": 5}}]],
    )
    exclude: f.Cells = Field(
        (),
        description="Combinations to leave out: every task that has all the values of an entry.",
        examples=[[{"model": "vit", "size": 512}]],
    )
    seeds: f.Seeds | None = Field(
        None,
        description="Adds the axis `seed`: 3 means the seeds 0, 1 and 2. Results are then means over seeds, with their spread.",
        examples=[3, [0, 17, 42]],
    )
    params: f.Params = Field(
        "command",
        description="Where the parameters are used. `command`: every axis must appear in the command, the environment or the "
        "resources, so that none is forgotten. `task`: the script reads them by `shoal.task().params`.",
        examples=["task"],
    )
    resources: Resources = Field(
        default_factory=Resources, description="What one task needs.", examples=[{"gpu": 1, "memory": "24Gi"}]
    )
    env: f.Environment = Field(
        default_factory=dict,
        description="Variables of the environment. `{name}` is filled in.",
        examples=[{"OMP_NUM_THREADS": "4", "RUN": "{model}-{lr}"}],
    )
    secrets: f.Secrets = Field(
        (),
        description="Variables whose values are passed on from where the study is started (on a cluster: from its secrets), and "
        "are hidden in logs.",
        examples=[["WANDB_API_KEY"]],
    )
    image: f.Text | None = Field(
        None, description="Container image, where tasks run in containers.", examples=["ghcr.io/example/train:2.1"]
    )
    code: f.Texts = Field(
        (),
        description="Files, folders or patterns, relative to the study file, that the command depends on. When they change, "
        "tasks are shown as made by stale code.",
        examples=["train.py", ["train.py", "models/**/*.py"]],
    )
    retries: f.Count = Field(
        0,
        description="How often a task that failed by its own fault is tried again. Preemptions and lost nodes do not count.",
        examples=[2],
    )
    timeout: f.Duration | None = Field(
        None, description="A task that runs longer than this has failed.", examples=["12h", "1h30m"]
    )
    stall: f.Duration | None = Field(
        None,
        description="A task that neither prints nor logs anything for this long is taken to hang, and has failed.",
        examples=["30m"],
    )
    grace: f.Duration = Field(
        30.0,
        description="How long a task may go on after it was asked to stop, to save a checkpoint.",
        examples=["2m"],
    )
    max_parallel: f.Whole | None = Field(
        None, description="How many tasks of this step may run at once.", examples=[25]
    )
    canary: f.Count = Field(
        3,
        description="When the first so many tasks of the step fail in the same way, the rest is not started. "
        "0 switches that off.",
        examples=[5, 0],
    )

    def templates(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Every text of the step in which ``{name}`` is filled in: where in the step, and the text."""
        if isinstance(self.run, str):
            yield ("run",), self.run
        for place, word in enumerate(self.run if isinstance(self.run, tuple) else ()):
            yield ("run", place), word
        for name, text in self.env.items():
            yield ("env", name), text
        for where, text in self.resources.templates():
            yield ("resources", *where), text


class Objective(FileModel):
    """What the trials are compared by."""

    metric: f.Text = Field(description="The metric, by the name that the task logs it under.", examples=["test/iou"])
    goal: f.Goal = Field(description="Whether more of it is better, or less.", examples=["max"])
    by: f.Text | None = Field(
        None,
        description="The metric that chooses the trial which the report names first, a validation metric. Without it the "
        "objective chooses, which flatters where that is a test metric.",
        examples=["best/val/iou"],
    )
    by_goal: f.Goal | None = Field(
        None, description="Whether more of `by` is better; without it, as of the objective.", examples=["min"]
    )


class Best(FileModel):
    """Choose along an axis before the table is made: for each trial the best epoch, checkpoint or learning rate."""

    over: f.Names = Field(
        description="The axis, or axes, of which only the best value is kept.", examples=["lr", ["lr", "checkpoint"]]
    )
    by: f.Text | None = Field(
        None,
        description="The metric that decides; without it, the table's. Choosing by a test metric flatters.",
        examples=["val/iou"],
    )
    goal: f.Goal | None = Field(
        None, description="Whether more of it is better; without it, the objective's.", examples=["max"]
    )


class Table(FileModel):
    """One table of results. An axis that is named nowhere in it is never averaged over in silence: that is an error."""

    title: f.Text | None = Field(None, description="The table's heading.", examples=["Models and data"])
    rows: f.Names = Field(
        (), description="The axis, or axes, whose values are the rows.", examples=["model", ["model", "pretrained"]]
    )
    columns: f.Names = Field((), description="The axis, or axes, whose values are the columns.", examples=["imagery"])
    value: f.Text | None = Field(
        None, description="The metric in the cells; without it, the objective's.", examples=["test/iou"]
    )
    over: f.Names = Field((), description="The axis, or axes, to take mean and spread over.", examples=["seed"])
    where: f.Variables = Field(
        default_factory=dict, description="Only trials with these values of axes.", examples=[{"checkpoint": "best"}]
    )
    best: Best | None = Field(
        None, description="Keep only the best along an axis.", examples=[{"over": "lr", "by": "val/iou", "goal": "max"}]
    )
    groups: f.Free = Field(
        default_factory=dict,
        description="Axis to name of a group to the values in it: the group stands for them in rows or columns, as their mean "
        "and spread.",
        examples=[{"model": {"transformers": ["swin", "vit"], "CNNs": ["fcos", "ssd"]}}],
    )
    goal: f.Goal | None = Field(
        None,
        description="Whether more of the value is better; needed for ranks and bold where it is not the objective's.",
        examples=["min"],
    )


class Scatter(FileModel):
    """A chart of two metrics against each other, with a point for each trial: speed and quality, say."""

    title: f.Text | None = Field(None, description="The chart's heading.", examples=["Speed against quality"])
    x: f.Text = Field(description="The metric across.", examples=["speed/images_per_second"])
    y: f.Text | None = Field(None, description="The metric upwards; without it, the objective's.", examples=["test/ap"])
    colour: f.Text | None = Field(None, description="The axis that colours the points.", examples=["dataset"])
    label: f.Text | None = Field(None, description="The axis that is written beside the points.", examples=["model"])
    log: f.Texts = Field((), description="Which of `x` and `y` grow by factors.", examples=["x", ["x", "y"]])


class Report(FileModel):
    """What is compared, and how it is shown."""

    objective: Objective | None = Field(
        None, description="What the trials are compared by.", examples=[{"metric": "test/iou", "goal": "max"}]
    )
    tables: tuple[Table, ...] = Field(
        (),
        description="Tables of results, in order.",
        examples=[[{"rows": "model", "columns": "imagery", "value": "test/iou", "over": "seed"}]],
    )
    scatter: tuple[Scatter, ...] = Field(
        (),
        description="Charts of two metrics against each other, in order.",
        examples=[
            [{"x": "speed/images_per_second", "y": "test/ap", "colour": "dataset", "label": "model", "log": "x"}]
        ],
    )


class Study(FileModel):
    """A study: its steps, what they need, and what is compared at the end."""

    study: f.StudyName = Field(
        description="Its name: lower-case letters, digits and `-`. Results are stored under it.",
        examples=["burned-area"],
    )
    title: f.Text | None = Field(
        None, description="Its heading in plan and report.", examples=["Burned-area segmentation, Canada 2019"]
    )
    description: f.Text | None = Field(
        None, description="What it is for, in a few sentences; the report shows it.", examples=["..."]
    )
    extends: f.Texts = Field(
        (),
        description="Study files that this one builds on, relative to this file. Theirs is merged under what stands here; of "
        "several, later ones win. Mappings are merged, lists are replaced, `null` removes a key.",
        examples=["base.yaml", ["cluster.yaml", "models.yaml"]],
    )
    vars: f.Variables = Field(
        default_factory=dict,
        description="Constants, filled in as `{name}`.",
        examples=[{"epochs": 100, "bands": ["B02", "B03"]}],
    )
    data: f.Places = Field(
        default_factory=dict,
        description="Where the data is: a path relative to the study file, or an address. One place is filled in as `{data}`, "
        "named ones as `{data.NAME}`. Where it lies may differ between machines; what it holds is recorded.",
        examples=["../data/canada2019", {"scenes": "/data/scenes", "labels": "labels.geojson"}],
    )
    defaults: Step | None = Field(
        None,
        description="What every step takes over unless it says otherwise.",
        examples=[{"retries": 2, "image": "pytorch:2.4"}],
    )
    steps: dict[str, Step] = Field(
        description="The stages, by name.", examples=[{"train": {"run": "python train.py --out {out}"}}]
    )
    max_parallel: f.Whole | None = Field(None, description="How many tasks may run at once.", examples=[50])
    store: f.Text | None = Field(
        None,
        description="Where outputs and results are kept; `--store` wins over it.",
        examples=["runs", "/data/shoal"],
    )
    report: Report = Field(
        default_factory=Report,
        description="What is compared, and how it is shown.",
        examples=[{"objective": {"metric": "test/iou", "goal": "max"}}],
    )
    profiles: f.Free = Field(
        default_factory=dict,
        description="Named changes to the study, chosen by `--profile`. Mappings are merged, lists are replaced, "
        "`null` removes a key.",
        examples=[{"smoke": {"steps": {"train": {"matrix": {"model": ["unet"]}}}}}],
    )
    _origin: Origin | None = PrivateAttr(None)

    @property
    def path(self) -> Path | None:
        """The study file, or None for a text."""
        return self._origin.path if self._origin else None

    @property
    def folder(self) -> Path:
        """What relative paths in the study are relative to: the study file's folder."""
        return self._origin.folder if self._origin else Path()

    @property
    def changed(self) -> bool:
        """Whether a profile or overrides were applied."""
        return self._origin is not None and self._origin.changed

    @property
    def profile(self) -> str | None:
        """The profile that was applied."""
        return self._origin.profile if self._origin else None

    @property
    def sources(self) -> dict[str, str]:
        """The places of data by name; a place without a name is called ``data``."""
        return {"data": self.data} if isinstance(self.data, str) else dict(self.data)

    def mark(self, *path: str | int) -> Mark | None:
        """Where something was written: the key at ``path``, or the item of a list. None if it was not written."""
        return self._origin.mark(path) if self._origin else None

    def written(self, *path: str | int) -> str | None:
        """A single value as it stands in the file, quotes and all; None for anything else, and for what is not written."""
        return self._origin.written(path) if self._origin else None

    def error(
        self,
        path: tuple[str | int, ...],
        message: str,
        *,
        hint: str | None = None,
        span: tuple[int, int] | None = None,
        key: bool = False,
    ) -> StudyError:
        """An error that points at the value at ``path``, or at the nearest thing around it that was written.

        Args:
            path: keys and places in lists, from the top of the study: ``("steps", "train", "run")``.
            message: one sentence.
            hint: what to do about it.
            span: characters of the text at ``path`` to underline, from and to before.
            key: point at the key at the end of ``path`` rather than at its value.
        """
        if self._origin is None:
            return StudyError(message, hint=hint)
        return self._origin.error(path, message, hint=hint, span=span, key=key)

    def report_json(self) -> dict[str, Any]:
        """The report section as ``plan.json`` keeps it."""
        return self.report.model_dump(mode="json", warnings="none")

    def resolved(self) -> dict[str, Any]:
        """The study as plain data after extends, profile, ``--set`` and defaults: loading it gives the same study."""
        if self._origin is None:
            data: dict[str, Any] = self.model_dump(
                mode="json", exclude_unset=True, exclude={"extends", "profiles", "defaults"}
            )
            return data
        data = self._origin.resolved()
        for name, step in self.steps.items():
            if not all(can_match(step, entry) for entry in step.exclude):
                # A profile left the entry without effect; in a study file of its own it would be a mistake.
                kept = [entry for entry in step.exclude if can_match(step, entry)]
                data["steps"][name]["exclude"] = [dict(entry) for entry in kept]
        return data


_NESTED: dict[tuple[type[FileModel], str], tuple[type[FileModel], int]] = {
    (Study, "steps"): (Step, 1),
    (Study, "defaults"): (Step, 0),
    (Study, "report"): (Report, 0),
    (Step, "resources"): (Resources, 0),
    (Report, "objective"): (Objective, 0),
    (Report, "tables"): (Table, 1),
    (Report, "scatter"): (Scatter, 1),
    (Table, "best"): (Best, 0),
}


def model_at(path: Sequence[str | int]) -> tuple[type[FileModel], tuple[str | int, ...]]:
    """The model that a path from the top of a study leads into, and the rest of the path within it."""
    model: type[FileModel] = Study
    start = 0
    while start < len(path):
        inner = _NESTED.get((model, str(path[start])))
        if inner is None or len(path) - start - 1 < inner[1]:
            break
        model = inner[0]
        start += 1 + inner[1]
    return model, tuple(path[start:])


def owner(path: Sequence[str | int]) -> str:
    """What the key at the end of a path belongs to, in words: ``step "train"``, ``the resources of step "train"``."""
    if not path:
        return "the study"
    model, rest = model_at(path)
    inside = path[: len(path) - len(rest)]
    names = {Study: "the study", Report: "the report", Objective: "the objective", Best: '"best"'}
    if model is Step:
        words = f'step "{inside[-1]}"' if inside[0] == "steps" else "the defaults"
    elif model is Resources:
        words = f"the resources of {owner(inside[:-1])}"
    elif model in (Table, Scatter):
        words = f"{'table' if model is Table else 'chart'} {int(inside[-1]) + 1}"
    else:
        words = names[model]
    return words
