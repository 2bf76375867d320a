"""What only the whole study shows: steps that do not exist, cycles, names in commands, axes that nothing uses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shoal.errors import StudyError
from shoal.study.axes import needed_steps
from shoal.study.check_axes import check_axes, check_use
from shoal.study.check_names import check_names, check_variables
from shoal.study.check_report import check_report
from shoal.study.problems import Problems, did_you_mean, quoted
from shoal.study.readers import STEP
from shoal.study.schema import Step, Study

__all__ = ["STORE_FOLDERS", "check"]

STORE_FOLDERS = ("runs", "code", "control")
"""Folders of a study's store that no step may be named like."""

_NOT_FOR_GATES = (
    "env",
    "secrets",
    "image",
    "code",
    "retries",
    "timeout",
    "stall",
    "grace",
    "resources",
    "max_parallel",
    "canary",
    "params",
)
# The grammar of image references: host[:port]/path[:tag][@digest].
_IMAGE = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]+)?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@[A-Za-z0-9]+:[0-9a-fA-F]{32,})?"
)


def check(study: Study, problems: Problems, *, on_disk: bool) -> None:
    """Add every problem of a study that the models let pass.

    Args:
        study: a study with its origin.
        problems: where they are added.
        on_disk: whether files that ``code`` names must exist.
    """
    if not study.steps:
        problems.add(
            study.error(("steps",), "the study has no steps", hint="For example steps: {train: {run: python train.py}}")
        )
        return
    _step_names(study, problems)
    for name, step in study.steps.items():
        for error in _step(study, name, step, on_disk):
            problems.add(error, error.message.replace(f' of step "{name}"', ""))
    if list(_edges(study, problems)) or _cycle(study, problems):
        return  # what follows a broken edge says nothing new
    wrong = {name for name in study.steps if check_axes(study, name, problems)}
    wrong |= check_names(study, problems)
    for name in study.steps:
        if name not in wrong:  # there, what looks unused may be what was meant
            check_use(study, name, problems)
    if not problems:
        check_variables(study, problems)
    check_report(study, problems)


def _step_names(study: Study, problems: Problems) -> None:
    seen: dict[str, str] = {}
    for name in study.steps:
        path = ("steps", name)
        if not re.fullmatch(STEP, name) or len(name) > 63:
            hint = "A step's name is made of letters, digits, _ and -, at most 63, and starts with a letter or digit."
            problems.add(study.error(path, f'a step cannot be named "{name}"', hint=hint, key=True))
        elif name.lower() in STORE_FOLDERS:
            hint = f"The store keeps its own folders {quoted(STORE_FOLDERS)} beside those of the steps: choose another name."
            problems.add(study.error(path, f'a step cannot be named "{name}"', hint=hint, key=True))
        elif (other := seen.setdefault(name.lower(), name)) != name:
            hint = "Their outputs would share one folder where file names ignore case, as on macOS."
            problems.add(study.error(path, f'steps "{other}" and "{name}" differ in case only', hint=hint, key=True))


def _step(study: Study, name: str, step: Step, on_disk: bool) -> Iterator[StudyError]:
    """What is wrong with one step by itself."""
    path = ("steps", name)
    if step.run is None and step.gate is None:
        yield study.error(
            path, f'step "{name}" has neither "run" nor "gate"', hint="Give it a command: run: python ...", key=True
        )
    if step.run is not None and step.gate is not None:
        hint = "A gate only waits for a person: put the command into a step that needs the gate."
        yield study.error((*path, "gate"), f'step "{name}" has both "run" and "gate"', hint=hint, key=True)
    if step.gate is not None and step.run is None:
        for key in _NOT_FOR_GATES:
            if key in step.model_fields_set:
                hint = "A gate runs nothing, it waits for a person."
                yield study.error(
                    (*path, key), f'a gate cannot have "{key}", as step "{name}" has', hint=hint, key=True
                )
    for place, secret in enumerate(step.secrets):
        if secret in step.env:
            hint = "A secret's value comes from outside: remove it from env."
            yield study.error(
                (*path, "secrets", place), f'"{secret}" of step "{name}" is both a secret and in env', hint=hint
            )
    if step.image is not None and not _IMAGE.fullmatch(step.image):
        hint = "An image is written as [HOST/]NAME[:TAG], with a name in lower case: ghcr.io/example/train:2.1"
        yield study.error((*path, "image"), f'"image" of step "{name}" is not the name of an image', hint=hint)
    for place, pattern in enumerate(step.code):
        yield from _code(study, name, place, pattern, on_disk)


