"""What mkdocs writes itself: the reference of the study file from its schema, that of the command line from its parser.

A page says where by a comment, such as ``<!-- made: study -->``; the names are those of ``_MAKERS``.
"""

from __future__ import annotations

import inspect
from typing import Any

import typer


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is made in the place of the comments that ask for it."""
    for name, make in _MAKERS.items():
        mark = f"<!-- made: {name} -->"
        if mark in markdown:
            markdown = markdown.replace(mark, make())
    return markdown


def study_reference() -> str:
    """Every key of the study file."""
    from shoal.study import reference_markdown

    return reference_markdown()


def command_reference() -> str:
    """Every verb with its arguments and options, in the order of ``shoal --help``."""
    from shoal.cli import app

    group: Any = typer.main.get_command(app)
    return "\n".join(_verb(name, group.commands[name]) for name in group.commands)


def failure_classes() -> str:
    """Every class of failure, with the sentences that the engine itself uses."""
    from shoal.failures import FailureClass

    lines = ["| class | what happened | what to do | whose fault |", "|---|---|---|---|"]
    for kind in FailureClass:
        fault = (
            "the platform's" if kind.platform else "the task's" if kind is not FailureClass.CANCELLED else "nobody's"
        )
        lines.append(f"| `{kind.value}` | {_cell(kind.sentence)} | {_cell(kind.advice)} | {fault} |")
    return "\n".join(lines)


def _verb(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["shoal", name, *(p.metavar or p.name.upper() for p in arguments), "[OPTIONS]" if options else ""])
    lines = [f"### shoal {name}", "", inspect.cleandoc(command.help or ""), "", "```text", usage.strip(), "```", ""]
    if arguments or options:
        lines += ["| | |", "|---|---|"]
    for one in arguments:
        lines.append(f"| `{_cell(one.metavar or one.name.upper())}` | {_cell(one.help or '')} |")
    for one in options:
        names = ", ".join([*one.opts, *one.secondary_opts])
        value = "" if one.is_flag else f" {_cell(one.metavar or _noun(one))}"
        lines.append(f"| `{names}{value}` | {_cell(one.help or '')} |")
    return "\n".join([*lines, ""])


def _noun(option: Any) -> str:
    return "N" if getattr(option, "min", None) is not None else str(option.opts[0]).lstrip("-").upper()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_MAKERS = {"study": study_reference, "commands": command_reference, "failures": failure_classes}
