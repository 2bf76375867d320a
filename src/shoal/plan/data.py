"""The data that a step reads, by the words of the study: where it is depends on who looks."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from shoal.study.template import Template

if TYPE_CHECKING:
    from shoal.study import Step, Study

__all__ = ["data_of", "template"]

# The same few texts are rendered for every task of a step.
template = lru_cache(maxsize=1024)(Template.parse)


def data_of(study: Study, step: Step) -> dict[str, str]:
    """The data sources that a step reads: name to place, as the study has it.

    A step that gets its parameters by ``shoal.task()`` may read any of them; another reads those that its command or its
    environment name.
    """
    sources = study.sources
    if not sources or step.params == "task":
        return sources
    used = {reference.name for _, text in step.templates() for reference in template(text).names}
    return {name: place for name, place in sources.items() if name in used or f"data.{name}" in used}
