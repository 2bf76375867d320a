"""From a checked study to its tasks: points, edges, identities, and what each asks of a machine."""

from shoal.plan.build import Plan, Task, build, is_place
from shoal.plan.matrix import Params, expand
from shoal.plan.resources import Resources, resources_of

__all__ = ["Params", "Plan", "Resources", "Task", "build", "expand", "is_place", "resources_of"]
