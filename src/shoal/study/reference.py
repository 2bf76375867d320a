"""The reference of the study file as a page of Markdown, made from the models, so that it cannot fall behind them."""

from __future__ import annotations

import json
from typing import Any

from shoal.study.check_axes import RESERVED
from shoal.study.editor import described
from shoal.study.template import PLACES
from shoal.study.values import show
from shoal.units import format_duration

__all__ = ["reference_markdown"]

_SECTIONS = {
    "": "The file",
    "Step": "Step",
    "Resources": "Resources",
    "Report": "Report",
    "Objective": "Objective",
    "Table": "Table",
    "Scatter": "Scatter",
    "Best": "Best",
}
_INTRO = """\
# The study file

A study is one YAML file. This page lists every key; it is made from the same models that check a file, and so is the JSON
Schema that `shoal schema` prints for your editor. Unknown keys are errors, with the nearest key that exists.
"""
_FORMS = """\
## Values

| form | how to write it |
|---|---|
| value | a text, a number, `true`, `false`, `null`, or a flat list of those |
| length of time | `90s`, `30m`, `12h`, `1h30m`, `2d`, `1w`; a plain number means seconds |
| size | `24Gi` (powers of 1024: `Ki Mi Gi Ti Pi`) or `500M` (powers of 1000: `k M G T P`); a plain number means bytes |
| amount of CPU | cores, `2` or `0.5`, or thousandths of a core, `500m` |
| name | letters, digits, `_` and `-`, starting with a letter (a step may start with a digit) |

Plain (unquoted) words mean what they look like: `1e-3` is a number; `true` and `false` are the only booleans, so `yes`, `no`,
`on` and `off` are text; `010`, `1_000`, `12:30:45` and `2019-06-01` are text as they stand. `5` and `5.0` are the same value of
an axis. A text that starts with `{` or `[` needs quotes: `gpu: "{gpus}"`. Anchors, aliases and `<<` work.
"""
_NAMES = """\
## Names in commands

`{name}` is filled in in `run`, `env` and the resources. `{{name}}` is the text `{name}` itself; `${NAME}` and every other brace
are left to the shell. In a text command every value is quoted for the shell: put no quotes around it.

| name | what it is |
|---|---|
| an axis, such as `{lr}` | its value: of the step's own axes (`{seed}` with `seeds`), or inherited by `for_each` |
| a variable, such as `{epochs}` | its value in `vars` |
| `{inputs.STEP}` | the output folders of the tasks it gets from a step that it `needs`, or runs `for_each` of |
| `{data}`, `{data.NAME}` | the place of the data, or of one of several |
| `{out}` | the folder for what the task makes; empty at the start of every attempt |
| `{checkpoints}` | a folder that survives attempts: resume from it |
| `{task}`, `{study}`, `{step}` | the task's id, the names of study and step |

Resources know axes and variables only. No axis and no variable can be named RESERVED.
"""
_MERGING = """\
## What wins

From last to first: `--set path=value`, the profile that `--profile` names, the file, the files that it `extends` (of several,
later ones win). `defaults` then fill what a step leaves out; gates take none of them. Mappings are merged key by key, lists and
single values are replaced, and `null` removes a key.
"""


def reference_markdown() -> str:
    """The page: every key with what it takes, its default, its meaning and an example."""
    schema = described()
    parts = [_INTRO]
    for name, title in _SECTIONS.items():
        model = schema["$defs"][name] if name else schema
        parts.append(_section(title, model))
    reserved = ", ".join(f"`{name}`" for name in (*PLACES, *sorted(RESERVED - set(PLACES))))
    return "\n".join([*parts, _NAMES.replace("RESERVED", reserved), _FORMS, _MERGING])


def _section(title: str, model: dict[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_takes(field)} | {_default(key, field)} | {_cell(field['description'])} | {_example(key, field)} |"
        for key, field in model["properties"].items()
    ]
    head = "| key | takes | default | what it means | example |\n|---|---|---|---|---|"
    return "\n".join([f"## {title}", "", model["description"], "", head, *rows, ""])


def _takes(field: dict[str, Any]) -> str:
    if "x-kind" in field:
        return _cell(field["x-kind"])
    kind = field["anyOf"][0]
    several = kind.get("type") == "array"
    name = str((kind["items"] if several else kind)["$ref"]).rpartition("/")[2]
    link = f"[{_SECTIONS[name].lower()}](#{_SECTIONS[name].lower()})"
    return f"list of {link}s" if several else link


def _default(key: str, field: dict[str, Any]) -> str:
    if "default" not in field:
        return ""
    value = field["default"]
    return f"`{format_duration(value) if key == 'grace' else value}`"


def _example(key: str, field: dict[str, Any]) -> str:
    examples = [f"`{key}: {_yaml(example)}`" for example in field["examples"]]
    return _cell("<br>".join(examples))


def _yaml(value: Any, within: bool = False) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(one, True)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(one, True) for one in value) + "]"
    if not isinstance(value, str):
        return show(value)
    plain = value[:1] not in "{[*&!|>'\"%@`#" and not (within and set(value) & set("{}[],")) and ": " not in value
    return value if plain and not value.isdigit() else json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
