"""What one task asks of the machine it runs on, with parameters filled in and sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shoal.study.template import Template, TemplateError

if TYPE_CHECKING:
    from shoal.plan.build import Plan, Task

__all__ = ["Resources", "resources_of"]


@dataclass(frozen=True, slots=True)
class Resources:
    """Amounts for one task.

    Attributes:
        gpu: number of GPUs.
        gpu_type: acceptable types, any of them; empty means any type.
        gpu_memory: least memory of each GPU, bytes.
        cpu: cores.
        memory: bytes of main memory.
        shm: bytes of ``/dev/shm``.
        disk: bytes of scratch disk.
        nodes: machines, each with all of the above.
        time: seconds that the task is expected to take; for the runner, which starts long ones first.
    """

    gpu: int = 0
    gpu_type: tuple[str, ...] = ()
    gpu_memory: int | None = None
    cpu: float = 1.0
    memory: int | None = None
    shm: int | None = None
    disk: int | None = None
    nodes: int = 1
    time: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As in ``spec.json``: what the attempt needs, without the expected time."""
        return {
            "gpu": self.gpu,
            "gpu_type": list(self.gpu_type),
            "gpu_memory": self.gpu_memory,
            "cpu": self.cpu,
            "memory": self.memory,
            "shm": self.shm,
            "disk": self.disk,
            "nodes": self.nodes,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Resources:
        """The inverse of ``to_json``; absent keys take their defaults."""
        known = {name: data[name] for name in cls.__slots__ if name in data}
        known["gpu_type"] = tuple(data.get("gpu_type") or ())
        return cls(**known)


def resources_of(plan: Plan, task: Task, overrides: Mapping[str, Any] | None = None) -> Resources:
    """The resources of one task.

    Args:
        plan: the plan.
        task: one of its tasks.
        overrides: raw values that replace those of the study file, by name (``gpu_memory``).

    Raises:
        StudyError: a parameter makes a value that is no amount.
    """
    study = plan.study
    asked = plan.step(task).resources
    try:
        templates = dict(asked.templates())
        if templates or overrides:
            values = {**study.vars, **task.params}
            raw = asked.model_dump(warnings="none")
            for (field, *place), text in templates.items():
                name, filled = str(field), Template.parse(text).words(values)
                if place:
                    raw[name] = [item for one in raw[name] for item in (filled if one == text else [one])]
                else:
                    raw[name] = filled[0] if len(filled) == 1 else filled
            asked = type(asked).model_validate({**raw, **(overrides or {})})
    except (TemplateError, ValueError) as error:
        said, hint = _first(error)
        message = f"the resources of {task.step} {task.id}: {said}"
        raise study.error(("steps", task.step, "resources"), message, hint=hint) from error
    return Resources(**{name: value for name in Resources.__slots__ if (value := getattr(asked, name)) is not None})


def _first(error: Exception) -> tuple[str, str | None]:
    """What the first thing is that the models (or a template) object to, and what to do about it."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error), None
    first = errors()[0]
    return f'"{first["loc"][0]}" {first["msg"]}', first.get("ctx", {}).get("hint")
