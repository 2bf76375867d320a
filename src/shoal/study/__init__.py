"""The study file: read, merged, checked. Pure but for reading the file, those it extends, and the names of code files.

`load_study` gives a `Study` in which every mistake that can be known before anything runs has been ruled out.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.study.axes import inherited_axes, needed_steps, own_axes, step_axes
    from shoal.study.editor import json_schema
    from shoal.study.load import load_study, parse_study
    from shoal.study.problems import StudyErrors, did_you_mean, nearest
    from shoal.study.reference import reference_markdown
    from shoal.study.schema import Best, Objective, Report, Resources, Scatter, Step, Study, Table
    from shoal.study.template import Reference, Scalar, Template, TemplateError, Value
    from shoal.study.values import same_value, show, value_key
    from shoal.study.yaml import dump as dump_yaml
    from shoal.study.yaml import parse_value

__all__ = [
    "Best",
    "Objective",
    "Reference",
    "Report",
    "Resources",
    "Scalar",
    "Scatter",
    "Step",
    "Study",
    "StudyErrors",
    "Table",
    "Template",
    "TemplateError",
    "Value",
    "did_you_mean",
    "dump_yaml",
    "inherited_axes",
    "json_schema",
    "load_study",
    "nearest",
    "needed_steps",
    "own_axes",
    "parse_study",
    "parse_value",
    "reference_markdown",
    "same_value",
    "show",
    "step_axes",
    "value_key",
]

# Imported when asked for: a template or an error's hint must not cost the models.
_HOMES = {
    "axes": "inherited_axes needed_steps own_axes step_axes",
    "editor": "json_schema",
    "load": "load_study parse_study",
    "problems": "StudyErrors did_you_mean nearest",
    "reference": "reference_markdown",
    "schema": "Best Objective Report Resources Scatter Step Study Table",
    "template": "Reference Scalar Template TemplateError Value",
    "values": "same_value show value_key",
    "yaml": "parse_value dump_yaml",
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names.split():
            home = importlib.import_module(f"shoal.study.{module}")
            return getattr(home, "dump" if name == "dump_yaml" else name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
