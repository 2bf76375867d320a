"""What the API server, or the way to it, may answer instead of doing what was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import ShoalError

__all__ = [
    "AlreadyExists", "ApiError", "Asked", "Busy", "Conflict", "Denied", "Expired", "Forbidden", "Invalid", "NotFound",
    "QuotaExceeded", "ServerFault", "Unauthorized", "Unreachable", "error_of",
]  # fmt: skip

_LONGEST = 600
# How admission says no, and how the authorizer does.
_RULED = re.compile(r"is forbidden: (.*)")
_RIGHTS = re.compile(r" cannot |attempting to grant")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: verb, resource (``jobs.batch``, ``pods/log``), and where.

    Attributes:
        server: address of the server and where the login is from, for errors.
    """

    verb: str
    resource: str
    namespace: str | None = None
    name: str | None = None
    server: str = ""

    def __str__(self) -> str:
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{f' {self.name}' if self.name else ''}{where}"


class ApiError(ShoalError):
    """Something that was asked of the API was not done.

    Attributes:
        asked: what.
        status: the HTTP status, 0 where there was no answer.
        said: the server's own words.
    """

    def __init__(self, message: str, asked: Asked, *, status: int = 0, said: str = "", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.asked = asked
        self.status = status
        self.said = said


class Unreachable(ApiError):
    """There was no answer: no network, no server, a broken connection, or a certificate that is not trusted."""

    exit_code = 2


class Unauthorized(ApiError):
    """The server does not accept the login (401)."""

    exit_code = 2


class Forbidden(ApiError):
    """The login may not do this, or admission does not let it (403)."""

    exit_code = 2


class QuotaExceeded(Forbidden):
    """A ResourceQuota has no room for it (403)."""


class Denied(ApiError):
    """A rule of the platform (an admission webhook or policy) refused it."""

    exit_code = 2


class NotFound(ApiError):
    """There is no such object, or no such namespace (404)."""


class AlreadyExists(ApiError):
    """An object of this name is there (409)."""


class Conflict(ApiError):
    """The object has changed meanwhile, or somebody else owns a field of it (409)."""


class Expired(ApiError):
    """The version that a watch or a list was to go on from is too old (410): list anew."""


class Invalid(ApiError):
    """The server cannot take the object as it is (400, 413, 422)."""

    exit_code = 2


class Busy(ApiError):
    """The server asked to wait (429), for longer than the client was willing to."""


class ServerFault(ApiError):
    """The server could not do it (5xx), however often it was asked."""


def error_of(
    status: int, body: Mapping[str, Any], asked: Asked, *, expired: str | None = None, renew: str | None = None
) -> ApiError:
    """The error of an answer.

    Args:
        status: HTTP status, or the code of a ``Status`` object.
        body: the ``Status`` object, or anything else.
        asked: what had been asked for.
        expired: what is known to have expired of the login.
        renew: how to renew the login.
    """
    said = " ".join(str(body.get("message") or "").split())[:_LONGEST]
    reason = str(body.get("reason") or "")

    def made(kind: type[ApiError], message: str, hint: str | None = None) -> ApiError:
        return kind(message, asked, status=status, said=said, hint=hint)

    if status == 401:
        return made(
            Unauthorized,
            f"{asked.server}: the server does not accept the login: {expired or said or 'unauthorized'}",
            renew or "Log in anew; kubectl get pods has to work.",
        )
    if "admission webhook" in said or "ValidatingAdmissionPolicy" in said:
        found = re.search(r"denied (?:the )?request: (.*)", said)
        return made(Denied, f"the platform refuses to {asked}: {found[1] if found else said}")
    if status == 403:
        if "exceeded quota" in said:
            return made(
                QuotaExceeded,
                f"no quota is left to {asked}: {said[said.index('exceeded quota') :]}",
                "kubectl describe quota shows what is used; the namespace's admins or the platform can raise it.",
            )
        if (rule := _RULED.search(said)) is not None and _RIGHTS.search(said) is None:
            # Not for want of rights: limits of the namespace, its pod security, a name that does not exist; or, for a moment,
            # a server that has just started and does not know these yet.
            hint = "In the cluster file: security: {user: 1000, group: 1000, fs_group: 1000}."
            insecure = "runAsNonRoot" in said or "runAsUser" in said
            return made(Forbidden, f"the platform refuses to {asked}: {rule[1]}", hint if insecure else None)
        return made(Forbidden, f"this login may not {asked}" + (f": {said}" if said else ""))
    if status == 404:
        return made(NotFound, f"cannot {asked}: {said or 'not found'}")
    if status == 409:
        return made(AlreadyExists if reason == "AlreadyExists" else Conflict, f"cannot {asked}: {said}")
    if status == 410 or reason == "Expired":
        return made(Expired, f"cannot {asked}: {said or 'too old'}")
    if status in (400, 413, 415, 422):
        return made(Invalid, f"the server cannot {asked}: {said or f'status {status}'}")
    if status == 429:
        return made(Busy, f"{asked.server}: the server is busy and asks to come back later")
    return made(ServerFault, f"the server failed to {asked} (status {status})" + (f": {said}" if said else ""))
