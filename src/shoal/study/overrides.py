"""``--set path=value``: one value of a study changed from the command line."""

from __future__ import annotations

from shoal.errors import StudyError
from shoal.study.merge import at, rebuilt
from shoal.study.problems import did_you_mean, nearest
from shoal.study.schema import Study, model_at, owner
from shoal.study.source import Source
from shoal.study.synonyms import synonym
from shoal.study.yaml import Mapping, Node, Scalar, Sequence, parse

__all__ = ["apply"]

_NEW_NAMES = ("env",)
_HINT = "For example --set steps.train.retries=2"


def apply(tree: Mapping, override: str) -> Mapping:
    """The tree with one value replaced, added or, by null, removed.

    Args:
        tree: a study, profile applied, defaults not yet.
        override: ``path=value``: dotted keys (places of lists counted from 0), and a value in YAML.

    Raises:
        StudyError: the path leads nowhere (with the nearest that exists), or the value is not YAML.
    """
    path, sign, text = override.partition("=")
    source = Source(f"--set {override}", text, numbered=False)
    if not sign or not path.strip():
        raise StudyError(f"--set {override}: this is not path=value", hint=_HINT)
    parts = [part.strip() for part in path.split(".")]
    if not all(parts):
        raise StudyError(f"--set {override}: a name is missing in the path", hint=_HINT)
    if parts[0] in ("extends", "profiles"):
        instead = "Choose a profile by --profile." if parts[0] == "profiles" else "Write it into the study file."
        raise StudyError(f'--set {override}: "{parts[0]}" cannot be set', hint=instead)
    # As in the file, include, exclude and zip belong to the step.
    if len(parts) > 3 and parts[0] == "steps" and parts[2] == "matrix" and parts[3] in ("include", "exclude", "zip"):
        del parts[2]
    value = parse(source)
    if value is None:
        mark = source.at(0, 0)
        value = Scalar(None, mark, source, 0, 0)
    changed = _set(tree, tree, [], parts, value, source)
    assert isinstance(changed, Mapping)
    return changed


def _set(tree: Mapping, node: Node | None, done: list[str], parts: list[str], value: Node, source: Source) -> Node:
    if not parts:
        return value
    name, rest = parts[0], parts[1:]
    if isinstance(node, Sequence):
        if not name.isdecimal() or int(name) >= len(node.items):
            said = f"Its places are 0 to {len(node.items) - 1}." if len(node.items) > 1 else "Its one place is 0."
            raise _unknown(
                source, f'"{name}" is no place in the list {".".join(done)}', said if node.items else "It is empty."
            )
        items = list(node.items)
        items[int(name)] = _set(tree, items[int(name)], [*done, name], rest, value, source)
        return Sequence(tuple(items), node.mark, node.source, 0, 0)
    if node is not None and not isinstance(node, Mapping) and not (isinstance(node, Scalar) and node.value is None):
        raise _unknown(source, f'"{".".join(done)}" holds a single value, so there is no "{name}" in it', None)
    _known(tree, node, done, name, source)
    below = node.items.get(name) if isinstance(node, Mapping) else None
    made = _set(tree, below, [*done, name], rest, value, source)
    place = source.at(0, 0)
    here = Mapping({name: made}, {name: (place, source)}, place, source, 0, 0)
    if not isinstance(node, Mapping):
        return here
    items_ = dict(node.items)
    if isinstance(made, Scalar) and made.value is None:
        items_.pop(name, None)
        return rebuilt(node, items_)
    items_[name] = made
    return rebuilt(node, items_, node, here) if rest else rebuilt(node, items_, here, node)


def _known(tree: Mapping, node: Node | None, done: list[str], name: str, source: Source) -> None:
    """Refuse a name that neither the schema nor the study knows."""
    model, rest = model_at(_numbers(done))
    present = list(node.items) if isinstance(node, Mapping) else []
    if not rest:
        fields = [field for field in model.model_fields if model is not Study or field not in ("extends", "profiles")]
        if name in fields or name in present:
            return
        near = synonym(model.__name__, name) or nearest(name, fields)
        raise _unknown(source, f'there is no "{name}" in {owner(_numbers(done))}', _hint(done, name, near, fields))
    if rest[-1] in _NEW_NAMES and len(rest) == 1:
        return
    if done[:1] == ["steps"] and len(done) > 2 and isinstance(shared := at(tree, "defaults", *done[2:]), Mapping):
        present += list(shared.items)
    if name not in present:
        words = f'"{rest[-1]}" of {owner(_numbers(done))}' if done != ["steps"] else "the steps"
        raise _unknown(source, f'there is no "{name}" in {words}', _hint(done, name, nearest(name, present), present))


def _hint(done: list[str], name: str, near: str | None, known: list[str]) -> str:
    if near is not None and near in known:
        return f"Did you mean {'.'.join([*done, near])}?"
    return did_you_mean(name, known)


def _numbers(path: list[str]) -> list[str | int]:
    return [
        int(part) if part.isdecimal() and place and path[place - 1] in ("tables", "scatter") else part
        for place, part in enumerate(path)
    ]


def _unknown(source: Source, message: str, hint: str | None) -> StudyError:
    return StudyError(f"{source.name}: {message}", hint=hint)
