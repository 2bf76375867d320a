"""What the models object to, in a researcher's words and at its place in the file."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from shoal.errors import StudyError
from shoal.study.origin import Origin
from shoal.study.problems import Problems, did_you_mean, nearest, quoted
from shoal.study.schema import Report, Resources, Step, Study, model_at, owner
from shoal.study.synonyms import synonym
from shoal.study.values import show
from shoal.study.yaml import Mapping, Node, Scalar

__all__ = ["explain"]

_Path = tuple[str | int, ...]
_EXAMPLES = {
    "study": "Start the file with study: NAME, for example study: burned-area",
    "steps": "A study has at least one step, for example steps: {train: {run: python train.py}}",
    "metric": "Name the metric that the trials are compared by, for example metric: val/iou",
    "goal": "Say whether more of the metric is better: goal: max, or goal: min",
    "over": "Name the axis of which the best value is kept, for example over: lr",
}


def explain(error: ValidationError, origin: Origin, problems: Problems) -> None:
    """Add what the models object to, each at its place."""
    for detail in error.errors(include_url=False):
        path: _Path = detail["loc"]
        of = _of(path)
        if detail["type"] == "shoal":
            found = _refused(path, of, detail["ctx"], origin)
        elif detail["type"] == "extra_forbidden":
            found = _unknown_key(path, of, origin)
        elif detail["type"] == "missing":
            name = str(path[-1])
            found = origin.error(path[:-1], f'"{name}"{of} is missing', hint=_EXAMPLES.get(name), key=True)
        else:
            found = _shape(path, of, detail["input"], origin)
        # The same mistake in every step is one in the defaults: whose it is makes no difference to it.
        problems.add(found, found.message.replace(owner(path[:-1]), "") if path else None)


def _of(path: _Path) -> str:
    whose = owner(path[:-1])
    return "" if whose == "the study" else f" of {whose}"


def _refused(path: _Path, of: str, context: dict[str, Any], origin: Origin) -> StudyError:
    inner: _Path = context["at"]
    message = f'"{path[-1]}"{of} {context["message"]}'
    # A name that cannot be one is the culprit itself, not what it stands for.
    names = bool(inner) and isinstance(inner[-1], str) and " holds " in f" {context['message']}"
    hint = context["hint"]
    written = origin.node((*path, *inner))
    if isinstance(written, Mapping) and len(written.items) == 1 and all(map(_empty, written.items.values())):
        # `gpu: {gpus}` is a mapping to YAML.
        hint = f'A text that starts with {{ needs quotes: "{{{next(iter(written.items))}}}"'
    return origin.error((*path, *inner), message, hint=hint, key=names)


def _empty(value: Node) -> bool:
    return isinstance(value, Scalar) and value.value is None


def _unknown_key(path: _Path, of: str, origin: Origin) -> StudyError:
    """A key that does not exist: the nearest that does, or where else it belongs."""
    name = str(path[-1])
    model, _ = model_at(path[:-1])
    known = [field for field in model.model_fields if model is not Study or field != "extends"]
    message = f'unknown key "{name}"' + (f" in {owner(path[:-1])}" if of else "")
    near = nearest(name, known)
    meant = synonym(model.__name__, name)
    elsewhere = next((words for other, words in _elsewhere(model) if name in other.model_fields), None)
    if name in (near or "").replace("-", "_") or (meant is None and elsewhere is None):
        hint = did_you_mean(name, known, "It can hold")
    elif meant is not None:
        hint = f'Here that is called "{meant}".'
    else:
        hint = f'"{name}" belongs {elsewhere}.'
    if model is Step and meant is None and near is None and elsewhere is None:
        hint = f"A parameter of the step goes under matrix: matrix: {{{name}: [...]}}.  {hint}"
    return origin.error(path, message, hint=hint, key=True)


def _elsewhere(model: type[Any]) -> list[tuple[type[Any], str]]:
    if model is Step:
        return [
            (Resources, "under resources: of the step"),
            (Study, "at the top of the file"),
            (Report, "under report:"),
        ]
    if model is Study:
        return [(Step, "under a step (or under defaults:, for all steps)"), (Report, "under report:"),
                (Resources, "under resources: of a step (or of defaults:)")]  # fmt: skip
    if model is Resources:
        return [(Step, "beside resources:, in the step itself")]
    return []


def _shape(path: _Path, of: str, given: object, origin: Origin) -> StudyError:
    """Something is not the mapping or list that it has to be."""
    name = str(path[-1]) if path else "study"
    written = origin.node(path)
    model, rest = model_at(path)
    if isinstance(path[-1] if path else "", int):
        subject = f'item {int(path[-1]) + 1} of "{path[-2]}"'
    elif len(path) == 2 and path[0] == "steps":
        subject = f'step "{name}"'
    else:
        subject = f'"{name}"{of}'
    if rest == ("steps",):
        what, hint = "a mapping of step names to steps", _EXAMPLES["steps"]
    elif rest == ("tables",):
        what, hint = "a list of tables", "For example tables: [{rows: model, value: val/iou}]"
    elif rest == ("scatter",):
        what, hint = "a list of charts", "For example scatter: [{x: speed/images_per_second, y: val/iou}]"
    else:
        fields = [field for field in model.model_fields if field != "extends"]
        what, hint = "a mapping", f"It can hold: {quoted(fields)}."
    if given is None:
        return origin.error(path, f"{subject} has nothing in it", hint=hint)
    said = "a list" if isinstance(given, list) else "a mapping" if isinstance(given, dict) else show(given)
    if isinstance(written, Scalar) and isinstance(given, str) and given.rstrip().endswith(":"):
        hint = "A key needs a space or a line break after its colon."
    return origin.error(path, f"{subject} must be {what}, not {said}", hint=hint)
