"""The JSON Schema of a study file, by which editors complete keys, show what they mean and underline mistakes."""

from __future__ import annotations

import copy
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from shoal.study.readers import STEP
from shoal.study.schema import Best, Objective, Report, Resources, Scatter, Step, Study, Table

__all__ = ["described", "json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_IN_MATRIX = ("zip", "include", "exclude")


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a study file.

    It accepts the shorthands that the loader accepts. What only the whole study shows (names in commands, axes that nothing
    uses) is left to the loader.
    """
    schema = described()
    _strip(schema)
    return schema


def described() -> dict[str, Any]:
    """The schema with, for every field, ``x-kind``: what it takes, in words."""
    schema = copy.deepcopy(Study.model_json_schema())
    definitions: dict[str, Any] = schema.pop("$defs")
    study = {key: schema[key] for key in ("type", "properties", "additionalProperties", "description")}
    _tidy(study, Study)
    for model in (Best, Objective, Report, Resources, Scatter, Step, Table):
        _tidy(definitions[model.__name__], model)
    matrix = definitions["Step"]["properties"]["matrix"]["anyOf"][0]
    matrix["properties"] = {name: {"anyOf": definitions["Step"]["properties"][name]["anyOf"]} for name in _IN_MATRIX}
    properties = study["properties"]
    steps = {"type": "object", "propertyNames": {"pattern": f"^{STEP}$"}}
    step = {"$ref": "#/$defs/Step"}
    properties["steps"]["anyOf"][0] = {**steps, "additionalProperties": step}
    properties["steps"]["x-kind"] = "name to [step](#step)"

    changes = copy.deepcopy(study)
    changes["description"] = "What a profile changes. Mappings are merged, lists are replaced, null removes a key."
    for name in ("extends", "profiles"):
        del changes["properties"][name]
    changes["properties"]["steps"]["anyOf"][0]["additionalProperties"] = {"anyOf": [step, {"type": "null"}]}
    definitions["Profile"] = changes
    properties["profiles"]["anyOf"][0]["additionalProperties"] = {"$ref": "#/$defs/Profile"}
    return {
        "$schema": _DIALECT,
        "title": "Shoal study",
        **study,
        "anyOf": [{"required": ["study", "steps"]}, {"required": ["extends"]}],
        "$defs": definitions,
    }


def _tidy(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Say for every key of a model what it means beside, not within, what it takes; and let it be empty."""
    schema.pop("title", None)
    # A file that extends another, or a profile, may say a part only; the loader asks for the rest.
    schema.pop("required", None)
    for name, field in model.model_fields.items():
        taken = schema["properties"][name]
        kinds = [kind for kind in taken.get("anyOf", [taken]) if kind != {"type": "null"}]
        said: dict[str, Any] = {"description": field.description, "examples": field.examples}
        if field.default not in (None, (), PydanticUndefined):
            said["default"] = field.default
        for kind in (taken, *kinds):
            for key in ("title", *said):
                kind.pop(key, None)
            if "x-kind" in kind:
                said["x-kind"] = kind.pop("x-kind")
        # `timeout:` with nothing behind it is as good as no timeout.
        schema["properties"][name] = {**said, "anyOf": [*kinds, {"type": "null"}]}


def _strip(node: Any) -> None:
    """Remove what is no keyword of JSON Schema."""
    if isinstance(node, dict):
        node.pop("x-kind", None)
        for value in node.values():
            _strip(value)
    elif isinstance(node, list):
        for value in node:
            _strip(value)
