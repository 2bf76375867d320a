"""The kinds of values that fields of a study file take: how each is read, what it is in JSON Schema, and its name in words.

Each kind is one annotated type. Shorthands ("one text or a list of texts") are settled in reading, so that the models hold
one form only, and no union's branches show up in an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from shoal.study import readers as r
from shoal.study.readers import MOST_SEEDS, NAME, STEP, STUDY, VARIABLE
from shoal.study.template import Value
from shoal.units import parse_cpu, parse_duration, parse_size

__all__ = [
    "Axes", "Cells", "Command", "Count", "Cpu", "Duration", "Environment", "Free", "Goal", "GpuTypes", "Gpus", "Length",
    "Names", "Nodes", "Params", "Places", "Secrets", "Seeds", "Size", "StepName", "StepNames", "StudyName", "Text", "Texts",
    "Variables", "Whole", "Zips",
]  # fmt: skip

_TEMPLATE_SCHEMA = {"type": "string", "pattern": r"\{[A-Za-z_][A-Za-z0-9_.-]*\}", "description": "Filled in: {name}."}
_SCALAR_SCHEMA = {"type": ["string", "number", "boolean", "null"]}
_VALUE_SCHEMA = {"anyOf": [_SCALAR_SCHEMA, {"type": "array", "items": _SCALAR_SCHEMA}]}
_RANGE_SCHEMA = {
    "type": "object",
    "properties": {"from": {"type": "integer"}, "to": {"type": "integer"}},
    "required": ["from", "to"],
    "additionalProperties": False,
}
_LIST_SCHEMA = {"type": "array", "items": _VALUE_SCHEMA, "minItems": 1}
_AXIS_SCHEMA = {"anyOf": [_SCALAR_SCHEMA, _LIST_SCHEMA, _RANGE_SCHEMA]}
_NAMES_ONLY = {"propertyNames": {"pattern": f"^{NAME}$"}}


class Kind:
    """What a field takes: its reader, its name in words (``x-kind``, for the reference) and its JSON Schema.

    Pydantic would build a validator for every branch of the field's type besides; only the reader is needed.
    """

    def __init__(self, read: Callable[[object], Any], words: str, **schema: Any) -> None:
        self._read = read
        self._schema = {**schema, "x-kind": words}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self._schema)


def _or_list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema, "uniqueItems": True}]}


def _unit(pattern: str) -> list[dict[str, Any]]:
    return [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern}]


_DURATION = r"^\s*(?:(?:[0-9]*\.)?[0-9]+\s*(?:ms|s|min|m|h|d|w)\s*)+$|^\s*(?:[0-9]*\.)?[0-9]+(?:[eE][-+]?[0-9]+)?\s*$"
_SIZE = r"^\s*(?:[0-9]*\.)?[0-9]+(?:\s*(?:[kKMGTP]B?|[KMGTP]iB?|B)|[eE][-+]?[0-9]+)?\s*$"
_CPU = r"^\s*(?:[0-9]*\.)?[0-9]+(?:m|[eE][-+]?[0-9]+)?\s*$"
_STRING = {"type": "string", "pattern": r"\S"}

Text = Annotated[str, Kind(r.read_text, "text", **_STRING)]
StudyName = Annotated[
    str,
    Kind(
        r.read_name(STUDY, "A study's name is made of lower-case letters, digits and -, at most 63: burned-area-2"),
        "name",
        type="string",
        pattern=f"^{STUDY}$",
        maxLength=63,
    ),
]
StepName = Annotated[
    str,
    Kind(r.read_name(STEP, "Write the name of a step."), "name of a step", type="string", pattern=f"^{STEP}$"),
]
StepNames = Annotated[
    tuple[str, ...],
    Kind(
        r.read_texts("the name of a step", STEP),
        "name of a step, or a list of them",
        **_or_list({"type": "string", "pattern": f"^{STEP}$"}),
    ),
]
Names = Annotated[
    tuple[str, ...],
    Kind(
        r.read_texts("the name of an axis", NAME),
        "name of an axis, or a list of them",
        **_or_list({"type": "string", "pattern": f"^{NAME}$"}),
    ),
]


GpuTypes = Annotated[
    tuple[str, ...],
    Kind(r.read_gpu_types, "type, or a list of types, or `{name}`", **_or_list(_STRING)),
]
Texts = Annotated[tuple[str, ...], Kind(r.read_texts("text"), "text, or a list of texts", **_or_list(_STRING))]
Command = Annotated[
    str | tuple[str, ...],
    Kind(
        r.read_command,
        "text for the shell, or a list of exact arguments",
        anyOf=[_STRING, {"type": "array", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}}],
    ),
]
Count = Annotated[int, Kind(r.read_whole(0), "whole number", type="integer", minimum=0)]
Whole = Annotated[int, Kind(r.read_whole(1), "whole number from 1", type="integer", minimum=1)]


Gpus = Annotated[
    int | str,
    Kind(
        r.templated(r.read_whole_text(0)),
        "whole number, or `{name}`",
        anyOf=[{"type": "integer", "minimum": 0}, _TEMPLATE_SCHEMA],
    ),
]
Nodes = Annotated[
    int | str,
    Kind(
        r.templated(r.read_whole_text(1)),
        "whole number from 1, or `{name}`",
        anyOf=[{"type": "integer", "minimum": 1}, _TEMPLATE_SCHEMA],
    ),
]
Cpu = Annotated[
    float | str,
    Kind(r.templated(r.units(parse_cpu)), "amount of CPU, or `{name}`", anyOf=[*_unit(_CPU), _TEMPLATE_SCHEMA]),
]
Size = Annotated[
    int | str,
    Kind(r.templated(r.units(parse_size)), "size, or `{name}`", anyOf=[*_unit(_SIZE), _TEMPLATE_SCHEMA]),
]
Duration = Annotated[float, Kind(r.units(parse_duration), "length of time", anyOf=_unit(_DURATION))]
Length = Annotated[
    float | str,
    Kind(
        r.templated(r.units(parse_duration)),
        "length of time, or `{name}`",
        anyOf=[*_unit(_DURATION), _TEMPLATE_SCHEMA],
    ),
]
Axes = Annotated[
    dict[str, tuple[Value, ...]],
    Kind(r.read_axes, "axis to list of values", type="object", additionalProperties=_AXIS_SCHEMA, **_NAMES_ONLY),
]
_ZIP = {
    "type": "object",
    "additionalProperties": {"anyOf": [_LIST_SCHEMA, _RANGE_SCHEMA]},
    "minProperties": 2,
    **_NAMES_ONLY,
}
Zips = Annotated[
    tuple[dict[str, tuple[Value, ...]], ...],
    Kind(
        r.read_zips,
        "axis to list of values, or a list of such mappings",
        anyOf=[_ZIP, {"type": "array", "items": _ZIP}],
    ),
]
Cells = Annotated[
    tuple[dict[str, Value], ...],
    Kind(
        r.read_cells,
        "list of mappings of axis to value",
        type="array",
        items={
            "type": "object",
            "additionalProperties": {"anyOf": [_VALUE_SCHEMA, _RANGE_SCHEMA]},
            "minProperties": 1,
            **_NAMES_ONLY,
        },
    ),
]
Seeds = Annotated[
    tuple[int, ...],
    Kind(r.read_seeds, "how many, or a list of them",
        anyOf=[
            {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS},
            {"type": "array", "minItems": 1, "uniqueItems": True,
             "items": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}},
        ],),
]  # fmt: skip
Variables = Annotated[
    dict[str, Value],
    Kind(r.read_variables, "name to value", type="object", additionalProperties=_VALUE_SCHEMA, **_NAMES_ONLY),
]
Environment = Annotated[
    dict[str, str],
    Kind(
        r.read_environment,
        "variable to text",
        type="object",
        additionalProperties={"type": ["string", "number", "boolean"]},
        propertyNames={"pattern": f"^{VARIABLE}$"},
    ),
]
Secrets = Annotated[
    tuple[str, ...],
    Kind(
        r.read_secrets,
        "name of a variable, or a list of them",
        **_or_list({"type": "string", "pattern": f"^{VARIABLE}$"}),
    ),
]
Places = Annotated[
    str | dict[str, str],
    Kind(
        r.read_places,
        "place, or name to place",
        anyOf=[_STRING, {"type": "object", "additionalProperties": _STRING, "minProperties": 1, **_NAMES_ONLY}],
    ),
]
Free = Annotated[dict[str, Any], Kind(r.read_free, "profile to what it changes", type="object")]
Goal = Annotated[Literal["max", "min"], Kind(r.read_choice("max", "min"), "`max` or `min`", enum=["max", "min"])]
Params = Annotated[
    Literal["command", "task"],
    Kind(r.read_choice("command", "task"), "`command` or `task`", enum=["command", "task"]),
]
