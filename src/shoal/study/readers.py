"""How the values of a study file's fields are read: each function takes what YAML gave and returns the one form that the
models hold, or refuses it with a sentence that continues ``"field" ...``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from pydantic_core import PydanticCustomError

from shoal.study.template import Value
from shoal.study.values import show, value_key
from shoal.units import UnitError

__all__ = [
    "MOST_SEEDS", "NAME", "STEP", "STUDY", "VARIABLE", "is_template", "read_axes", "read_cells", "read_choice", "read_command",
    "read_environment", "read_free", "read_gpu_types", "read_name", "read_places", "read_secrets", "read_seeds", "read_text",
    "read_texts", "read_variables", "read_whole", "read_whole_text", "read_zips", "refuse", "templated", "units",
]  # fmt: skip

NAME = r"[A-Za-z_][A-Za-z0-9_-]*"
STEP = r"[A-Za-z0-9][A-Za-z0-9_-]*"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
STUDY = r"[a-z0-9][a-z0-9-]*"
MOST_SEEDS = 10_000
_TEMPLATE = re.compile(rf"\{{{NAME}(?:\.[A-Za-z0-9_-]+)*\}}")


def refuse(message: str, hint: str | None = None, at: tuple[str | int, ...] = ()) -> NoReturn:
    """Fail the validation of a field with a sentence that continues ``"field" ...``; ``at`` leads to the culprit in it."""
    # The sentence goes in as a value: pydantic would fill in braces of a template.
    raise PydanticCustomError("shoal", "{message}", {"message": message, "hint": hint, "at": at})


def is_template(value: object) -> bool:
    """Whether a value is a text with a ``{name}`` in it, whose meaning is known only when the name is filled in."""
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def _said(value: object) -> str:
    """What was written instead, for the end of a sentence."""
    if isinstance(value, Mapping):
        return "not a mapping"
    if isinstance(value, list | tuple):
        return "not a list"
    if value is None:
        return "and has no value"
    return f"not {show(value)}"


def read_text(value: object) -> str:
    """Text that is not empty."""
    if not isinstance(value, str):
        if isinstance(value, bool | int | float):
            refuse(f"must be text, {_said(value)}", f'Put it in quotes if it is meant as text: "{show(value)}"')
        refuse(f"must be text, {_said(value)}")
    if not value.strip():
        refuse("must not be empty")
    return value


def read_whole(minimum: int, maximum: int = 2**31 - 1) -> Callable[[object], int]:
    """A reader of whole numbers between two bounds, both included."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            refuse(f"must be a whole number, {minimum} or more, {_said(value)}")
        return value

    return check


def templated(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """Let a text with a ``{name}`` pass: it is read when it has been filled in."""

    def check(value: object) -> Any:
        return value if is_template(value) else parse(value)

    return check


def units(parse: Callable[[object], Any]) -> Callable[[object], Any]:
    """A reader from a function of `shoal.units`."""

    def check(value: object) -> Any:
        try:
            return parse(value)
        except UnitError as error:
            said = _said(value) if isinstance(value, list | dict | None) else show(value)
            refuse(f"{error.message}: {said}", error.hint)

    return check


def _list_of(value: object, what: str) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, Mapping) or value is None:
        refuse(f"must be {what} or a list of them, {_said(value)}")
    return [value]


def read_texts(what: str, pattern: str | None = None) -> Callable[[object], tuple[str, ...]]:
    """A reader of one text or a list of them, each once; ``pattern`` is what each must match."""

    def check(value: object) -> tuple[str, ...]:
        items = _list_of(value, what)
        for place, item in enumerate(items):
            at = (place,) if isinstance(value, list) else ()
            if not isinstance(item, str) or not item.strip():
                refuse(f"must be {what} or a list of them, {_said(item)}", at=at)
            if pattern is not None and not re.fullmatch(pattern, item):
                refuse(f"must be {what} or a list of them; {show(item)} is not a name", _name_hint(item), at=at)
            if item in items[:place]:
                refuse(f"names {show(item)} twice", at=at)
        return tuple(items)

    return check


def _name_hint(name: str) -> str:
    if "." in name:
        return f"Names have no dots: {name.replace('.', '_')}"
    return "Names are made of letters, digits, _ and -, and start with a letter."


def read_name(pattern: str, hint: str) -> Callable[[object], str]:
    """A reader of names."""

    def check(value: object) -> str:
        if not isinstance(value, str):
            refuse(f"must be a name, {_said(value)}", hint)
        if not re.fullmatch(pattern, value) or len(value) > 63:
            refuse(f"cannot be {show(value)}", hint)
        return value

    return check


_INTERPRETERS = frozenset(
    (
        "python",
        "python3",
        "torchrun",
        "accelerate",
        "deepspeed",
        "bash",
        "sh",
        "uv",
        "conda",
        "srun",
        "mpirun",
        "Rscript",
        "julia",
    )
)


