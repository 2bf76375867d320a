"""From a name to a checked `Cluster`: where its file is looked for, what it extends, and mistakes with their place."""

from __future__ import annotations

import difflib
import os
import re
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from shoal.clusters.schema import Cluster
from shoal.errors import StudyError, UsageError
from shoal.study.merge import merge, without
from shoal.study.origin import Origin
from shoal.study.problems import Problems, did_you_mean
from shoal.study.source import Source
from shoal.study.yaml import Mapping, Scalar, parse, plain

__all__ = ["Places", "cluster_places", "known_clusters", "load_cluster", "parse_cluster", "read_tree"]

_SUFFIX = ".yaml"
_TAKEN = ("/", "/dev", "/dev/shm", "/etc", "/proc", "/shoal-agent", "/shoal-work", "/sys", "/usr")
_BUILT_IN = Path(__file__).parent

Places = list[tuple[str, Path]]
"""Folders in the order in which they are looked through, each with what people call it."""


def cluster_places(beside: Path | None = None) -> Places:
    """Where cluster files are looked for, first to last.

    Args:
        beside: the study file's folder.
    """
    places: Places = []
    if beside is not None:
        places.append(("beside the study", beside / "clusters"))
    base = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(base) if base and Path(base).is_absolute() else Path.home() / ".config"
    places.append(("yours", config / "shoal" / "clusters"))
    places.append(("comes with Shoal", _BUILT_IN))
    return places


def known_clusters(places: Places) -> dict[str, tuple[str, Path]]:
    """Names of the clusters in these places: where each is found first, and its file."""
    found: dict[str, tuple[str, Path]] = {}
    for where, folder in places:
        try:
            files = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX and path.is_file())
        except OSError:
            continue
        for path in files:
            found.setdefault(path.stem, (where, path))
    return found