def _code(study: Study, name: str, place: int, pattern: str, on_disk: bool) -> Iterator[StudyError]:
    path = ("steps", name, "code", place)
    # Windows and POSIX alike: what leaves the folder here must not do so elsewhere.
    parts = re.split(r"[/\\]", pattern)
    if pattern.startswith(("/", "~", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", pattern):
        hint = "Code is copied with the study: give paths below the study file's folder."
        yield study.error(path, f'"code" of step "{name}" leads out of the study\'s folder', hint=hint)
        return
    if "\0" in pattern:
        yield study.error(path, f'"code" of step "{name}" holds a NUL character')
        return
    if not on_disk:
        return
    try:
        found = next(iter(study.folder.glob(pattern)), None)
    except (ValueError, NotImplementedError, OSError) as error:
        yield study.error(path, f'"code" of step "{name}" is not a pattern of files: {error}')
        return
    if found is None:
        hint = f"Paths are relative to the study file's folder, {study.folder}."
        said = "matches no file" if any(sign in pattern for sign in "*?[") else "does not exist"
        yield study.error(path, f'"code" of step "{name}": {pattern} {said}', hint=hint)


def _edges(study: Study, problems: Problems) -> Iterator[StudyError]:
    """Needs that lead nowhere."""
    for name, step in study.steps.items():
        others = [other for other in study.steps if other != name]
        wanted: list[tuple[tuple[str | int, ...], str]] = [
            (("needs", place), need) for place, need in enumerate(step.needs)
        ]
        if step.for_each is not None:
            wanted.append((("for_each",), step.for_each))
        for where, need in wanted:
            path = ("steps", name, *where)
            error = None
            if need == name:
                error = study.error(path, f'step "{name}" needs itself', hint="Name another step, or remove it.")
            elif need not in study.steps:
                hint = did_you_mean(need, others, "Other steps") or "There is no other step."
                error = study.error(path, f'step "{name}" needs "{need}", which is no step', hint=hint)
            elif where[0] == "needs" and need == step.for_each:
                hint = "Leave it out of needs: for_each gives it already, as {inputs." + need + "}."
                error = study.error(path, f'step "{name}" names "{need}" in needs and in for_each', hint=hint)
            if error is not None:
                problems.add(error)
                yield error


def _cycle(study: Study, problems: Problems) -> bool:
    """Add the first circle of steps that need each other, if there is one."""
    state: dict[str, int] = {}
    for start in study.steps:
        # Depth first without recursion: 1 while on the path, 2 when done.
        path: list[tuple[str, Iterator[str]]] = []
        if start not in state:
            path.append((start, iter(needed_steps(study.steps[start]))))
            state[start] = 1
        while path:
            need = next(path[-1][1], None)
            if need is None:
                state[path.pop()[0]] = 2
            elif state.get(need) == 1:
                names = [name for name, _ in path]
                circle = [*names[names.index(need) :], need]
                key = "for_each" if study.steps[circle[-2]].for_each == need else "needs"
                message = f"steps need each other in a circle: {' -> '.join(circle)}"
                problems.add(
                    study.error(("steps", circle[-2], key), message, hint="Remove one of these needs.", key=True)
                )
                return True
            elif need not in state:
                state[need] = 1
                path.append((need, iter(needed_steps(study.steps[need]))))
    return False
