"""The verbs: list, get, create, apply, patch, delete, watch, logs."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shoal.executors.kubernetes.client.connection import Connection, Stream
from shoal.executors.kubernetes.client.errors import Asked, Expired, error_of
from shoal.executors.kubernetes.client.execute import PROTOCOLS, Execution
from shoal.executors.kubernetes.client.resources import ACCESS_REVIEWS, PODS, Resource, of_kind
from shoal.executors.kubernetes.login import Login, find_login

__all__ = ["Client", "Listed", "Object", "Watch", "connect"]

Object = dict[str, Any]

_PAGE = 500
_MANAGER = "shoal"


@dataclass(frozen=True, slots=True)
class Listed:
    """A list as it was at one moment.

    Attributes:
        items: the objects.
        version: where a watch goes on from.
    """

    items: list[Any]
    version: str


class Watch:
    """Changes from a version on. Iterate over it; ``cancel`` ends it from another thread.

    Attributes:
        version: the version reached so far: where the next watch goes on from.
    """

    def __init__(self, stream: Stream, version: str, asked: Asked) -> None:
        self._stream = stream
        self._asked = asked
        self.version = version

    def __iter__(self) -> Iterator[tuple[str, Object]]:
        """Yield ``ADDED``, ``MODIFIED`` or ``DELETED`` with the object; it ends when the server says so.

        Raises:
            Expired: the version is too old; list anew.
            ApiError: anything else that the server says instead.
            Unreachable: the connection broke, or was silent for too long.
        """
        rest = b""
        for chunk in self._stream.chunks():
            lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
            rest = lines.pop()
            for line in lines:
                if not line.strip():
                    continue
                event = json.loads(line)
                kind, found = event["type"], event["object"]
                if kind == "ERROR":
                    raise error_of(int(found.get("code") or 500), found, self._asked)
                self.version = found["metadata"]["resourceVersion"]
                if kind != "BOOKMARK":
                    yield kind, found

    def cancel(self) -> None:
        """End it."""
        self._stream.cancel()


class Client:
    """Talks to one API server about one namespace.

    Args:
        login: where, and as whom.
        namespace: default: the login's.
        patience: for how many seconds what passes by itself is tried again.
        terminal: whether a login plugin may ask a person.
    """

    def __init__(
        self, login: Login, *, namespace: str | None = None, patience: float = 60.0, terminal: bool | None = None
    ) -> None:
        self.connection = Connection(login, patience=patience, terminal=terminal)
        self.namespace = namespace or login.namespace
        self._server = f"{login.server.url} ({login.said})"

    @property
    def requests(self) -> int:
        """How many requests were sent so far."""
        return self.connection.requests

    def with_patience(self, seconds: float) -> Client:
        """The same client for somebody less or more patient."""
        made = copy.copy(self)
        made.connection = self.connection.with_patience(seconds)
        return made

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    # All of these raise ApiError, of the class that fits, and LoginError.

    def version(self) -> tuple[int, int]:
        """The server's version: major and minor."""
        found = self.connection.send("GET", "/version", Asked("get", "version", server=self._server))
        digits = [int("".join(filter(str.isdigit, str(found.get(part) or 0))) or 0) for part in ("major", "minor")]
        return digits[0], digits[1]

    def get(self, resource: Resource, name: str) -> Object:
        """One object."""
        asked = self._asked("get", resource, name)
        return self.connection.send("GET", self._path(resource, name), asked)

    def list(
        self,
        resource: Resource,
        *,
        selector: str | None = None,
        fields: str | None = None,
        keep: Callable[[Object], Any] = lambda one: one,
        page: int = _PAGE,
    ) -> Listed:
        """All objects that match, as they are now, read in pages.

        Args:
            resource: of what kind.
            selector: by label.
            fields: by field.
            keep: what to keep of each object, applied as pages arrive.
            page: how many at once.
        """
        asked = self._asked("list", resource)
        for limit in (page, page, None):
            items: list[Any] = []
            more: str | None = None
            try:
                while True:
                    params = {"labelSelector": selector, "fieldSelector": fields, "limit": limit, "continue": more}
                    body = self.connection.send("GET", self._path(resource), asked, params=params)
                    items += map(keep, body.get("items") or ())
                    more = body["metadata"].get("continue") or None
                    if more is None:
                        return Listed(items, str(body["metadata"].get("resourceVersion") or ""))
            except Expired:
                # The pages of a list go on for some minutes only: begin again, at last all at once.
                if limit is None:
                    raise
        raise AssertionError

    def watch(self, resource: Resource, version: str, *, selector: str | None = None, seconds: int = 300) -> _Opening:
        """Changes since a version, as a context manager that gives a `Watch`.

        Args:
            resource: of what kind.
            version: as of a list, or of an earlier watch.
            selector: by label.
            seconds: the server ends it after so long.
        """
        asked = self._asked("watch", resource)
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
            "labelSelector": selector,
        }
        return _Opening(self.connection, self._path(resource), asked, params, version)

    def create(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """Make an object; the server refuses fields that it does not know.

        Raises:
            AlreadyExists: maybe by an earlier try of this very call.
        """
        resource = of_kind(manifest["apiVersion"], manifest["kind"])
        asked = self._asked("create", resource, manifest["metadata"].get("name"))
        params = {"fieldManager": _MANAGER, "fieldValidation": "Strict", "dryRun": "All" if dry_run else None}
        return self.connection.send("POST", self._path(resource), asked, params=params, json=manifest)

    def apply(self, manifest: Mapping[str, Any], *, force: bool = True) -> Object:
        """Make an object be as described, by server-side apply."""
        resource = of_kind(manifest["apiVersion"], manifest["kind"])
        name = manifest["metadata"]["name"]
        params = {"fieldManager": _MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
        return self.connection.send(
            "PATCH",
            self._path(resource, name),
            self._asked("patch", resource, name),
            params=params,
            json=manifest,
            content_type="application/apply-patch+yaml",
        )

    def patch(self, resource: Resource, name: str, changes: Mapping[str, Any]) -> Object:
        """Change parts of an object (JSON merge patch)."""
        asked = self._asked("patch", resource, name)
        params = {"fieldManager": _MANAGER}
        return self.connection.send(
            "PATCH",
            self._path(resource, name),
            asked,
            params=params,
            json=changes,
            content_type="application/merge-patch+json",
        )

    def delete(self, resource: Resource, name: str, *, grace: int | None = None, uid: str | None = None) -> None:
        """Delete an object, and in the background what it owns.

        Args:
            resource: of what kind.
            name: its name.
            grace: seconds instead of the object's own.
            uid: only if it is still this very object.
        """
        asked = self._asked("delete", resource, name)
        self.connection.send("DELETE", self._path(resource, name), asked, json=_deletion(grace, uid))

    def delete_all(self, resource: Resource, selector: str, *, grace: int | None = None) -> None:
        """Delete all objects that match, and in the background what they own."""
        if not selector:
            raise ValueError("a selector is needed: nothing else may be deleted")
        asked = self._asked("deletecollection", resource)
        params = {"labelSelector": selector}
        self.connection.send("DELETE", self._path(resource), asked, params=params, json=_deletion(grace, None))

    def logs(
        self,
        pod: str,
        *,
        container: str | None = None,
        follow: bool = False,
        tail: int | None = None,
        most: int | None = None,
    ) -> Iterator[bytes]:
        """What a pod's container printed, as it comes.

        Args:
            pod: its name.
            container: needed where there are several.
            follow: go on until the container ends.
            tail: only the last so many lines.
            most: at most so many bytes.
        """
        asked = self._asked("get", PODS, pod, "log")
        params = {
            "container": container,
            "follow": "true" if follow else None,
            "tailLines": tail,
            "limitBytes": most,
        }
        path = self._path(PODS, pod, "log")
        # A task may print nothing for hours; a broken connection is noticed by whoever asks what became of the pod.
        with self.connection.stream(path, asked, params=params, silence=3600.0 if follow else 60.0) as stream:
            yield from stream.chunks()

    def execute(
        self, pod: str, command: Sequence[str], *, container: str | None = None, stdin: bool = False
    ) -> Execution:
        """Start a command in a running container; its output is read as it comes, as a context manager.

        Args:
            pod: its name.
            command: exact words.
            container: needed where there are several.
            stdin: whether something will be sent to it.

        Raises:
            ApiError, LoginError: it cannot be started.
        """
        asked = self._asked("get", PODS, pod, "exec")
        params = [("command", word) for word in command] + [("stdout", "true"), ("stderr", "true")]
        params += [("container", container)] if container is not None else []
        params += [("stdin", "true")] if stdin else []
        return Execution(
            self.connection.socket(self._path(PODS, pod, "exec"), asked, params=params, protocols=PROTOCOLS), asked
        )

    def allowed(self, verb: str, resource: Resource, sub: str | None = None) -> bool:
        """Whether this login may do something in the namespace."""
        wanted = {"verb": verb, "group": resource.group, "resource": resource.plural}
        if resource.namespaced:
            wanted["namespace"] = self.namespace
        if sub is not None:
            wanted["subresource"] = sub
        review = self.review(ACCESS_REVIEWS, {"resourceAttributes": wanted})
        return bool((review.get("status") or {}).get("allowed"))

    def review(self, resource: Resource, spec: Mapping[str, Any]) -> Object:
        """Ask a question by an object that is not kept, such as a review of one's rights."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
        return self.connection.send("POST", self._path(resource), self._asked("create", resource), json=body)

    def _path(self, resource: Resource, name: str | None = None, sub: str | None = None) -> str:
        return resource.path(self.namespace, name, sub)

    def _asked(self, verb: str, resource: Resource, name: str | None = None, sub: str | None = None) -> Asked:
        said = f"{resource.said}/{sub}" if sub else resource.said
        return Asked(verb, said, self.namespace if resource.namespaced else None, name, self._server)


class _Opening:
    """A watch to be opened: a context manager."""

    def __init__(
        self, connection: Connection, path: str, asked: Asked, params: Mapping[str, Any], version: str
    ) -> None:
        # Bookmarks come about once a minute, so a longer silence means that nobody is there any more.
        self._opening = connection.stream(path, asked, params=params, silence=90.0)
        self._asked, self._version = asked, version

    def __enter__(self) -> Watch:
        return Watch(self._opening.__enter__(), self._version, self._asked)

    def __exit__(self, *error: Any) -> bool | None:
        return self._opening.__exit__(*error)


def _deletion(grace: int | None, uid: str | None) -> Object:
    body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
    if grace is not None:
        body["gracePeriodSeconds"] = grace
    if uid is not None:
        body["preconditions"] = {"uid": uid}
    return body


def connect(
    context: str | None = None,
    namespace: str | None = None,
    *,
    patience: float = 60.0,
    terminal: bool | None = None,
) -> Client:
    """A client for the login that kubectl would use here.

    Args:
        context: name of a context of the kubeconfig; default: the current one.
        namespace: default: the context's own.
        patience: for how many seconds what passes by itself is tried again.
        terminal: whether a login plugin may ask a person.

    Raises:
        LoginError: there is no login, or it cannot be used.
    """
    return Client(find_login(context), namespace=namespace, patience=patience, terminal=terminal)