def load_cluster(name: str, *, beside: Path | None = None) -> Cluster:
    """Find, read and check a cluster file.

    Args:
        name: a name such as ``nautilus``, or the path of a file (with a ``/`` or ``.yaml`` in it).
        beside: the study file's folder: its ``clusters/`` is looked through first.

    Raises:
        UsageError: there is no cluster of that name.
        StudyError: its file has mistakes; with their places.
    """
    places = cluster_places(beside)
    if "/" in name or name.endswith((_SUFFIX, ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"--on {name}: there is no such file", hint=_where(places))
    else:
        known = known_clusters(places)
        if name not in known:
            near = difflib.get_close_matches(name, [*known, "local", "debug"], n=1)
            said = f"Did you mean {near[0]}? " if near else ""
            raise UsageError(
                f"--on {name}: there is no such place to run",
                hint=f"{said}local and debug run on this machine. Clusters: {', '.join(sorted(known))}. {_where(places)}",
            )
        path = known[name][1]
    return _load(Source.read(path, _shown(path)), path, places)


def parse_cluster(text: str, file: str = "<string>", *, beside: Path | None = None) -> Cluster:
    """Check the text of a cluster file; ``file`` is its name in errors.

    Raises:
        StudyError: as `load_cluster`.
    """
    return _load(Source(file, text), Path(file), cluster_places(beside))


def read_tree(source: Source, what: str) -> Mapping:
    """The tree of a file that has to be a mapping; ``what`` is what people call such a file.

    Raises:
        StudyError: it is not sound YAML, empty, or something else.
    """
    try:
        node = parse(source)
    except StudyError as error:
        message = error.message.replace("a study file", f"a {what}").replace("one study", f"one {what}")
        hint = error.hint and error.hint.replace("One file holds one study", f"One file holds one {what}")
        raise StudyError(message, mark=error.mark, hint=hint, line_text=error.line_text) from None
    if node is None or (isinstance(node, Scalar) and node.value is None):
        raise StudyError(f"{source.name}: the file is empty")
    if not isinstance(node, Mapping):
        raise source.error(node.mark, f"a {what} is a mapping of keys to values")
    return node


def _where(places: Places) -> str:
    folders = [_shown(folder) for where, folder in places if where != "comes with Shoal"]
    return f"Put a cluster file of your own, NAME.yaml, into {' or '.join(reversed(folders))}."


def _shown(path: Path) -> str:
    # Relative to here or to home where that is shorter to read.
    for base, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        try:
            return f"{prefix}{path.absolute().relative_to(base)}"
        except ValueError:
            continue
    return str(path)


def _load(source: Source, path: Path, places: Places) -> Cluster:
    tree, files = _extended(source, path, places, [])
    origin = Origin(tree, path, path.parent, None)
    try:
        cluster = Cluster.model_validate(plain(tree))
    except ValidationError as error:
        problems = Problems()
        for detail in error.errors(include_url=False):
            problems.add(_explained(detail, origin))
        problems.raise_any()
        raise AssertionError from error
    problems = Problems()
    _check(cluster, origin, problems)
    problems.raise_any()
    cluster._name = path.stem
    cluster._files = tuple(files)
    return cluster


def _extended(source: Source, path: Path, places: Places, chain: list[Path]) -> tuple[Mapping, list[str]]:
    own = read_tree(source, "cluster file")
    node = own.items.get("extends")
    if node is None or (isinstance(node, Scalar) and node.value is None):
        return own, [source.name]
    mark = node.mark
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise source.error(mark, '"extends" must be the name of a cluster, for example nautilus')
    here = [*chain, _real(path)]
    base: Path | None = None
    for _, folder in places:
        candidate = folder / f"{node.value}{_SUFFIX}"
        # A file may extend the one of its own name that it hides: the next in order.
        if candidate.is_file() and _real(candidate) not in here:
            base = candidate
            break
    if base is None:
        known = known_clusters(places)
        if node.value in known:
            raise source.error(mark, f'"extends": {node.value} extends itself')
        hint = did_you_mean(node.value, known, "Clusters")
        raise source.error(mark, f'"extends": there is no cluster "{node.value}"', hint=hint)
    below, files = _extended(Source.read(base, _shown(base)), base, places, here)
    return merge(below, without(own, "extends")), [source.name, *files]


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _explained(detail: Any, origin: Origin) -> StudyError:
    path = tuple(detail["loc"])
    of = f" of {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else ""
    name = path[-1] if path else "the file"
    if detail["type"] == "shoal":
        context = detail["ctx"]
        # A name that cannot be one is the culprit itself, not what it stands for.
        named = f" {context['message']}".startswith(" holds ")
        message = f'"{name}"{of} {context["message"]}'
        return origin.error((*path, *context["at"]), message, hint=context["hint"], key=named)
    if detail["type"] == "extra_forbidden":
        inside = f" in {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else ""
        hint = did_you_mean(str(name), _keys(path[:-1]), "It can hold")
        return origin.error(path, f'unknown key "{name}"{inside}', hint=hint, key=True)
    if detail["type"] == "missing":
        return origin.error(path[:-1], f'"{name}"{of} is missing', key=True)
    what = {"tuple_type": "a list", "dict_type": "a mapping"}.get(detail["type"], "a mapping")
    return origin.error(path, f'"{name}"{of} must be {what}')


def _keys(path: tuple[str | int, ...]) -> list[str]:
    """The keys that may stand at a path."""
    kind: Any = Cluster
    for part in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if part not in kind.model_fields:
                return []
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = typing.get_args(kind)[1 if typing.get_origin(kind) is dict else 0]
        if isinstance(kind, types.UnionType):
            kind = next(one for one in typing.get_args(kind) if one is not type(None))
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _check(cluster: Cluster, origin: Origin, problems: Problems) -> None:
    """What only the whole shows."""
    from shoal.clusters.rules import RULES

    store = cluster.store
    if store is not None and (store.claim is None) == (store.s3 is None):
        said = "names both a claim and a bucket" if store.claim else "names neither a claim nor a bucket"
        problems.add(origin.error(("store",), f'"store" {said}', hint="For example store: {claim: my-claim}", key=True))
    if store is not None and store.s3 is not None and store.secret is None:
        hint = (
            "secret: NAME, made by: kubectl create secret generic NAME --from-literal=AWS_ACCESS_KEY_ID=... "
            "--from-literal=AWS_SECRET_ACCESS_KEY=..."
        )
        problems.add(origin.error(("store",), "a store in a bucket needs the Secret that holds its keys", hint=hint))
    if store is not None and store.endpoint is not None and not re.match(r"https?://[^/]+", store.endpoint):
        problems.add(
            origin.error(("store", "endpoint"), "is no address", hint="For example endpoint: https://s3.example.org")
        )
    mounts: dict[str, str] = {}
    places = [("store", store.path)] if store is not None and store.claim else []
    places += [(f"volume {volume.claim}", volume.path) for volume in cluster.volumes]
    for number, (owner, place) in enumerate(places):
        if place in mounts or place in _TAKEN:
            taken = mounts.get(place, "the pod itself")
            at = (
                ("store",)
                if owner == "store"
                else ("volumes", number - (store is not None and store.claim is not None))
            )
            problems.add(origin.error(at, f"{place} is taken by {taken}", hint="Mount it somewhere else."))
        mounts[place] = owner
    for name, gpu in cluster.gpus.items():
        if gpu.resource is None and not gpu.products:
            problems.add(
                origin.error(
                    ("gpus", name),
                    f'GPU type "{name}" says neither how to ask for it (resource) nor what nodes call it (products)',
                    key=True,
                )
            )
        if gpu.quota == "priority" and gpu.priority_class is None:
            problems.add(
                origin.error(("gpus", name), f'GPU type "{name}" needs priority_class, as its quota is "priority"')
            )
    for number, name in enumerate(cluster.reserved):
        if name not in cluster.gpus:
            hint = did_you_mean(name, cluster.gpus, "Types")
            problems.add(origin.error(("reserved", number), f'there is no GPU type "{name}"', hint=hint))
    for name, policy in cluster.policies.items():
        if policy.check == "plan" and name not in RULES:
            problems.add(
                origin.error(
                    ("policies", name),
                    f'no check is known for the policy "{name}"',
                    hint=did_you_mean(name, RULES, "Checks") + "  A rule for people to keep has check: people.",
                    key=True,
                )
            )