def read_command(value: object) -> str | tuple[str, ...]:
    """Text for the shell, or a list of exact arguments."""
    if isinstance(value, str):
        return read_text(value)
    if not isinstance(value, list | tuple):
        refuse(f"must be a command: text for the shell, or a list of exact arguments, {_said(value)}")
    if not value:
        refuse("must not be empty")
    words = []
    for place, item in enumerate(value):
        if isinstance(item, list | Mapping) or item is None:
            said = _said(item)
            refuse(f"holds an argument that is {said}" if item is None else f"must hold texts, {said}", at=(place,))
        words.append(item if isinstance(item, str) else show(item))
    if not words[0].strip():
        refuse("must start with a program", at=(0,))
    # A program's name may hold spaces; that of an interpreter with its script behind it is a whole command in one item.
    if len(words[0].split()) > 1 and words[0].split()[0] in _INTERPRETERS:
        said = ", ".join(words[0].split())
        refuse(
            f'must start with a program by itself, not "{words[0]}"',
            f"Each item of a list is one word: [{said}, ...]. For a shell, write the command as one text.",
            at=(0,),
        )
    return tuple(words)


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        refuse(f"must be a mapping of {what}, {_said(value)}")
    return value


def _names_of(value: Mapping[str, Any], what: str) -> None:
    for name in value:
        if not re.fullmatch(NAME, name) or len(name) > 63:
            refuse(f"holds {what} that cannot be named {show(name)}", _name_hint(name), at=(name,))


def _value(value: object, at: tuple[str | int, ...]) -> Value:
    """A single value or a flat list of them."""
    if isinstance(value, Mapping):
        refuse(f"must hold plain values, {_said(value)}", at=at)
    if isinstance(value, list | tuple):
        for place, item in enumerate(value):
            if isinstance(item, list | tuple | Mapping):
                refuse("holds a list of lists; a value is a text, a number, true, false, null or a flat list of those",
                       at=(*at, place))  # fmt: skip
        return tuple(value)
    if value is None or isinstance(value, str | int | float):
        return value
    refuse(f"must hold plain values, {_said(value)}", at=at)


def read_axes(value: object) -> dict[str, tuple[Value, ...]]:
    """Axis to list of values; a single value is a list of one."""
    axes = _mapping(value, "axis to list of values")
    _names_of(axes, "an axis")
    found: dict[str, tuple[Value, ...]] = {}
    for name, values in axes.items():
        if values is None or values in ([], ()):
            refuse(f'gives the axis "{name}" no values', f"Write its values as a list: {name}: [a, b]", at=(name,))
        if isinstance(values, Mapping):
            hint = f"For example {name}: [1, 2, 5], or {name}: {{from: 1, to: 5}} for the whole numbers from 1 to 5."
            refuse(f'must give the axis "{name}" a list of values, {_said(values)}', hint, at=(name,))
        listed = values if isinstance(values, list | tuple) else [values]
        found[name] = tuple(
            _value(one, (name, place) if isinstance(values, list) else (name,)) for place, one in enumerate(listed)
        )
        seen: dict[object, int] = {}
        for place, one in enumerate(found[name]):
            if value_key(one) in seen:
                refuse(
                    f'gives the axis "{name}" the value {show(one)} twice',
                    "Every value is a task of its own: remove one.",
                    at=(name, place),
                )
            seen[value_key(one)] = place
    return found


def read_zips(value: object) -> tuple[dict[str, tuple[Value, ...]], ...]:
    """One mapping of axes that move together, or a list of such."""
    groups: list[dict[str, tuple[Value, ...]]] = []
    single = not isinstance(value, list | tuple)
    listed: list[object] = list(value) if isinstance(value, list | tuple) else [value]
    for place, group in enumerate(listed):
        try:
            groups.append(_unzipped(group))
        except PydanticCustomError as error:
            context = error.context or {}
            at = context.get("at", ())
            refuse(str(context["message"]), context.get("hint"), at=at if single else (place, *at))
    return tuple(groups)


def _unzipped(value: object) -> dict[str, tuple[Value, ...]]:
    axes = _mapping(value, "axes that move together, each with a list of values")
    _names_of(axes, "an axis")
    group: dict[str, tuple[Value, ...]] = {}
    for name, values in axes.items():
        if not isinstance(values, list | tuple) or not values:
            hint = f"For example {name}: [1, 2, 5], or {name}: {{from: 1, to: 5}} for the whole numbers from 1 to 5."
            refuse(f'must give the axis "{name}" a list of values, {_said(values)}', hint, at=(name,))
        group[name] = tuple(_value(one, (name, place)) for place, one in enumerate(values))
    lengths = {len(values) for values in group.values()}
    if len(lengths) > 1:
        counts = ", ".join(f"{name} has {len(values)}" for name, values in group.items())
        shortest = min(group, key=lambda name: len(group[name]))
        refuse(f"needs axes of one length: {counts}",
               "Axes that are zipped move together: first value with first value, and so on.", at=(shortest,))  # fmt: skip
    if len(group) < 2:
        refuse("needs at least two axes to move together", "Put a single axis under matrix.")
    return group


