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

    return _commands("shoal", typer.main.get_command(app), 3)


def application_reference() -> str:
    """Every command of the applications, by group, in the order of ``shoal-earth --help``."""
    from shoal_earth.cli import app

    return _commands("shoal-earth", typer.main.get_command(app), 2)


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


def detectors() -> str:
    """Every detector of the registry."""
    from shoal_earth.detection.models import DETECTORS, PAPER

    lines = ["| name | detector | family | of the ten | what `--pretrained auto` loads |", "|---|---|---|---|---|"]
    for name, entry in DETECTORS.items():
        cells = (f"`{name}`", entry.title, entry.family, "yes" if name in PAPER else "", entry.pretrained)
        lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def recipes() -> str:
    """Every published recipe."""
    from shoal_earth.detection.models import DETECTORS, recipe

    lines = ["| name | optimizer | rate | decay | batch of a GPU | schedule | warm-up | clip | augmentation |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for name in DETECTORS:
        by = {dataset: recipe(name, dataset) for dataset in ("rareplanes", "dota", "xview")}
        one = by["dota"]
        rate, batch = (_each({d: getattr(r, key) for d, r in by.items()}) for key in ("lr", "batch_size"))
        clip = "" if one.clip is None else f"{one.clip:g}"
        cells = (f"`{name}`", one.optimizer, rate, f"{one.weight_decay:g}", batch, one.schedule, str(one.warmup), clip)
        lines.append(f"| {' | '.join((*cells, one.augment))} |")
    return "\n".join(lines)


def _each(values: dict[str, Any]) -> str:
    """One value, or those that differ with their datasets."""
    usual = max(values.values(), key=list(values.values()).count)
    others = [f"{value:g} ({dataset})" for dataset, value in values.items() if value != usual]
    return ", ".join([f"{usual:g}", *others])


def _commands(words: str, group: Any, level: int) -> str:
    """What is below a group, each command under a heading of this level, and groups before what they hold."""
    parts = []
    for name, command in group.commands.items():
        parts.append(_verb(f"{words} {name}", command, level))
        if hasattr(command, "commands"):
            parts.append(_commands(f"{words} {name}", command, level + 1))
    return "\n".join(parts)


def _verb(words: str, command: Any, level: int) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    lines = [f"{'#' * level} {words}", "", inspect.cleandoc(command.help or ""), ""]
    if hasattr(command, "commands") and not command.invoke_without_command:
        return "\n".join(lines)
    usage = " ".join([words, *map(_argument, arguments), "[OPTIONS]" if options else ""])
    lines += ["```text", usage.strip(), "```", ""]
    if arguments or options:
        lines += ["| | |", "|---|---|"]
    for one in arguments:
        lines.append(f"| `{_cell(one.metavar or one.name.upper())}` | {_cell(one.help or '')} |")
    for one in options:
        names = ", ".join([*one.opts, *one.secondary_opts])
        value = "" if one.is_flag else f" {_cell(one.metavar or _noun(one))}"
        lines.append(f"| `{names}{value}` | {_cell(one.help or '')}{_given(one)} |")
    return "\n".join([*lines, ""])


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    return (name if one.required else f"[{name}]") + ("..." if one.nargs == -1 else "")


def _given(option: Any) -> str:
    """What holds where the option is not given."""
    if option.required:
        return " *Needed.*"
    if not option.show_default or option.default in (None, "") or option.default is False:
        return ""
    return f" *By default {'so' if option.default is True else option.default}.*"


def _noun(option: Any) -> str:
    return "N" if getattr(option, "min", None) is not None else str(option.opts[0]).lstrip("-").upper()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_MAKERS = {
    "study": study_reference,
    "commands": command_reference,
    "applications": application_reference,
    "failures": failure_classes,
    "detectors": detectors,
    "recipes": recipes,
}
