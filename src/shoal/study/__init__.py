"""The study file: read, merged, checked. Pure but for reading the file and those it extends.

`load_study` gives a `Study` in which every mistake that can be known before anything runs has been ruled out.
"""

from shoal.study.axes import inherited_axes, needed_steps, own_axes, step_axes
from shoal.study.load import load_study, parse_study
from shoal.study.problems import StudyErrors
from shoal.study.schema import Best, Objective, Report, Resources, Step, Study, Table
from shoal.study.template import Scalar, Template, TemplateError, Value
from shoal.study.values import same_value, show, value_key
from shoal.study.yaml import dump as dump_yaml

__all__ = [
    "Best",
    "Objective",
    "Report",
    "Resources",
    "Scalar",
    "Step",
    "Study",
    "StudyErrors",
    "Table",
    "Template",
    "TemplateError",
    "Value",
    "dump_yaml",
    "inherited_axes",
    "load_study",
    "needed_steps",
    "own_axes",
    "parse_study",
    "same_value",
    "show",
    "step_axes",
    "value_key",
]