def read_cells(value: object) -> tuple[dict[str, Value], ...]:
    """The entries of include or exclude."""
    if not isinstance(value, list | tuple):
        refuse(f"must be a list of mappings of axis to value, {_said(value)}", "For example: [{model: unet, lr: 1e-3}]")
    cells = []
    for place, cell in enumerate(value):
        if not isinstance(cell, Mapping) or not cell:
            refuse(f"must be a list of mappings of axis to value, {_said(cell)}" if cell != {} else "holds an empty entry",
                   at=(place,))  # fmt: skip
        _names_of(cell, "an axis")
        cells.append({name: _value(one, (place, name)) for name, one in cell.items()})
    return tuple(cells)


def read_seeds(value: object) -> tuple[int, ...]:
    """A number of seeds, or a list of them."""
    hint = "seeds: 3 means the seeds 0, 1 and 2; or list them: [0, 17, 42]"
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MOST_SEEDS:
            refuse(f"must be from 1 to {MOST_SEEDS} seeds, not {value}", hint)
        return tuple(range(value))
    if not isinstance(value, list | tuple) or not value:
        refuse(
            f"must be a number of seeds or a list of them, {_said(value) if value != [] else 'not an empty list'}", hint
        )
    for place, one in enumerate(value):
        if isinstance(one, bool) or not isinstance(one, int):
            refuse(f"must be whole numbers, {_said(one)}", hint, at=(place,))
        if not 0 <= one < 2**32:
            refuse(f"must be from 0 to 4294967295, not {one}", "NumPy takes no other.", at=(place,))
        if one in value[:place]:
            refuse(f"names {one} twice", at=(place,))
    return tuple(value)


def read_variables(value: object) -> dict[str, Value]:
    """Names to plain values."""
    found = _mapping(value, "name to value")
    _names_of(found, "a name")
    return {name: _value(one, (name,)) for name, one in found.items()}


def _variable(name: str, at: tuple[str | int, ...]) -> None:
    if not re.fullmatch(VARIABLE, name):
        hint = "Variables of the environment are made of letters, digits and _, and do not start with a digit."
        refuse(f"holds {show(name)}, which cannot name a variable of the environment", hint, at=at)
    if name.startswith("SHOAL_"):
        refuse(f'holds "{name}"', "Variables that start with SHOAL_ are set by Shoal itself.", at=at)


def read_secrets(value: object) -> tuple[str, ...]:
    """Names of variables of the environment."""
    names = read_texts("the name of a variable of the environment")(value)
    for place, name in enumerate(names):
        _variable(name, (place,) if isinstance(value, list) else ())
    return names


def read_environment(value: object) -> dict[str, str]:
    """Variables of the environment with their texts; numbers and booleans become text."""
    found: dict[str, str] = {}
    for name, one in _mapping(value, "variable to text").items():
        _variable(name, (name,))
        if isinstance(one, list | tuple | Mapping) or one is None:
            refuse(f'must give "{name}" a text, {_said(one)}', at=(name,))
        # Variables are text anyway: 1 and "1" are the same here.
        found[name] = one if isinstance(one, str) else show(one)
        if "\0" in found[name]:
            refuse(f'gives "{name}" a NUL character, which no variable can hold', at=(name,))
    return found


def read_places(value: object) -> str | dict[str, str]:
    """One place, or names to places."""
    if isinstance(value, str):
        return read_text(value)
    if not isinstance(value, Mapping) or not value:
        refuse(
            f"must be a place, or a mapping of name to place, {_said(value) if value != {} else 'not an empty mapping'}"
        )
    _names_of(value, "a place")
    for name, place in value.items():
        if not isinstance(place, str) or not place.strip():
            refuse(f'must give "{name}" a path or an address, {_said(place)}', at=(name,))
    return dict(value)


def read_free(value: object) -> dict[str, Any]:
    """Profiles: their contents are checked when they are laid over the study."""
    found = _mapping(value, "profile to what it changes")
    for name, changes in found.items():
        if not re.fullmatch(STEP, name):
            refuse(f"holds a profile that cannot be named {show(name)}", at=(name,))
        if not isinstance(changes, Mapping):
            refuse(f'must give the profile "{name}" a mapping of what it changes, {_said(changes)}', at=(name,))
    return dict(found)


def read_choice(*choices: str) -> Callable[[object], Any]:
    """A reader of one of a few words."""

    def check(value: object) -> Any:
        if value not in choices:
            refuse(f"must be {' or '.join(choices)}, {_said(value)}")
        return value

    return check


def read_whole_text(minimum: int) -> Callable[[object], int]:
    """A reader of whole numbers, also as text: a filled-in ``{gpus}`` comes as one."""
    check = read_whole(minimum)

    def parse(value: object) -> int:
        return check(int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value) else value)

    return parse


def read_gpu_types(value: object) -> tuple[str, ...]:
    """One type of GPU or several; a filled-in ``{types}`` may be a list."""
    flat = [one for item in value for one in (item if isinstance(item, list | tuple) else [item])] if isinstance(
        value, list | tuple) else value  # fmt: skip
    return read_texts("a type of GPU")(flat)
