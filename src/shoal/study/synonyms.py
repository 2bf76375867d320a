"""What people who come from other tools write, and what it is called in a study file; only for hints in errors."""

from __future__ import annotations

__all__ = ["synonym"]

_SAID = {
    "Resources": {
        "gpu": "gpus gpu_count num_gpus",
        "cpu": "cpus cores num_cpus",
        "memory": "mem ram",
        "gpu_memory": "vram gpu_mem",
        "gpu_type": "gpu_types accelerator",
        "disk": "storage ephemeral_storage",
        "shm": "shared_memory",
        "nodes": "node",
    },
    "Step": {
        "run": "command cmd script exec args",
        "needs": "depends_on depends dependencies requires after need",
        "for_each": "foreach each map",
        "matrix": "grid sweep axes parameters",
        "env": "environment envs",
        "image": "container docker",
        "timeout": "walltime time time_limit timeout_minutes",
        "retries": "retry attempts",
        "seeds": "seed",
        "secrets": "secret",
        "gate": "approve approval wait",
        "max_parallel": "parallel parallelism concurrency",
        "params": "param",
        "code": "files source",
        "resources": "resource",
    },
    "Objective": {
        "metric": "name value",
        "goal": "mode direction type",
    },
    "Best": {
        "over": "axis axes",
        "by": "metric",
        "goal": "mode",
    },
    "Table": {
        "rows": "row index",
        "columns": "column cols",
        "value": "values metric",
        "title": "name",
        "over": "mean average",
        "where": "filter select",
    },
    "Scatter": {
        "colour": "color hue",
        "title": "name",
        "label": "text labels",
    },
    "Report": {
        "tables": "table",
        "scatter": "scatters charts chart",
        "objective": "metric",
    },
    "Study": {
        "study": "name",
        "steps": "stages jobs tasks step",
        "vars": "variables var params",
        "extends": "extend include base import",
        "profiles": "profile",
        "defaults": "default",
        "data": "datasets inputs",
        "report": "results",
        "store": "output",
        "description": "summary",
    },
}


def synonym(model: str, name: str) -> str | None:
    """The key of ``model`` (a name such as ``Step``) that is meant by ``name``, or None."""
    wanted = name.lower().replace("-", "_")
    return next((key for key, said in _SAID.get(model, {}).items() if wanted in said.split()), None)
