"""From a study file to a checked `Study`: extends, profile, ``--set``, defaults, the models, and what only the whole shows."""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from shoal.errors import StudyError
from shoal.study import overrides as sets
from shoal.study.check import check
from shoal.study.explain import explain
from shoal.study.merge import merge, normalised, rebuilt, without
from shoal.study.origin import Origin
from shoal.study.problems import Problems, StudyErrors, did_you_mean
from shoal.study.ranges import spread
from shoal.study.schema import Study
from shoal.study.source import Source
from shoal.study.yaml import Mapping, Node, Scalar, parse, plain
from shoal.study.yaml import Sequence as YamlList

__all__ = ["load_study", "parse_study"]

_MOST_FILES = 50


def load_study(path: str | Path, *, profile: str | None = None, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    What wins, from last to first: ``overrides``, the profile, the file, the files it extends. The step's own words win over
    ``defaults``. Without a profile and overrides, every profile of the file is checked as well.

    Args:
        path: the study file.
        profile: name of one of its profiles.
        overrides: ``path=value`` each, as ``--set`` on the command line takes them.

    Raises:
        StudyError: the file cannot be read or has mistakes; all of those that were found, as `StudyErrors` if several.
    """
    file = Path(path)
    name = os.path.normpath(path)
    return _load(Source.read(file, name), file, file.parent, profile, overrides)


def parse_study(
    text: str,
    file: str = "<string>",
    *,
    folder: str | Path = ".",
    profile: str | None = None,
    overrides: Sequence[str] = (),
) -> Study:
    """Check the text of a study; ``file`` is its name in errors, ``folder`` what its paths are relative to.

    Whether the files that ``code`` names exist is left open.

    Raises:
        StudyError: as `load_study`.
    """
    return _load(Source(file, text), None, Path(folder), profile, overrides)


def _load(source: Source, file: Path | None, folder: Path, profile: str | None, overrides: Sequence[str]) -> Study:
    tree = _extended(source, folder, [_real(file)] if file else [], [1])
    profiles = tree.items.get("profiles")
    chosen = tree if profile is None else _with_profile(tree, profiles, profile, source)
    for override in overrides:
        chosen = sets.apply(chosen, override)
    problems = Problems()
    study = _checked(chosen, file, folder, profile, problems, changed=profile is not None or bool(overrides))
    problems.raise_any()
    assert study is not None
    if profile is None and not overrides and isinstance(profiles, Mapping):
        _check_profiles(tree, profiles, file, folder, source, problems)
        problems.raise_any()
    return study


def _real(path: Path) -> Path:
    # Not Path.resolve: that raises RuntimeError for a loop of links.
    return Path(os.path.realpath(path))


def _top(source: Source) -> Mapping:
    """The tree of one file, which must be a mapping."""
    node = parse(source)
    if isinstance(node, Mapping) and node.items:
        return normalised(node)
    example = 'A study file starts with "study: NAME", and has "steps:".'
    if node is None or (isinstance(node, Scalar) and node.value is None) or isinstance(node, Mapping):
        raise StudyError(f"{source.name}: the file is empty", hint=example)
    what = "a list" if isinstance(node, YamlList) else "a single value"
    raise source.error(node.mark, f"a study file is a mapping of keys to values, and this is {what}", hint=example)


def _extended(source: Source, folder: Path, chain: list[Path], count: list[int]) -> Mapping:
    """The file's tree, laid over those of the files it extends."""
    own = _top(source)
    node = own.items.get("extends")
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return own
    below: Mapping | None = None
    for one in node.items if isinstance(node, YamlList) else (node,):
        if not isinstance(one, Scalar) or not isinstance(one.value, str) or not one.value.strip():
            raise source.error(one.mark, '"extends" must be the path of a study file, or a list of them')
        name = os.path.normpath(os.path.join(os.path.dirname(source.name), one.value))  # noqa: PTH120
        path = folder / one.value
        try:
            real = _real(path)
            if real in chain:
                circle = " -> ".join(
                    os.path.relpath(step, chain[0].parent) for step in [*chain[chain.index(real) :], real]
                )
                raise source.error(
                    one.mark, f"these files extend each other: {circle}", hint="Remove one of the extends."
                )
            count[0] += 1
            if count[0] > _MOST_FILES:
                raise source.error(one.mark, f"more than {_MOST_FILES} files extend each other")
            base = Source.read(path, name)
        except (StudyError, ValueError, OSError) as error:
            if isinstance(error, StudyError) and error.mark is not None:
                raise
            said = error.message if isinstance(error, StudyError) else f"{name!r}: cannot be read: {error}"
            hint = error.hint if isinstance(error, StudyError) else None
            raise source.error(one.mark, f'"extends": {said}', hint=hint) from None
        tree = _extended(base, path.parent, [*chain, real], count)
        below = tree if below is None else merge(below, tree)
    return without(own if below is None else merge(below, own), "extends")


def _with_profile(tree: Mapping, profiles: Node | None, name: str, source: Source) -> Mapping:
    """The study with a profile laid over it."""
    known = list(profiles.items) if isinstance(profiles, Mapping) else []
    if not isinstance(profiles, Mapping) or name not in known:
        hint = did_you_mean(name, known, "Its profiles") or 'It has no "profiles".'
        raise StudyError(f'{source.name}: there is no profile "{name}"', hint=hint)
    changes = profiles.items[name]
    if not isinstance(changes, Mapping):
        return tree  # the models tell
    for key in ("extends", "profiles"):
        if key in changes.items:
            mark, written = changes.keys[key]
            raise written.error(mark, f'a profile cannot hold "{key}"', hint="Put it at the top of a study file.")
    return merge(tree, changes)


def _check_profiles(
    tree: Mapping, profiles: Mapping, file: Path | None, folder: Path, source: Source, problems: Problems
) -> None:
    """A study that loads, loads with each of its profiles."""
    for name in profiles.items:
        found = Problems()
        try:
            _checked(_with_profile(tree, profiles, name, source), file, folder, name, found, changed=True)
            found.raise_any()
        except StudyError as error:
            for one in error.errors if isinstance(error, StudyErrors) else (error,):
                message = f"with the profile {name}: {one.message}"
                problems.add(StudyError(message, mark=one.mark, hint=one.hint, line_text=one.line_text))


def _checked(
    tree: Mapping, file: Path | None, folder: Path, profile: str | None, problems: Problems, *, changed: bool
) -> Study | None:
    """The study of a tree, if it has no problems; ``changed`` by a profile or overrides."""
    tree = spread(_with_defaults(tree))
    origin = Origin(tree, file, folder, profile, changed)
    try:
        study = Study.model_validate(plain(tree))
    except ValidationError as error:
        explain(error, origin, problems)
        return None
    study._origin = origin
    check(study, problems, on_disk=file is not None)
    return study


def _with_defaults(tree: Mapping) -> Mapping:
    """The defaults laid under every step that runs something."""
    defaults, steps = tree.items.get("defaults"), tree.items.get("steps")
    if not isinstance(defaults, Mapping) or not isinstance(steps, Mapping):
        return tree
    merged: dict[str, Node] = {}
    for name, step in steps.items.items():
        merged[name] = step
        if isinstance(step, Mapping) and "gate" not in step.items:
            whole = merge(defaults, step, first=False)
            merged[name] = Mapping(whole.items, whole.keys, step.mark, step.source, 0, 0)
    return rebuilt(tree, {**tree.items, "steps": rebuilt(steps, merged)})
